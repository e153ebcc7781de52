/* The only place that knows which instruction sets there are and which the CPU has.
 *
 * Another architecture joins here: its kernels are lines of kernels.inc and a backend of its own,
 * its ISA a member of enum isa (kernels.h) and a case of supported(). */
#include "bfcn.h"
#include "kernels.h"

#include <pthread.h>
#include <string.h>

_Alignas(64) uint8_t bfcn_lut6[2][64 * 64];
_Alignas(64) uint8_t bfcn_lut4[256 * 16];

#define BFCN_GEMM(name, ...) void name(const struct gemm *gemm);
#include "kernels.inc"
#undef BFCN_GEMM

#define BFCN_GEMM(name, isa, form, pass_planes, columns, mr, nr, lanes, sum_bits, rate) \
  {#name, ISA_##isa, FORM_##form, pass_planes, columns, mr, nr, lanes, sum_bits, rate, name},
const struct gemm_kernel bfcn_gemm_kernels[] = {
#include "kernels.inc"
};
#undef BFCN_GEMM
const size_t bfcn_gemm_kernel_count = sizeof bfcn_gemm_kernels / sizeof *bfcn_gemm_kernels;

const struct backend *bfcn_backend(enum isa isa) {
  switch (isa) {
#if defined(__x86_64__)
  case ISA_AVX512:
    return &bfcn_backend_avx512;
  case ISA_AVX2:
    return &bfcn_backend_avx2;
#endif
  default:
    return &bfcn_backend_portable;
  }
}

static int supported(enum isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
  case ISA_AVX512:
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("bmi2");
  case ISA_AVX2:
    return __builtin_cpu_supports("avx2");
  default:
    return 1;
  }
#else
  return isa == ISA_PORTABLE;
#endif
}

enum isa bfcn_best_isa(void) {
  int isa = ISAS - 1;
  while (!supported((enum isa)isa)) isa--;
  return (enum isa)isa;
}

const char *bfcn_isas(void) {
  static const char *const names[ISAS] = {"portable", "avx2 portable", "avx512 avx2 portable"};
  return names[bfcn_best_isa()];
}

static void fill_tables(void) {
  for (unsigned v = 0; v < 64; v++)
    for (unsigned e = 0; e < 64; e++)
      for (unsigned plane = 0; plane < 2; plane++)
        bfcn_lut6[plane][64 * v + e] = (uint8_t)(__builtin_popcount(v & e) << plane);
  for (unsigned v = 0; v < 256; v++)
    for (unsigned e = 0; e < 16; e++)
      bfcn_lut4[16 * v + e] =
          (uint8_t)(__builtin_popcount(v & 15 & e) + 2 * __builtin_popcount(v >> 4 & e));
}

void bfcn_tables_init(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, fill_tables);
}
