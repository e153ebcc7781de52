/* What this core allows: its clock, and how often in a cycle it does the work of one step of a
 * kernel's inner loop when nothing else is in the way. Measured, since it differs between CPUs. */
#ifndef BFCN_BENCH_CEILING_H
#define BFCN_BENCH_CEILING_H

#include "kernels.h"

#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { CEILING_TRIALS = 7, CEILING_LOOPS = 20000 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* GHz, by a chain of additions that each take a cycle; 0 where no such chain is written. */
static double clock_ghz(void) {
#if defined(__x86_64__) || defined(__aarch64__) || defined(__arm__)
  double best = 0;
  size_t x = 0;
  const size_t one = 1;
  for (int trial = 0; trial < CEILING_TRIALS; trial++) {
    const double start = now();
    for (int loop = 0; loop < CEILING_LOOPS; loop++)
      for (int chain = 0; chain < 4; chain++)
#if defined(__x86_64__)
        __asm__ volatile(".rept 16\n\tadd %1, %0\n\t.endr" : "+r"(x) : "r"(one));
#else
        __asm__ volatile(".rept 16\n\tadd %0, %0, %1\n\t.endr" : "+r"(x) : "r"(one));
#endif
    const double rate = 64e-9 * CEILING_LOOPS / (now() - start);
    if (rate > best) best = rate;
  }
  return best;
#else
  return 0;
#endif
}

#if defined(__x86_64__)
/* Steps a cycle of eight independent chains: t = LOOK(a, b), then s += t. Four of one kind follow
 * four of the other: Zen 4 does a fifth less of them when they alternate. */
#define STEPS_PER_CYCLE(name, isas, vector, zero, LOOK, ADD)                                       \
  __attribute__((target(isas))) static double name(double ghz) {                                   \
    vector a = zero, b = zero, t0 = zero, t1 = zero, t2 = zero, t3 = zero;                         \
    vector s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero; \
    double best = 0;                                                                               \
    for (int trial = 0; trial < CEILING_TRIALS; trial++) {                                         \
      const double start = now();                                                                  \
      for (int loop = 0; loop < CEILING_LOOPS; loop++) {                                           \
        LOOK(t0);                                                                                  \
        LOOK(t1);                                                                                  \
        LOOK(t2);                                                                                  \
        LOOK(t3);                                                                                  \
        ADD(s0, t0);                                                                               \
        ADD(s1, t1);                                                                               \
        ADD(s2, t2);                                                                               \
        ADD(s3, t3);                                                                               \
        LOOK(t0);                                                                                  \
        LOOK(t1);                                                                                  \
        LOOK(t2);                                                                                  \
        LOOK(t3);                                                                                  \
        ADD(s4, t0);                                                                               \
        ADD(s5, t1);                                                                               \
        ADD(s6, t2);                                                                               \
        ADD(s7, t3);                                                                               \
      }                                                                                            \
      const double rate = 8.0 * CEILING_LOOPS / ((now() - start) * ghz * 1e9);                     \
      if (rate > best) best = rate;                                                                \
    }                                                                                              \
    return best;                                                                                   \
  }
#define LOOK_BY(code, t) __asm__ volatile(code : "=&v"(t) : "v"(a), "v"(b))
#define ADD_BY(code, s, t) __asm__ volatile(code " %1, %0, %0" : "+v"(s) : "v"(t))

#define LUT6(t) LOOK_BY("vpermb %2, %1, %0", t)
#define BITS(t) LOOK_BY("vpandq %2, %1, %0\n\tvpopcntq %0, %0", t)
#define LUT4(t) LOOK_BY("vpshufb %2, %1, %0", t)
#define MADD(t) LOOK_BY("vpmaddwd %2, %1, %0", t)
#define MADD8(t) LOOK_BY("vpmaddubsw %2, %1, %0", t)
#define NONE(t) (void)t
#define ADD8(s, t) ADD_BY("vpaddb", s, t)
#define ADD16(s, t) ADD_BY("vpaddw", s, t)
#define ADD32(s, t) ADD_BY("vpaddd", s, t)
#define ADD64(s, t) ADD_BY("vpaddq", s, t)
#define DOT(s, t) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(a), "v"(b))
STEPS_PER_CYCLE(lut6_avx512, "avx512f", __m512i, _mm512_setzero_si512(), LUT6, ADD8)
STEPS_PER_CYCLE(bits_avx512, "avx512f", __m512i, _mm512_setzero_si512(), BITS, ADD64)
STEPS_PER_CYCLE(int8_avx512, "avx512f", __m512i, _mm512_setzero_si512(), NONE, DOT)
STEPS_PER_CYCLE(lut4_avx2, "avx2", __m256i, _mm256_setzero_si256(), LUT4, ADD8)
STEPS_PER_CYCLE(int4_avx2, "avx2", __m256i, _mm256_setzero_si256(), MADD8, ADD16)
STEPS_PER_CYCLE(int16_avx2, "avx2", __m256i, _mm256_setzero_si256(), MADD, ADD32)
#endif

#if defined(BFCN_AMX)
/* Products of tiles a cycle, on four sums. */
static double tiles_amx(double ghz) {
  double best = 0;
  bfcn_backend_amx.enter();
  for (int trial = 0; trial < CEILING_TRIALS; trial++) {
    const double start = now();
    for (int loop = 0; loop < CEILING_LOOPS; loop++)
      __asm__ volatile("tdpbusd %tmm4, %tmm6, %tmm0\n\ttdpbusd %tmm5, %tmm6, %tmm1\n\t"
                       "tdpbusd %tmm4, %tmm7, %tmm2\n\ttdpbusd %tmm5, %tmm7, %tmm3");
    const double rate = 4.0 * CEILING_LOOPS / ((now() - start) * ghz * 1e9);
    if (rate > best) best = rate;
  }
  bfcn_backend_amx.leave();
  return best;
}
#endif

/* MACs of one weight plane (int8, int2: of any weights, 3 channels a lookup: of both) a cycle for
 * one pass over the activations; 0 where it is not known. */
static double ceiling(const struct gemm_kernel *kernel, double ghz) {
  static double known[ISAS][FORMS];
  double *rate = &known[kernel->isa][kernel->form];
  if (*rate > 0 || ghz == 0) return *rate;
#if defined(__x86_64__)
  if (kernel->isa == ISA_AVX512 && kernel->form == FORM_LUT6) *rate = 64 * 6 * lut6_avx512(ghz);
  if (kernel->isa == ISA_AVX512 && kernel->form == FORM_LUT3) *rate = 64 * 3 * lut6_avx512(ghz);
  if (kernel->isa == ISA_AVX512 && kernel->form == FORM_BITS) *rate = 512 * bits_avx512(ghz);
  if (kernel->isa == ISA_AVX512 && kernel->form == FORM_INT8) *rate = 64 * int8_avx512(ghz);
  if (kernel->isa == ISA_AVX2 && kernel->form == FORM_LUT4) *rate = 32 * 4 * lut4_avx2(ghz);
  if (kernel->isa == ISA_AVX2 && kernel->form == FORM_INT4) *rate = 32 * int4_avx2(ghz);
  if (kernel->isa == ISA_AVX2 && kernel->form == FORM_INT16) *rate = 16 * int16_avx2(ghz);
#endif
#if defined(BFCN_AMX)
  if (kernel->isa == ISA_AMX) *rate = 16 * 16 * 64 * tiles_amx(ghz);
#endif
  return *rate;
}

#endif
