/* Compile the functions of one file for one instruction set, whatever the flags of the build. */
#ifndef BFCN_TARGET_H
#define BFCN_TARGET_H

#define BFCN_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define TARGET_BEGIN(features) \
  BFCN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END BFCN_PRAGMA(clang attribute pop)
#define UNROLLED BFCN_PRAGMA(clang loop unroll(full))
#define ROLLED BFCN_PRAGMA(clang loop unroll(disable))
#else
#define TARGET_BEGIN(features) BFCN_PRAGMA(GCC push_options) BFCN_PRAGMA(GCC target(features))
#define TARGET_END BFCN_PRAGMA(GCC pop_options)
#define UNROLLED BFCN_PRAGMA(GCC unroll 16)
#define ROLLED BFCN_PRAGMA(GCC unroll 1)
#endif

#define AVX2_FEATURES "avx2,popcnt"
#define AVX512_FEATURES \
  "avx2,popcnt,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512vpopcntdq"
#define AMX_FEATURES AVX512_FEATURES ",amx-tile,amx-int8"
#define DOTPROD_FEATURES "arch=armv8.2-a+dotprod"
#define I8MM_FEATURES "arch=armv8.2-a+dotprod+i8mm"

/* A tile function is inlined with its sizes as constants, so that its arrays become registers. */
#define TILE static inline __attribute__((always_inline)) void

/* `run` on &tile, tile by tile of mr pixels whose sums are of type `sum`. The copy is the kernel's
 * own: its fields can stay in registers, where those of *g could change with every store. Where gcc
 * 12 then has too few for the innermost loop, EACH_TILE_IN_MEMORY keeps them out. */
#define EACH_TILE_AFTER(start, g, mr, sum, run)              \
  do {                                                       \
    struct gemm tile = *(g);                                 \
    for (; tile.tiles > 0; tile.tiles--) {                   \
      start;                                                 \
      run;                                                   \
      tile.pixels += (mr);                                   \
      tile.sums = (sum *)tile.sums + (mr) * tile.sum_stride; \
    }                                                        \
  } while (0)
#define EACH_TILE(g, mr, sum, run) EACH_TILE_AFTER((void)0, g, mr, sum, run)
#define EACH_TILE_IN_MEMORY(g, mr, sum, run) \
  EACH_TILE_AFTER(__asm__("" : "+m"(tile)), g, mr, sum, run)

#endif
