/* The only place that knows which instruction sets there are and which the CPU has.
 *
 * Another architecture joins here: its kernels are lines of kernels.inc and a backend of its own,
 * its ISA members of enum isa (kernels.h) and cases of supported(). */
#include "bfcn.h"
#include "kernels.h"

#include "kernels/neon.h"

#include <pthread.h>
#include <string.h>
#if defined(BFCN_NEON)
#include <sys/auxv.h>
#elif defined(BFCN_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

_Alignas(64) uint8_t bfcn_lut6[2][64 * 64];
_Alignas(64) uint8_t bfcn_lut4[256 * 16];
_Alignas(64) uint8_t bfcn_lut3[64 * 64];
#if defined(__aarch64__)
_Alignas(64) uint8_t bfcn_lut5[1024 * 32];
#endif

#define BFCN_GEMM(name, ...) void bfcn_##name(const struct gemm *gemm);
#include "kernels.inc"
#undef BFCN_GEMM

#define BFCN_GEMM(name, isa, form, planes, columns, mr, nr, lanes, steps, bits, rate) \
  {#name, ISA_##isa, FORM_##form, planes, columns, mr, nr, lanes, steps, bits, rate, bfcn_##name},
const struct gemm_kernel bfcn_gemm_kernels[] = {
#include "kernels.inc"
};
#undef BFCN_GEMM
const size_t bfcn_gemm_kernel_count = sizeof bfcn_gemm_kernels / sizeof *bfcn_gemm_kernels;

const struct backend *bfcn_backend(enum isa isa) {
  switch (isa) {
#if defined(__x86_64__)
#if defined(BFCN_AMX)
  case ISA_AMX:
    return &bfcn_backend_amx;
#endif
  case ISA_AVX512:
    return &bfcn_backend_avx512;
  case ISA_AVX2:
    return &bfcn_backend_avx2;
#elif defined(BFCN_NEON)
  case ISA_NEON:
    return &bfcn_backend_neon;
#if defined(__aarch64__)
  case ISA_DOTPROD:
    return &bfcn_backend_dotprod;
  case ISA_I8MM:
    return &bfcn_backend_i8mm;
#endif
#endif
  default:
    return &bfcn_backend_portable;
  }
}

#if defined(BFCN_AMX)
/* Tile registers are the kernel's to grant, to the whole process. */
static int tiles_are_granted(void) {
  enum { ASK = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
  enum { TILE = 1 << 24, INT8 = 1 << 25 };
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & TILE) || !(d & INT8)) return 0;
  return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}
#endif

static int supported(enum isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
#if defined(BFCN_AMX)
  case ISA_AMX:
    return supported(ISA_AVX512) && tiles_are_granted();
#endif
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
#elif defined(BFCN_NEON)
  /* Bits of the kernel's auxiliary vector: asm/hwcap.h. */
  enum { ARM_NEON = 1 << 12, AARCH64_ASIMD = 1 << 1, AARCH64_DOTPROD = 1 << 20, I8MM2 = 1 << 13 };
  switch (isa) {
  case ISA_PORTABLE:
    return 1;
#if defined(__aarch64__)
  case ISA_NEON:
    return (getauxval(AT_HWCAP) & AARCH64_ASIMD) != 0;
  case ISA_DOTPROD:
    return (getauxval(AT_HWCAP) & AARCH64_DOTPROD) != 0;
  case ISA_I8MM:
    return (getauxval(AT_HWCAP) & AARCH64_DOTPROD) && (getauxval(AT_HWCAP2) & I8MM2);
#else
  case ISA_NEON:
    return (getauxval(AT_HWCAP) & ARM_NEON) != 0;
#endif
  default:
    return 0;
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
#if defined(__x86_64__)
  static const char *const names[] = {"portable", "avx2 portable", "avx512 avx2 portable",
                                      "amx avx512 avx2 portable"};
#elif defined(__aarch64__) || defined(__arm__)
  static const char *const names[ISAS] = {"portable", "neon portable", "dotprod neon portable",
                                          "i8mm dotprod neon portable"};
#else
  static const char *const names[ISAS] = {"portable"};
#endif
  return names[bfcn_best_isa()];
}

static void fill_tables(void) {
  for (unsigned v = 0; v < 64; v++)
    for (unsigned e = 0; e < 64; e++) {
      for (unsigned plane = 0; plane < 2; plane++)
        bfcn_lut6[plane][64 * v + e] = (uint8_t)(__builtin_popcount(v & e) << plane);
      for (unsigned w = 0; w < 2; w++)
        for (unsigned a = 0; a < 2; a++)
          bfcn_lut3[64 * v + e] +=
              (uint8_t)(__builtin_popcount(e >> 3 * w & v >> 3 * a & 7) << (w + a));
    }
  for (unsigned v = 0; v < 256; v++)
    for (unsigned e = 0; e < 16; e++)
      bfcn_lut4[16 * v + e] =
          (uint8_t)(__builtin_popcount(v & 15 & e) + 2 * __builtin_popcount(v >> 4 & e));
#if defined(__aarch64__)
  for (unsigned v = 0; v < 1024; v++)
    for (unsigned e = 0; e < 32; e++)
      bfcn_lut5[32 * v + e] =
          (uint8_t)(__builtin_popcount(v & 31 & e) + 2 * __builtin_popcount(v >> 5 & e));
#endif
}

void bfcn_tables_init(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, fill_tables);
}
