/* The contract between the convolution driver (conv.c) and the kernels.
 *
 * A convolution runs as an indirect matrix product. Rows of the source are first expanded into the
 * form that the kernel reads; a kernel then computes an mr x nr tile of
 *
 *     sum[p][o] = sum over rows, columns, steps of weight(o) * activation(p)
 *
 * where pixel p finds kernel row r at pixels[r * row_stride + p], and the taps of one row lie
 * column_bytes apart; then the next mr pixels' tile. An epilogue turns sums into codes. */
#ifndef BFCN_KERNELS_H
#define BFCN_KERNELS_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

#if FLT_EVAL_METHOD != 0
#error "every float operation must be rounded to float: on 32-bit x86, add -msse2 -mfpmath=sse"
#endif

/* Tile registers want Linux's leave and a compiler that knows them. */
#if defined(__x86_64__) && defined(__linux__) && (__GNUC__ >= 11 || __clang_major__ >= 12)
#define BFCN_AMX
#endif

/* What a step of each form reads. `passes` of 1 or 2 activation planes are summed with weights 4^i.
 *   FORM_BITS  a word of 64 channels a plane; weights: 64-bit words
 *   FORM_LUT6  the table of a pixel's 6 channels; weights: 6-bit indices into it
 *   FORM_LUT5  the table of a pixel's 5 channels; weights: 5-bit indices into it
 *   FORM_LUT4  the table of a pixel's 4 channels; weights: 4-bit indices into it
 *   FORM_LUT3  the table of a pixel's 3 channels; weights of 2 bits: 6-bit indices, both planes
 *   FORM_INT8  4 channels as bytes; weights: 4 int8
 *   FORM_INT4  the same where both have at most 4 bits, so that sums of some products fit 16 bits
 *   FORM_INT16 2 channels as uint16; weights: 2 int16
 *   FORM_INT2  16 channels as bytes; weights of 1 or 2 bits, which become bytes in `room`: words of
 *              16 outputs x 4 channels, [planes][16] of them for each 4 steps */
enum form {
  FORM_BITS,
  FORM_LUT6,
  FORM_LUT5,
  FORM_LUT4,
  FORM_LUT3,
  FORM_INT8,
  FORM_INT4,
  FORM_INT16,
  FORM_INT2,
  FORMS
};

/* What an instruction set has, the ones after it have, too. */
enum isa {
  ISA_PORTABLE,
#if defined(__x86_64__)
  ISA_AVX2,
  ISA_AVX512,
#if defined(BFCN_AMX)
  ISA_AMX,
#endif
#elif defined(__aarch64__) || defined(__arm__)
  ISA_NEON,
  ISA_DOTPROD,
  ISA_I8MM,
#endif
  ISAS
};

struct gemm {
  size_t tiles; /* of mr pixels each */
  const uint8_t *const *pixels;
  size_t row_stride;    /* pointers from one kernel row to the next */
  size_t rows, columns; /* of the filter */
  size_t column_bytes;
  size_t steps;        /* a tap */
  size_t run;          /* of a tap's steps, whose lookups fit a byte of every lane's sum */
  size_t first_byte;   /* of a pixel: where a group of channels begins */
  const void *weights; /* [lane blocks][planes][rows][columns][steps][lanes of a step] */
  size_t block_bytes;  /* from one block of lanes to the next */
  size_t plane_bytes;
  unsigned planes;     /* of weights */
  int8_t values[4];    /* FORM_INT2: of a weight's code */
  void *room;          /* FORM_INT2: nr bytes a channel of all taps */
  size_t tap_channels; /* FORM_INT2: past them, weights are 0 */
  unsigned shift;      /* sum << shift is written */
  int accumulate;      /* added to what `sums` holds, or replacing it */
  int wide;            /* FORM_INT8: activations of 8 bits, which pass int8 */
  int pairs_fit;       /* FORM_INT8: the sum of steps 2i and 2i + 1 of a channel fits 16 bits */
  void *sums;          /* of sum_bits, pixel p at sums + p * sum_stride */
  size_t sum_stride;   /* in elements */
};

typedef void gemm_function(const struct gemm *gemm);

struct gemm_kernel {
  const char *name;
  enum isa isa;
  enum form form;
  unsigned pass_planes; /* activation planes a pass takes: 1 or 2; 0 where codes are multiplied */
  unsigned columns;     /* taps of a filter row that it needs, at stride and dilation 1; 0: any */
  unsigned mr, nr;
  unsigned lanes;       /* outputs a block of weights holds; nr is a multiple */
  unsigned steps;       /* a tap's are a multiple, the last ones with weights of 0 */
  unsigned sum_bits;    /* 16 or 32 */
  float macs_per_cycle; /* measured on long layers: what the planner compares */
  gemm_function *run;
};

/* All kernels of kernels.inc that this build has, in its order. */
extern const struct gemm_kernel bfcn_gemm_kernels[];
extern const size_t bfcn_gemm_kernel_count;

/* Bits per pixel planes -> a kernel's form. `codes` holds `pixels` x `planes` x `words` words. */
struct expand {
  const uint64_t *codes;
  size_t pixels;
  unsigned channels, planes, words;
  unsigned pass_planes;
  void *out;
};

/* Sums of one block of pixels -> the output. Channel vectors are padded to a multiple of 64. The
 * output may take the place of a residual of the same form: of each word of a pixel's planes, or
 * byte, the residual is read before it is written. */
struct epilogue_term {
  const void *sums; /* uint16, int16 or int32 [pixels][sum_stride] */
  size_t sum_stride;
  unsigned sum_bits;
  int negative; /* sums of 16 bits may be: products of numbers are, lookups are not */
  int narrow;   /* sums are of 16 bits and acc, but for its offset, is an int16 */
  int k;        /* acc = k * sum + box_scale * box[p] + offset[c] */
  int box_scale;
  const int32_t *box;    /* [pixels]: sum of the codes under the filter; NULL if box_scale is 0 */
  const int32_t *offset; /* [channels]: what a zero point leaves; NULL if none */
  const float *scale;    /* A, or R_i */
};

struct epilogue_residual {
  const void *codes; /* planes (bits <= 4) or bytes, from the block's first pixel */
  unsigned bits;
  const float *addend; /* f32(q - zp) * R by code: 2^bits entries */
};

struct epilogue {
  size_t pixels;
  unsigned first,
      channels; /* this call writes channels [first, first + channels), first % 64 == 0 */
  unsigned all_channels;
  unsigned terms, residuals;
  const struct epilogue_term *term;
  const struct epilogue_residual *residual;
  const float *bias; /* B */
  unsigned bits;     /* of the output codes; 0 for scores */
  void *out;         /* planes, bytes or floats, from the block's first pixel */
  /* Thresholds on k * sum + box_scale * box in 16 bits, or NULL: [channels /
   * 32][4^residual][j][32]: code >= j where (acc > threshold) ^ flip. Padding channels, whose sums
   * may hold anything, have INT16_MAX: no acc exceeds it, and their codes stay 0. */
  const int16_t *thresholds;
  const uint32_t *flips; /* [channels / 32] */
  /* With a residual, where the backend reads them: [channels / 32][bits of the residual + j][32]:
   * what a set bit of its code adds to QUARTERS times acc, and one threshold for all its codes; for
   * those 8 channels of which `moved` says so. */
  const int16_t *moves;
  const uint8_t *moved; /* [channels / 8] */
};

enum { QUARTERS = 4 };

enum { LERP_SLACK = 16, MOST_RESIDUALS = 16 };

/* What an instruction set offers besides its matrix kernels. */
struct backend {
  const char *name;
  /* Around all that a thread does of a convolution, or NULL. */
  void (*enter)(void);
  void (*leave)(void);
  int wide_zero; /* FORM_INT8 reads codes of 8 bits as code - wide_zero; offsets make up for it */
  void (*expand[FORMS])(const struct expand *expand);
  void (*epilogue)(const struct epilogue *epilogue);           /* through float32 */
  void (*epilogue_threshold)(const struct epilogue *epilogue); /* 16-bit thresholds, bits 1..2 */
  int moves;                                                   /* epilogue_threshold reads them */
  int doubled_sums; /* where k is 2, thresholds read sums that the matrix kernel has doubled */
  /* sums[p] = sum of the codes of pixel p */
  void (*sum_codes)(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                    int32_t *sums);
  void (*unpack)(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                 unsigned channels, uint8_t *codes);
  void (*pack)(const uint8_t *codes, unsigned channels, size_t pixels, unsigned bits,
               unsigned words, uint64_t *planes);
  /* out[i] = lerp(a[i], b[i], l) */
  void (*lerp)(const float *a, const float *b, float l, size_t count, float *out);
  /* out[c][x] = lerp(row[c][x0[x]], row[c][x1[x]], l[x]); row is [channels][stride] with LERP_SLACK
   * floats past each row's end, out is [channels][width]; x0 and x1 rise. */
  void (*lerp_columns)(const float *row, size_t stride, unsigned channels, const int32_t *x0,
                       const int32_t *x1, const float *l, size_t width, float *out);
  /* labels[x] = the first largest c of lerp(top[c][x], bottom[c][x], l) */
  void (*argmax_row)(const float *top, const float *bottom, float l, unsigned channels,
                     size_t width, uint8_t *labels);
};

extern const struct backend bfcn_backend_portable, bfcn_backend_avx2, bfcn_backend_avx512,
    bfcn_backend_amx, bfcn_backend_neon, bfcn_backend_dotprod, bfcn_backend_i8mm;

/* Partial sums by index, shared by the LUT kernels; filled once by bfcn_tables_init().
 *   lut6[plane][64 * v + e] = popcount(v & e) << plane          e: 6 weight bits, v: 6 activation
 * bits lut4[16 * (v1 << 4 | v0) + e] = popcount(v0 & e) + 2 * popcount(v1 & e)
 *   lut3[64 * (v1 << 3 | v0) + (e1 << 3 | e0)]: the sum of (e0 + 2 e1) (v0 + 2 v1) by channel
 *   lut5[32 * (v1 << 5 | v0) + e] = popcount(v0 & e) + 2 * popcount(v1 & e): on AArch64 alone */
extern _Alignas(64) uint8_t bfcn_lut6[2][64 * 64];
extern _Alignas(64) uint8_t bfcn_lut4[256 * 16];
extern _Alignas(64) uint8_t bfcn_lut3[64 * 64];
#if defined(__aarch64__)
extern _Alignas(64) uint8_t bfcn_lut5[1024 * 32];
#endif
void bfcn_tables_init(void);

/* The best instruction set that the CPU has and this build holds. */
enum isa bfcn_best_isa(void);
const struct backend *bfcn_backend(enum isa isa);

#endif
