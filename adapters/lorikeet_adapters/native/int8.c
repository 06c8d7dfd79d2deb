/* y = x W^T + bias as LLM.int8 computes it: W in int8 with a scale for each row, x rounded to int8 with a scale for each
 * token, products summed as integers. The sum is exact, so a token's result does not depend on its neighbours.
 */
#include <math.h>
#include <stdlib.h>

#include "processor.h"

#define ROWS 4        /* of W, computed together */
#define MOST_TOKENS 3 /* twelve sums and what they are made of fit into the registers of AVX2 */
#define LARGEST 127
#define UNIT 6.200124e-05f /* 1 / (127 * 127), as bitsandbytes writes it */
#define SMALL 262144       /* multiplications below which waking the other threads costs more than it saves */

/* Rounds a token; returns its largest magnitude, or NaN where it has a number that is not finite. */
EVERY_PROCESSOR static float quantise(const float *restrict x, int16_t *restrict out, int count) {
    float largest = 0, poison = 0;
#pragma omp simd reduction(max : largest) reduction(+ : poison)
    for (int k = 0; k < count; k++) {
        float size = fabsf(x[k]);
        largest = size > largest ? size : largest;
        poison += x[k] * 0;
    }
    float factor = largest > 0 && poison == 0 ? 1 / largest * LARGEST : 0; /* so rounded by PyTorch */
    for (int k = 0; k < count; k++)
        out[k] = (int16_t)rintf(x[k] * factor);
    return largest + poison;
}

/* Sums of one token, or as many as the name says, with ROWS rows of W: out[tokens, ROWS]. x is held in 16 bits, of which
 * processors multiply and add pairs at once.
 */
typedef void (*Tile)(const int16_t *x, const int8_t *w, int count, int32_t *out);

EVERY_PROCESSOR static void int8_1(const int16_t *restrict x, const int8_t *restrict w, int count,
                                   int32_t *restrict out) {
    const int8_t *restrict w0 = w, *restrict w1 = w + count, *restrict w2 = w1 + count, *restrict w3 = w2 + count;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (int k = 0; k < count; k++) {
        s0 += x[k] * (int16_t)w0[k];
        s1 += x[k] * (int16_t)w1[k];
        s2 += x[k] * (int16_t)w2[k];
        s3 += x[k] * (int16_t)w3[k];
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

#ifdef HAS_VARIANTS
#define PAIRS 16 /* that a register of AVX2 holds in 16 bits */

AVX2 INLINE int32_t total_int32(__m256i sums) {
    int32_t each[LANES], sum = 0;
    memcpy(each, &sums, sizeof sums);
    EACH(lane, LANES) sum += each[lane];
    return sum;
}

#define INT8_TILE(NAME, TOKENS)                                                                              \
    AVX2 static void NAME(const int16_t *x, const int8_t *w, int count, int32_t *out) {                      \
        size_t step = (size_t)count;                                                                         \
        const int8_t *next = w + ROWS * step;                                                                \
        __m256i s[TOKENS][ROWS] = {{{0}}};                                                                   \
        int k = 0;                                                                                           \
        for (; k + PAIRS <= count; k += PAIRS, next += ROWS * PAIRS) {                                       \
            __builtin_prefetch(next);                                                                        \
            EACH(r, ROWS) {                                                                                  \
                __m256i row = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + r * step + k)));    \
                EACH(t, TOKENS) {                                                                            \
                    __m256i token = _mm256_loadu_si256((const __m256i *)(x + t * step + k));                 \
                    s[t][r] = _mm256_add_epi32(s[t][r], _mm256_madd_epi16(row, token));                      \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
        EACH(t, TOKENS) EACH(r, ROWS) {                                                                      \
            int32_t sum = total_int32(s[t][r]);                                                              \
            for (int rest = k; rest < count; rest++)                                                         \
                sum += x[t * step + rest] * w[r * step + rest];                                              \
            out[t * ROWS + r] = sum;                                                                         \
        }                                                                                                    \
    }

INT8_TILE(int8_1_avx2, 1)
INT8_TILE(int8_2_avx2, 2)
INT8_TILE(int8_3_avx2, 3)
#endif

/* The one for so many tokens or, if there is none, for fewer: how many it takes. */
static int choose(int tokens, Tile *tile) {
    *tile = int8_1;
#ifdef HAS_VARIANTS
    static const Tile tiles[MOST_TOKENS] = {int8_1_avx2, int8_2_avx2, int8_3_avx2};
    int some = tokens == 4 ? 2 : tokens < MOST_TOKENS ? tokens : MOST_TOKENS;
    if (has_avx2()) {
        *tile = tiles[some - 1];
        return some;
    }
#endif
    (void)tokens;
    return 1;
}

/* x[tokens, in_features], scales[out_features] and bias, or none, in fp32; out_features is a multiple of ROWS.
 * `rounded` has room for tokens * in_features, `sizes` for tokens.
 */
void linear_int8(const float *x, const int8_t *weights, const float *scales, const float *bias, int16_t *rounded,
                 float *sizes, void *y, int tokens, int in_features, int out_features, int narrow_y) {
    size_t work = (size_t)tokens * in_features * out_features;
#pragma omp parallel if (work > SMALL)
    {
#pragma omp for schedule(static)
        for (int t = 0; t < tokens; t++)
            sizes[t] = quantise(x + (size_t)t * in_features, rounded + (size_t)t * in_features, in_features);
#pragma omp for schedule(static)
        for (int row = 0; row < out_features; row += ROWS)
            for (int first = 0, some; first < tokens; first += some) {
                Tile tile;
                int32_t sums[MOST_TOKENS * ROWS];
                some = choose(tokens - first, &tile);
                tile(rounded + (size_t)first * in_features, weights + (size_t)row * in_features, in_features, sums);
                for (int t = first; t < first + some; t++)
                    for (int r = 0; r < ROWS; r++) {
                        size_t at = (size_t)t * out_features + row + r;
                        float exact = (float)sums[(t - first) * ROWS + r];
                        float sum = exact * (sizes[t] * scales[row + r]) * UNIT + (bias ? bias[row + r] : 0);
                        if (narrow_y)
                            ((bf16 *)y)[at] = narrow(sum);
                        else
                            ((float *)y)[at] = sum;
                    }
            }
    }
}
