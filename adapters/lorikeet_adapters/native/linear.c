/* y = x W^T + bias for the rows of a batch, on the CPU, with W as it is held: bf16, fp32 or NF4.
 *
 * Every form sums a token in one order whatever the batch is, so its result does not depend on its neighbours.
 */
#include <limits.h>
#include <omp.h>
#include <stdlib.h>

#include "nf4.h"
#include "tiles.h"

#define SCRATCH 16384 /* floats of W widened at a time, to stay in a core's own cache */
#define MOST_ROWS 64
#define SMALL 65536 /* multiplications below which waking the other threads costs more than it saves */

/* Weights as they are held. `scales` and `codes` are NF4's: one scale for BLOCK weights, one value for each of 16 codes;
 * `planes` are the codes as AVX2 wants them, where there is AVX2.
 */
typedef struct {
    const void *weights;
    const float *scales, *codes;
    const void *planes;
    int in_features;
} Weights;

/* x[tokens, in_features], at most MOST_TOKENS, with ROWS rows: out[tokens, ROWS]. */
typedef void (*Multiply)(const Weights *held, int row, const float *x, int tokens, float *out);
typedef void (*Widen)(const Weights *held, int row, float *scratch);

/* Batches of at most `few` tokens are multiplied with W as it is held; for others rows of it are widened first. */
typedef struct {
    Multiply multiply;
    int few;
    Widen widen;
} Form;

#define BY_TOKENS(NAME) (tokens == 3 ? NAME(3) : tokens == 2 ? NAME(2) : NAME(1))
#define FP32(N) fp32_##N
#define BF16(N) bf16_##N
#define BF16_AVX2(N) bf16_##N##_avx2
#define NF4(N) nf4_##N

static size_t first_of(const Weights *held, int row) {
    return (size_t)row * held->in_features;
}

static void multiply_fp32(const Weights *held, int row, const float *x, int tokens, float *out) {
    BY_TOKENS(FP32)(x, (const float *)held->weights + first_of(held, row), held->in_features, out);
}

static void multiply_bf16(const Weights *held, int row, const float *x, int tokens, float *out) {
    BY_TOKENS(BF16)(x, (const bf16 *)held->weights + first_of(held, row), held->in_features, out);
}

static void from_nf4(const Weights *held, int row, float *scratch) {
    size_t first = first_of(held, row);
    const uint8_t *pairs = (const uint8_t *)held->weights + first / 2;
    widen_nf4(pairs, held->scales + first / BLOCK, held->codes, held->in_features, scratch);
}

#ifdef HAS_VARIANTS
static void multiply_bf16_avx2(const Weights *held, int row, const float *x, int tokens, float *out) {
    BY_TOKENS(BF16_AVX2)(x, (const bf16 *)held->weights + first_of(held, row), held->in_features, out);
}

static void from_nf4_avx2(const Weights *held, int row, float *scratch) {
    size_t first = first_of(held, row);
    const uint8_t *pairs = (const uint8_t *)held->weights + first / 2;
    widen_nf4_avx2(pairs, held->scales + first / BLOCK, held->planes, held->in_features, scratch);
}

static void multiply_nf4_avx2(const Weights *held, int row, const float *x, int tokens, float *out) {
    size_t first = first_of(held, row);
    const uint8_t *pairs = (const uint8_t *)held->weights + first / 2;
    BY_TOKENS(NF4)(x, pairs, held->scales + first / BLOCK, held->planes, held->in_features, out);
}
#endif

/* Rows [from, to) of W for all tokens, y[tokens, out_features] in fp32 or, where `narrow_y`, in bf16. */
static void block(const Form *form, const Weights *held, const float *x, const float *bias, void *y, int from, int to,
                  int tokens, int out_features, int narrow_y, float *scratch) {
    int count = held->in_features, first = 0;
    Multiply multiply = form->multiply;
    Weights widened = {scratch, NULL, NULL, NULL, count};
    if (scratch) {
        for (int row = from; row < to; row++)
            form->widen(held, row, scratch + (size_t)(row - from) * count);
        held = &widened, multiply = multiply_fp32, first = from;
    }
    for (int row = from; row < to; row += ROWS) {
        for (int t = 0; t < tokens;) {
            /* Four are two and two: three and one would read the rows as often, and the one alone is slow. */
            int left = tokens - t, some = left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1;
            float sums[MOST_TOKENS * ROWS];
            multiply(held, row - first, x + (size_t)t * count, some, sums);
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
static int linear(Form form, Weights held, const float *x, const float *bias, void *y, int tokens, int out_features,
                  int narrow_y) {
    int whole = 1, widens = tokens > form.few;
    int rows = SCRATCH / held.in_features / ROWS * ROWS;
    rows = rows < ROWS ? ROWS : rows > MOST_ROWS ? MOST_ROWS : rows;
    int blocks = (out_features + rows - 1) / rows;
    size_t work = (size_t)tokens * held.in_features * out_features;
    size_t bytes = ((size_t)rows * held.in_features * sizeof(float) + LINE - 1) / LINE * LINE;
#pragma omp parallel if (work > SMALL)
    {
        float *scratch = widens ? aligned_alloc(LINE, bytes) : NULL;
        int able = scratch || !widens;
        if (!able) {
#pragma omp atomic write
            whole = 0;
        }
#pragma omp for schedule(static)
        for (int b = 0; b < blocks; b++) {
            int from = b * rows, to = from + rows < out_features ? from + rows : out_features;
            if (able)
                block(&form, &held, x, bias, y, from, to, tokens, out_features, narrow_y, scratch);
        }
        free(scratch);
    }
    return whole;
}

/* How many threads the calling thread computes with from now on; returns with how many it did. */
int compute_with(int threads) {
    int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    return before;
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
    Weights held = {weights, NULL, NULL, NULL, in_features};
    Form form = {multiply_bf16, INT_MAX, NULL};
#ifdef HAS_VARIANTS
    if (has_avx2())
        form.multiply = multiply_bf16_avx2;
#endif
    return linear(form, held, x, bias, y, tokens, out_features, narrow_y);
}

int linear_fp32(const float *x, const void *weights, const float *bias, void *y, int tokens, int in_features,
                int out_features, int narrow_y) {
    Weights held = {weights, NULL, NULL, NULL, in_features};
    return linear((Form){multiply_fp32, INT_MAX, NULL}, held, x, bias, y, tokens, out_features, narrow_y);
}

#ifdef HAS_VARIANTS
static int linear_nf4_avx2(Weights held, const float *x, const float *bias, void *y, int tokens, int out_features,
                           int narrow_y) {
    float *arranged = malloc((size_t)tokens * held.in_features * sizeof(float));
    if (arranged == NULL)
        return 0;
    for (int t = 0; t < tokens; t++)
        arrange(x + first_of(&held, t), held.in_features, arranged + first_of(&held, t));
    Planes planes;
    set_planes(held.codes, &planes);
    held.planes = &planes;
    Form form = {multiply_nf4_avx2, MOST_TOKENS, from_nf4_avx2};
    int whole = linear(form, held, arranged, bias, y, tokens, out_features, narrow_y);
    free(arranged);
    return whole;
}
#endif

/* in_features is a multiple of BLOCK. */
int linear_nf4(const float *x, const void *weights, const float *scales, const float *codes, const float *bias,
               void *y, int tokens, int in_features, int out_features, int narrow_y) {
    Weights held = {weights, scales, codes, NULL, in_features};
#ifdef HAS_VARIANTS
    if (has_avx2())
        return linear_nf4_avx2(held, x, bias, y, tokens, out_features, narrow_y);
#endif
    return linear((Form){NULL, 0, from_nf4}, held, x, bias, y, tokens, out_features, narrow_y);
}
