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

/* One, two or three tokens against ROWS rows: x is read once for all rows, a row once for all tokens, and twelve sums
 * that do not wait for one another are as many as fit into the registers of AVX2. All sum in the same order.
 */
#define SUMS(T) float T##0 = 0, T##1 = 0, T##2 = 0, T##3 = 0
#define ADD(T, X)        \
    T##0 += (X) * w0[k]; \
    T##1 += (X) * w1[k]; \
    T##2 += (X) * w2[k]; \
    T##3 += (X) * w3[k]
#define STORE(T, AT) out[AT] = T##0, out[AT + 1] = T##1, out[AT + 2] = T##2, out[AT + 3] = T##3
#define FOUR_ROWS \
    const float *restrict w0 = w, *restrict w1 = w + count, *restrict w2 = w1 + count, *restrict w3 = w2 + count

EVERY_PROCESSOR static void tile1(const float *restrict x, const float *restrict w, int count, float *restrict out) {
    FOUR_ROWS;
    SUMS(s);
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int k = 0; k < count; k++) {
        ADD(s, x[k]);
    }
    STORE(s, 0);
}

EVERY_PROCESSOR static void tile2(const float *restrict x, const float *restrict w, int count, float *restrict out) {
    FOUR_ROWS;
    const float *restrict second = x + count;
    SUMS(s);
    SUMS(t);
#pragma omp simd reduction(+ : s0, s1, s2, s3, t0, t1, t2, t3)
    for (int k = 0; k < count; k++) {
        ADD(s, x[k]);
        ADD(t, second[k]);
    }
    STORE(s, 0);
    STORE(t, ROWS);
}

EVERY_PROCESSOR static void tile3(const float *restrict x, const float *restrict w, int count, float *restrict out) {
    FOUR_ROWS;
    const float *restrict second = x + count, *restrict third = second + count;
    SUMS(s);
    SUMS(t);
    SUMS(u);
#pragma omp simd reduction(+ : s0, s1, s2, s3, t0, t1, t2, t3, u0, u1, u2, u3)
    for (int k = 0; k < count; k++) {
        ADD(s, x[k]);
        ADD(t, second[k]);
        ADD(u, third[k]);
    }
    STORE(s, 0);
    STORE(t, ROWS);
    STORE(u, 2 * ROWS);
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
/* Eight codes at a time: each half of the table, scaled, fits into a register, and a code's fourth bit says which half
 * is meant. A code's first byte half comes first; the two shifts bring its three low bits down and its fourth up.
 */
__attribute__((target("avx2"))) static const float *from_nf4_avx2(const Weights *held, int row, float *scratch) {
    size_t first = (size_t)row * held->in_features;
    const uint8_t *pairs = (const uint8_t *)held->weights + first / 2;
    const float *scales = held->scales + first / BLOCK;
    const __m256 low = _mm256_loadu_ps(held->codes), high = _mm256_loadu_ps(held->codes + 8);
    const __m256i down = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    const __m256i up = _mm256_setr_epi32(24, 28, 16, 20, 8, 12, 0, 4);
    for (int k = 0; k < held->in_features; k += BLOCK) {
        __m256 scale = _mm256_set1_ps(scales[k / BLOCK]);
        __m256 own_low = _mm256_mul_ps(low, scale), own_high = _mm256_mul_ps(high, scale);
        for (int j = k; j < k + BLOCK; j += 8) {
            int32_t eight;
            memcpy(&eight, pairs + j / 2, sizeof eight);
            __m256i codes = _mm256_set1_epi32(eight), index = _mm256_srlv_epi32(codes, down);
            __m256 one = _mm256_permutevar8x32_ps(own_low, index), other = _mm256_permutevar8x32_ps(own_high, index);
            __m256 is_high = _mm256_castsi256_ps(_mm256_sllv_epi32(codes, up));
            _mm256_storeu_ps(scratch + j, _mm256_blendv_ps(one, other, is_high));
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
        for (int t = 0; t < tokens;) {
            /* Four are two and two: three and one would read the rows as often, and the one alone is slow. */
            int left = tokens - t, some = left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1;
            const float *token = x + (size_t)t * count;
            float sums[3 * ROWS];
            (some == 3 ? tile3 : some == 2 ? tile2 : tile1)(token, own, count, sums);
            for (int each = 0; each < some; each++, t++)
                for (int r = 0; r < ROWS; r++) {
                    size_t at = (size_t)t * out_features + row + r;
                    float sum = sums[each * ROWS + r] + (bias ? bias[row + r] : 0);
                    if (narrow_y)
                        ((bf16 *)y)[at] = narrow(sum);
                    else
                        ((float *)y)[at] = sum;
                }
        }
    }
}

/* Returns whether all of y is there: without memory to widen rows in, some is not. */
static int linear(Widen widen_row, Weights held, const float *x, const float *bias, void *y, int tokens,
                  int out_features, int narrow_y) {
    int whole = 1;
    int rows = SCRATCH / held.in_features / ROWS * ROWS;
    rows = rows < ROWS ? ROWS : rows > MOST_ROWS ? MOST_ROWS : rows;
    int blocks = (out_features + rows - 1) / rows;
    size_t work = (size_t)tokens * held.in_features * out_features;
    size_t bytes = ((size_t)rows * held.in_features * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
#pragma omp parallel if (work > SMALL)
    {
        float *scratch = widen_row ? aligned_alloc(ALIGNMENT, bytes) : NULL;
        int able = scratch || !widen_row;
        if (!able) {
#pragma omp atomic write
            whole = 0;
        }
#pragma omp for schedule(static)
        for (int b = 0; b < blocks; b++) {
            int from = b * rows, to = from + rows < out_features ? from + rows : out_features;
            if (able)
                block(widen_row, &held, x, bias, y, from, to, tokens, out_features, narrow_y, scratch);
        }
        free(scratch);
    }
    return whole;
}

int has_variants(void) {
#ifdef HAS_VARIANTS
    return 1;
#else
    return 0;
#endif
}

/* All return whether there was memory, and take x[tokens, in_features] in fp32 and a bias in fp32 or none;
 * out_features is a multiple of ROWS.
 */

int linear_bf16(const float *x, const void *weights, const float *bias, void *y, int tokens, int in_features,
                int out_features, int narrow_y) {
    return linear(from_bf16, (Weights){weights, NULL, NULL, in_features}, x, bias, y, tokens, out_features, narrow_y);
}

int linear_fp32(const float *x, const void *weights, const float *bias, void *y, int tokens, int in_features,
                int out_features, int narrow_y) {
    return linear(NULL, (Weights){weights, NULL, NULL, in_features}, x, bias, y, tokens, out_features, narrow_y);
}

/* in_features is a multiple of BLOCK. */
int linear_nf4(const float *x, const void *weights, const float *scales, const float *codes, const float *bias,
               void *y, int tokens, int in_features, int out_features, int narrow_y) {
    Widen widen_row = from_nf4;
#ifdef HAS_VARIANTS
    if (__builtin_cpu_supports("avx2"))
        widen_row = from_nf4_avx2;
#endif
    return linear(widen_row, (Weights){weights, scales, codes, in_features}, x, bias, y, tokens, out_features, narrow_y);
}
