/* y = x W^T + bias for the rows of a batch, on the CPU, with W as it is held: bf16, fp32 or NF4.
 *
 * A block of W's rows is read once, widened to fp32 where it is not, and used for every token. Sums are fp32, in
 * one order whatever the batch is, so a token's result does not depend on its neighbours.
 */
#include <stdlib.h>

#include "processor.h"

#ifdef HAS_VARIANTS
#include <immintrin.h>
#endif

#define ROWS 4           /* of W, computed together */
#define BLOCK 64         /* weights of NF4 that share a scale */
#define SCRATCH 16384    /* floats of W widened at a time, to stay in a core's own cache */
#define MOST_ROWS 64
#define ALIGNMENT 64
#define SMALL 65536 /* multiplications below which waking the other threads costs more than it saves */

/* One token against ROWS rows, and two tokens: x is read once for all rows, a row once for both. */
EVERY_PROCESSOR static void tile1(const float *restrict x, const float *restrict w, int count,
                                  float out[restrict ROWS]) {
    const float *restrict w0 = w, *restrict w1 = w + count, *restrict w2 = w1 + count, *restrict w3 = w2 + count;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int k = 0; k < count; k++) {
        s0 += x[k] * w0[k];
        s1 += x[k] * w1[k];
        s2 += x[k] * w2[k];
        s3 += x[k] * w3[k];
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

EVERY_PROCESSOR static void tile2(const float *restrict x, const float *restrict w, int count,
                                  float out[restrict 2 * ROWS]) {
    const float *restrict w0 = w, *restrict w1 = w + count, *restrict w2 = w1 + count, *restrict w3 = w2 + count;
    const float *restrict z = x + count;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, t0, t1, t2, t3)
    for (int k = 0; k < count; k++) {
        s0 += x[k] * w0[k];
        s1 += x[k] * w1[k];
        s2 += x[k] * w2[k];
        s3 += x[k] * w3[k];
        t0 += z[k] * w0[k];
        t1 += z[k] * w1[k];
        t2 += z[k] * w2[k];
        t3 += z[k] * w3[k];
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
    out[4] = t0, out[5] = t1, out[6] = t2, out[7] = t3;
}

/* Weights as they are held. `scales` and `codes` are NF4's: one scale for BLOCK weights, one value for each of 16 codes. */
typedef struct {
    const void *weights;
    const float *scales, *codes;
    int in_features;
} Weights;

typedef const float *(*Widen)(const Weights *held, int row, float *scratch);

EVERY_PROCESSOR static const float *from_bf16(const Weights *held, int row, float *restrict scratch) {
    const bf16 *restrict weights = (const bf16 *)held->weights + (size_t)row * held->in_features;
    for (int k = 0; k < held->in_features; k++)
        scratch[k] = widen(weights[k]);
    return scratch;
}

static const float *from_nf4(const Weights *held, int row, float *restrict scratch) {
    size_t first = (size_t)row * held->in_features;
    const uint8_t *pairs = (const uint8_t *)held->weights + first / 2;
    const float *scales = held->scales + first / BLOCK;
    for (int k = 0; k < held->in_features; k += 2) {
        float scale = scales[k / BLOCK];
        scratch[k] = held->codes[pairs[k / 2] >> 4] * scale;
        scratch[k + 1] = held->codes[pairs[k / 2] & 15] * scale;
    }
    return scratch;
}

#ifdef HAS_VARIANTS
/* Eight codes at a time: each half of the table fits into a register, and the code's fourth bit says which is meant. */
__attribute__((target("avx2"))) static const float *from_nf4_avx2(const Weights *held, int row, float *scratch) {
    size_t first = (size_t)row * held->in_features;
    const uint8_t *pairs = (const uint8_t *)held->weights + first / 2;
    const float *scales = held->scales + first / BLOCK;
    __m256 low = _mm256_loadu_ps(held->codes), high = _mm256_loadu_ps(held->codes + 8);
    __m128i nibble = _mm_set1_epi8(15);
    for (int k = 0; k < held->in_features; k += 16) {
        __m256 scale = _mm256_set1_ps(scales[k / BLOCK]);
        __m128i eight = _mm_loadl_epi64((const __m128i *)(pairs + k / 2));
        __m128i even = _mm_and_si128(_mm_srli_epi16(eight, 4), nibble), odd = _mm_and_si128(eight, nibble);
        __m128i codes = _mm_unpacklo_epi8(even, odd);
        for (int half = 0; half < 2; half++, codes = _mm_srli_si128(codes, 8)) {
            __m256i code = _mm256_cvtepu8_epi32(codes);
            __m256 one = _mm256_permutevar8x32_ps(low, code), other = _mm256_permutevar8x32_ps(high, code);
            __m256 value = _mm256_blendv_ps(one, other, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
            _mm256_storeu_ps(scratch + k + 8 * half, _mm256_mul_ps(value, scale));
        }
    }
    return scratch;
}
#endif

/* Rows [from, to) of W for all tokens, y[tokens, out_features] in fp32 or, where `narrow_y`, in bf16. */
static void block(Widen widen_row, const Weights *held, const float *x, const float *bias, void *y, int from, int to,
                  int tokens, int out_features, int narrow_y, float *scratch) {
    int count = held->in_features;
    const float *w = scratch;
    if (widen_row == NULL)
        w = (const float *)held->weights + (size_t)from * count;
    else
        for (int row = from; row < to; row++)
            widen_row(held, row, scratch + (size_t)(row - from) * count);
    for (int row = from; row < to; row += ROWS) {
        const float *own = w + (size_t)(row - from) * count;
        int rows = to - row < ROWS ? to - row : ROWS;
        float padded[2 * ROWS];
        for (int t = 0; t < tokens; t += 2) {
            int pair = tokens - t > 1 ? 2 : 1;
            const float *token = x + (size_t)t * count;
            if (rows == ROWS && pair == 2)
                tile2(token, own, count, padded);
            else if (rows == ROWS)
                tile1(token, own, count, padded);
            for (int each = 0; each < pair; each++)
                for (int r = 0; r < rows; r++) {
                    size_t at = (size_t)(t + each) * out_features + row + r;
                    float sum = padded[each * ROWS + r] + (bias ? bias[row + r] : 0);
                    if (narrow_y)
                        ((bf16 *)y)[at] = narrow(sum);
                    else
                        ((float *)y)[at] = sum;
                }
        }
    }
}

static void linear(Widen widen_row, Weights held, const float *x, const float *bias, void *y, int tokens,
                   int out_features, int narrow_y) {
    int rows = SCRATCH / held.in_features / ROWS * ROWS;
    rows = rows < ROWS ? ROWS : rows > MOST_ROWS ? MOST_ROWS : rows;
    int blocks = (out_features + rows - 1) / rows;
    size_t work = (size_t)tokens * held.in_features * out_features;
    size_t bytes = ((size_t)rows * held.in_features * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
#pragma omp parallel if (work > SMALL)
    {
        float *scratch = widen_row ? aligned_alloc(ALIGNMENT, bytes) : NULL;
#pragma omp for schedule(static)
        for (int b = 0; b < blocks; b++) {
            int from = b * rows, to = from + rows < out_features ? from + rows : out_features;
            block(widen_row, &held, x, bias, y, from, to, tokens, out_features, narrow_y, scratch);
        }
        free(scratch);
    }
}

/* All take x[tokens, in_features] in fp32 and a bias in fp32 or none; out_features is a multiple of ROWS. */

void linear_bf16(const float *x, const void *weights, const float *bias, void *y, int tokens, int in_features,
                 int out_features, int narrow_y) {
    linear(from_bf16, (Weights){weights, NULL, NULL, in_features}, x, bias, y, tokens, out_features, narrow_y);
}

void linear_fp32(const float *x, const void *weights, const float *bias, void *y, int tokens, int in_features,
                 int out_features, int narrow_y) {
    linear(NULL, (Weights){weights, NULL, NULL, in_features}, x, bias, y, tokens, out_features, narrow_y);
}

/* in_features is a multiple of BLOCK. */
void linear_nf4(const float *x, const void *weights, const float *scales, const float *codes, const float *bias,
                void *y, int tokens, int in_features, int out_features, int narrow_y) {
    Widen widen_row = from_nf4;
#ifdef HAS_VARIANTS
    if (__builtin_cpu_supports("avx2"))
        widen_row = from_nf4_avx2;
#endif
    linear(widen_row, (Weights){weights, scales, codes, in_features}, x, bias, y, tokens, out_features, narrow_y);
}
