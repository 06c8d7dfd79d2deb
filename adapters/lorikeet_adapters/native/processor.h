/* What the kernels share: numbers, and one build for every processor of an architecture. */
#ifndef LORIKEET_PROCESSOR_H
#define LORIKEET_PROCESSOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(PORTABLE) && defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_VARIANTS 1
/* The processor that the library is loaded on decides which of these is called. */
#define EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_PROCESSOR
#endif

#define INLINE static inline __attribute__((always_inline))
#define EACH(I, MOST) _Pragma("GCC unroll 8") for (int I = 0; I < MOST; I++)
#define LANES 8 /* numbers of 32 bits side by side */
#define LINE 64 /* bytes of a cache line */

#ifdef HAS_VARIANTS
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))

static inline int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

typedef uint16_t bf16;

static inline float widen(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* To the nearest, ties to even, as PyTorch rounds; a NaN stays one. */
static inline bf16 narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bf16)(value == value ? rounded : 0x7fc0);
}

#endif
