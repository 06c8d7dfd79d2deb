/* The weights of an NF4 layer: two to a byte, the first in its upper half, and a scale for each BLOCK of them. */
#ifndef LORIKEET_NF4_H
#define LORIKEET_NF4_H

#include "tiles.h"

#define BLOCK 64
#define CODES 16

static void widen_nf4(const uint8_t *pairs, const float *scales, const float *codes, int count, float *out) {
    for (int k = 0; k < count; k += 2) {
        out[k] = codes[pairs[k / 2] >> 4] * scales[k / BLOCK];
        out[k + 1] = codes[pairs[k / 2] & (CODES - 1)] * scales[k / BLOCK];
    }
}

#ifdef HAS_VARIANTS
/* AVX2 looks up bytes, 32 at once: first each of the four bytes of the values by itself, then they are put together in
 * pairs and in pairs of pairs. That happens in either half of a register by itself, so of a block's 64 weights register
 * v has those from 4v and those from 32 + 4v on, four of each. Tokens are arranged in the same way.
 */
#define BYTES 4
#define REGISTERS 8 /* of a block */
#define HALF 4      /* values of a half of a register */
#define FAR 2       /* groups of rows between what is computed and what is fetched: they are short */

typedef struct {
    uint8_t of[BYTES][2 * CODES];
} Planes;

static void set_planes(const float *codes, Planes *planes) {
    for (int byte = 0; byte < BYTES; byte++)
        for (int code = 0; code < 2 * CODES; code++)
            planes->of[byte][code] = ((const uint8_t *)&codes[code % CODES])[byte];
}

AVX2 INLINE void look_up(const Planes *planes, __m256i codes, __m256 scale, __m256 out[REGISTERS / 2]) {
    __m256i of[BYTES];
    EACH(byte, BYTES) of[byte] = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)planes->of[byte]), codes);
    __m256i low = _mm256_unpacklo_epi8(of[0], of[1]), high = _mm256_unpacklo_epi8(of[2], of[3]);
    out[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
    out[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
    low = _mm256_unpackhi_epi8(of[0], of[1]), high = _mm256_unpackhi_epi8(of[2], of[3]);
    out[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
    out[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
    EACH(v, REGISTERS / 2) out[v] = _mm256_mul_ps(out[v], scale);
}

AVX2 INLINE void widen_block(const Planes *planes, const uint8_t *pairs, float scale, __m256 out[REGISTERS]) {
    const __m256i four_bits = _mm256_set1_epi8(CODES - 1);
    __m256i both = _mm256_loadu_si256((const __m256i *)pairs), second = _mm256_and_si256(both, four_bits);
    __m256i first = _mm256_and_si256(_mm256_srli_epi16(both, 4), four_bits);
    __m256 scales = _mm256_set1_ps(scale);
    look_up(planes, _mm256_unpacklo_epi8(first, second), scales, out);
    look_up(planes, _mm256_unpackhi_epi8(first, second), scales, out + REGISTERS / 2);
}

AVX2 static void widen_nf4_avx2(const uint8_t *pairs, const float *scales, const Planes *planes, int count, float *out) {
    for (int k = 0; k < count; k += BLOCK) {
        __m256 block[REGISTERS];
        widen_block(planes, pairs + k / 2, scales[k / BLOCK], block);
        EACH(v, REGISTERS) _mm256_storeu_ps(out + k + LANES * v, block[v]);
    }
}

AVX2 static void arrange(const float *x, int count, float *out) {
    for (int k = 0; k < count; k += BLOCK)
        EACH(v, REGISTERS) {
            _mm_storeu_ps(out + k + LANES * v, _mm_loadu_ps(x + k + HALF * v));
            _mm_storeu_ps(out + k + LANES * v + HALF, _mm_loadu_ps(x + k + BLOCK / 2 + HALF * v));
        }
}

/* For few tokens weights need not be kept: they are multiplied as they are widened. */
#define NF4_TILE(NAME, TOKENS)                                                                                 \
    AVX2 static void NAME(const float *x, const uint8_t *pairs, const float *scales, const Planes *planes,     \
                          int count, float *out) {                                                             \
        size_t step = (size_t)count;                                                                           \
        lanes s[TOKENS][ROWS] = {{{0}}};                                                                       \
        for (int k = 0; k < count; k += BLOCK) {                                                               \
            const uint8_t *next = pairs + (FAR * step + (size_t)k) * ROWS / 2;                                 \
            EACH(line, ROWS * BLOCK / 2 / LINE) __builtin_prefetch(next + LINE * line);                        \
            for (int r = 0; r < ROWS; r++) {                                                                   \
                __m256 block[REGISTERS];                                                                       \
                size_t at = r * step + (size_t)k;                                                              \
                widen_block(planes, pairs + at / 2, scales[at / BLOCK], block);                                \
                EACH(v, REGISTERS)                                                                             \
                    EACH(t, TOKENS) s[t][r] += take_fp32(x + t * step + k + LANES * v) * (lanes)block[v];      \
            }                                                                                                  \
        }                                                                                                      \
        EACH(t, TOKENS) EACH(r, ROWS) out[t * ROWS + r] = total(s[t][r]);                                      \
    }

NF4_TILE(nf4_1, 1)
NF4_TILE(nf4_2, 2)
NF4_TILE(nf4_3, 3)
#endif

#endif
