/* Rank rows for a few tokens, on the CPU:  y[t] += sum over e of t of  weights[e] * (x[t] . a[rows[e]]) * b[rows[e]]
 *
 * What a token does not name is not read, so nothing of it can reach the token. Sums are fp32; y is rounded once.
 * Threads are those of OpenMP, which PyTorch has loaded before: one pool, not two that fight over the cores.
 */
#include "processor.h"

#define COLUMNS 128 /* of y computed together: as many sums as fit into registers */
#define SMALL 32768 /* multiplications below which waking the other threads costs more than it saves */

#define AS_IT_IS(value) (value)

/* Four at a time: x is read once for four rows, and four sums do not wait for one another. */
#define TOGETHER 4

#define DEFINE(NAME, TYPE, WIDEN, NARROW)                                                                      \
    EVERY_PROCESSOR static float dot_##NAME(const TYPE *restrict x, const TYPE *restrict a, int count) {       \
        float sum = 0;                                                                                         \
        _Pragma("omp simd reduction(+ : sum)") for (int k = 0; k < count; k++)                                 \
            sum += WIDEN(x[k]) * WIDEN(a[k]);                                                                  \
        return sum;                                                                                            \
    }                                                                                                          \
                                                                                                               \
    EVERY_PROCESSOR static void dots_##NAME(const TYPE *restrict x, const TYPE *a, const int32_t *rows,        \
                                            int count, float *restrict out) {                                  \
        const TYPE *restrict r0 = a + (size_t)rows[0] * count, *restrict r1 = a + (size_t)rows[1] * count;     \
        const TYPE *restrict r2 = a + (size_t)rows[2] * count, *restrict r3 = a + (size_t)rows[3] * count;     \
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;                                                                  \
        _Pragma("omp simd reduction(+ : s0, s1, s2, s3)") for (int k = 0; k < count; k++) {                    \
            float wide = WIDEN(x[k]);                                                                          \
            s0 += wide * WIDEN(r0[k]);                                                                         \
            s1 += wide * WIDEN(r1[k]);                                                                         \
            s2 += wide * WIDEN(r2[k]);                                                                         \
            s3 += wide * WIDEN(r3[k]);                                                                         \
        }                                                                                                      \
        out[0] = s0;                                                                                           \
        out[1] = s1;                                                                                           \
        out[2] = s2;                                                                                           \
        out[3] = s3;                                                                                           \
    }                                                                                                          \
                                                                                                               \
    EVERY_PROCESSOR static void expand_##NAME(TYPE *restrict y, const TYPE *b, const int32_t *rows,            \
                                              const float *v, int entries, int stride, int count) {            \
        float sums[COLUMNS];                                                                                   \
        int e = 0;                                                                                             \
        for (int n = 0; n < count; n++)                                                                        \
            sums[n] = WIDEN(y[n]);                                                                             \
        for (; e + TOGETHER <= entries; e += TOGETHER) {                                                       \
            const TYPE *r0 = b + (size_t)rows[e] * stride, *r1 = b + (size_t)rows[e + 1] * stride;             \
            const TYPE *r2 = b + (size_t)rows[e + 2] * stride, *r3 = b + (size_t)rows[e + 3] * stride;         \
            float v0 = v[e], v1 = v[e + 1], v2 = v[e + 2], v3 = v[e + 3];                                      \
            _Pragma("omp simd") for (int n = 0; n < count; n++)                                                \
                sums[n] += v0 * WIDEN(r0[n]) + v1 * WIDEN(r1[n]) + (v2 * WIDEN(r2[n]) + v3 * WIDEN(r3[n]));    \
        }                                                                                                      \
        for (; e < entries; e++) {                                                                             \
            const TYPE *row = b + (size_t)rows[e] * stride;                                                    \
            float weight = v[e];                                                                               \
            _Pragma("omp simd") for (int n = 0; n < count; n++)                                                \
                sums[n] += weight * WIDEN(row[n]);                                                             \
        }                                                                                                      \
        for (int n = 0; n < count; n++)                                                                        \
            y[n] = NARROW(sums[n]);                                                                            \
    }                                                                                                          \
                                                                                                               \
    void rank_rows_##NAME(const TYPE *x, const TYPE *a, const TYPE *b, TYPE *y, const int32_t *begin,          \
                          const int32_t *token, const int32_t *rows, const float *weights, float *v,           \
                          int tokens, int in_features, int out_features) {                                     \
        int entries = begin[tokens], strips = (out_features + COLUMNS - 1) / COLUMNS;                          \
        size_t work = (size_t)entries * (in_features + out_features);                                          \
        _Pragma("omp parallel if (work > SMALL)") {                                                            \
            _Pragma("omp for schedule(static)") for (int e = 0; e < entries; e += TOGETHER) {                  \
                int last = e + TOGETHER <= entries ? e + TOGETHER : entries;                                   \
                if (last - e == TOGETHER && token[e] == token[last - 1])                                       \
                    dots_##NAME(x + (size_t)token[e] * in_features, a, rows + e, in_features, v + e);          \
                else                                                                                           \
                    for (int one = e; one < last; one++)                                                       \
                        v[one] = dot_##NAME(x + (size_t)token[one] * in_features,                              \
                                            a + (size_t)rows[one] * in_features, in_features);                 \
                for (int one = e; one < last; one++)                                                           \
                    v[one] *= weights[one];                                                                    \
            }                                                                                                  \
            _Pragma("omp for schedule(static)") for (int piece = 0; piece < tokens * strips; piece++) {        \
                int t = piece / strips, from = piece % strips * COLUMNS, first = begin[t];                     \
                int count = out_features - from < COLUMNS ? out_features - from : COLUMNS;                     \
                if (begin[t + 1] > first)                                                                      \
                    expand_##NAME(y + (size_t)t * out_features + from, b + from, rows + first, v + first,      \
                                  begin[t + 1] - first, out_features, count);                                  \
            }                                                                                                  \
        }                                                                                                      \
    }

DEFINE(bf16, bf16, widen, narrow)
DEFINE(fp32, float, AS_IT_IS, AS_IT_IS)
