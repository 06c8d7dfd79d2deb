/* Products of a few tokens with ROWS rows of a weight: eight sums side by side for each, in one order on every
 * processor and whatever the number of tokens.
 */
#ifndef LORIKEET_TILES_H
#define LORIKEET_TILES_H

#include "processor.h"

#define ROWS 4        /* of W, computed together */
#define MOST_TOKENS 3 /* twelve sums that do not wait for one another are as many as fit into the registers of AVX2 */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

INLINE lanes take_fp32(const float *from) {
    lanes taken;
    memcpy(&taken, from, sizeof taken);
    return taken;
}

INLINE lanes take_bf16(const bf16 *from) {
    lanes taken;
    EACH(lane, LANES) taken[lane] = widen(from[lane]);
    return taken;
}

INLINE float total(lanes s) {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

#define ADD(TOKENS, WEIGHTS, TOKEN)                        \
    do {                                                   \
        lanes token[TOKENS];                               \
        EACH(t, TOKENS) token[t] = TOKEN;                  \
        EACH(r, ROWS) {                                    \
            lanes weights = WEIGHTS;                       \
            EACH(t, TOKENS) s[t][r] += token[t] * weights; \
        }                                                  \
    } while (0)

/* x[TOKENS, count] with w[ROWS, count]: out[TOKENS, ROWS]. What is left behind the last eight is eight with zeros.
 * AHEAD are the cache lines of the next rows to be fetched with each eight: one short row after another is not what
 * processors foresee by themselves.
 */
#define TILE(PROCESSOR, NAME, TOKENS, TYPE, TAKE, AHEAD)                                                         \
    PROCESSOR static void NAME(const float *restrict x, const TYPE *restrict w, int count, float *restrict out) { \
        size_t step = (size_t)count;                                                                             \
        const char *next = (const char *)(w + ROWS * step);                                                      \
        lanes s[TOKENS][ROWS] = {{{0}}};                                                                         \
        int k = 0;                                                                                               \
        for (; k + LANES <= count; k += LANES, next += LINE * AHEAD) {                                           \
            EACH(line, AHEAD) __builtin_prefetch(next + LINE * line);                                            \
            ADD(TOKENS, TAKE(w + r * step + k), take_fp32(x + t * step + k));                                    \
        }                                                                                                        \
        if (k < count) {                                                                                         \
            size_t left = (size_t)(count - k);                                                                   \
            TYPE last[ROWS][LANES] = {{0}};                                                                      \
            float own[TOKENS][LANES] = {{0}};                                                                    \
            EACH(r, ROWS) memcpy(last[r], w + r * step + k, left * sizeof(TYPE));                                \
            EACH(t, TOKENS) memcpy(own[t], x + t * step + k, left * sizeof(float));                              \
            ADD(TOKENS, TAKE(last[r]), take_fp32(own[t]));                                                       \
        }                                                                                                        \
        EACH(t, TOKENS) EACH(r, ROWS) out[t * ROWS + r] = total(s[t][r]);                                        \
    }

TILE(EVERY_PROCESSOR, fp32_1, 1, float, take_fp32, 2)
TILE(EVERY_PROCESSOR, fp32_2, 2, float, take_fp32, 0)
TILE(EVERY_PROCESSOR, fp32_3, 3, float, take_fp32, 0)
TILE(EVERY_PROCESSOR, bf16_1, 1, bf16, take_bf16, 0)
TILE(EVERY_PROCESSOR, bf16_2, 2, bf16, take_bf16, 0)
TILE(EVERY_PROCESSOR, bf16_3, 3, bf16, take_bf16, 0)

#ifdef HAS_VARIANTS
AVX2 INLINE lanes take_bf16_avx2(const bf16 *from) {
    __m256i taken = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return (lanes)_mm256_slli_epi32(taken, 16);
}

TILE(AVX2, bf16_1_avx2, 1, bf16, take_bf16_avx2, 1)
TILE(AVX2, bf16_2_avx2, 2, bf16, take_bf16_avx2, 1)
TILE(AVX2, bf16_3_avx2, 3, bf16, take_bf16_avx2, 1)
#endif

#endif
