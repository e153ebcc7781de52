/* What planning leaves for the run of a bit_conv. */
#ifndef BFCN_CONV_PLAN_H
#define BFCN_CONV_PLAN_H

#include "conv.h"
#include "guard.h"
#include "packed.h"

/* A block of pixels is expanded, multiplied and finished together: at most BLOCK_PIXELS, fewer
 * where whole rows would take more scratch than BLOCK_BYTES, which a core's own caches hold; more
 * of both where a block unpacks weights. A tile may pass its end by TILE_PIXELS. A task of several
 * has at least TASK_PIXELS. */
enum { BLOCK_PIXELS = 128, LEAST_PIXELS = 24, BLOCK_BYTES = 96 << 10 };
enum { AMX_BLOCK_PIXELS = 256, AMX_BLOCK_BYTES = 1 << 20 };
enum { TILE_PIXELS = 16, TASK_PIXELS = 8 };
/* Kernels that share tables along a row (`columns`) look at the first pixel of a tile alone; their
 * tiles have a multiple of these. */
enum { ROW_TILE_PIXELS = 4 };
enum { LANES = 64, LEAST_BLOCK_LANES = 128, GATHER_BYTES = 16 };

/* A step of a form: its channels, the bytes of one output's weights, and the bytes of an activation
 * where codes are multiplied as numbers (0 where their planes are looked up or counted). */
struct step {
  unsigned channels, lane_bytes, code_bytes;
};

static inline struct step step_of(enum form form) {
  static const struct step steps[FORMS] = {
      [FORM_BITS] = {64, 8, 0}, [FORM_LUT6] = {6, 1, 0},  [FORM_LUT5] = {5, 1, 0},
      [FORM_LUT4] = {4, 1, 0},  [FORM_LUT3] = {3, 1, 0},  [FORM_INT8] = {4, 4, 1},
      [FORM_INT4] = {4, 4, 1},  [FORM_INT2] = {16, 2, 1}, [FORM_INT16] = {2, 4, 2}};
  return steps[form];
}

/* One term: an indirect matrix product over expanded rows of its source. */
struct conv_term {
  const struct term *term;
  struct value from;
  struct grid grid; /* of the source */
  const struct gemm_kernel *kernel;
  const struct backend *backend; /* that expands for the kernel */
  unsigned passes, planes;       /* of activations; of weights */
  size_t rows, columns, steps;
  size_t pixel_bytes, row_bytes;  /* expanded; row_bytes with padding pixels and slack */
  size_t pass_bytes;              /* from one pass's part of a pixel to the next's */
  size_t run_bytes, window_bytes; /* of a filter row, and of its rows gathered for a pixel; or 0 */
  size_t block_bytes, plane_bytes;
  size_t room_bytes;       /* for weights as bytes, or 0 */
  unsigned *first_channel; /* of each block of `lanes` outputs; NULL if all begin at 0 */
  int k, box_scale;
  /* Of a thread's scratch: room for `slots` expanded source rows, all that a block reads, and one
   * of padding. Where `ring`, row y goes to slot y % slots and stays until a later one takes it. */
  unsigned slots;
  int ring;
  size_t rows_at, row_sums_at, pixels_at, windows_at, slots_at, box_at, sums_at, room_at;
};

struct conv {
  const struct op *op;
  unsigned index; /* of the op */
  struct grid grid;
  unsigned outputs, padded; /* channels; to whole LANES */
  unsigned task_rows, row_tasks, lane_tasks, lanes_per_task;
  unsigned block_pixels, block_lanes; /* of a task, multiplied and finished at a time */
  struct conv_term *terms;
  struct value residual; /* of the first, if there is one */
  int with_thresholds, with_moves;
  struct packed *packed; /* what it reads, shared; NULL before attach */
  uint64_t scratch_bytes, weight_bytes;
  uint64_t own_bytes, packed_bytes; /* of all that planning, and packing, allocates */
  uint64_t passing_bytes;           /* that packing allocates and frees again */
#if defined(BFCN_GUARDED)
  unsigned redzones; /* in a thread's scratch, and where they are */
  size_t redzone_at[8 * MAX_TERMS];
#endif
};

static inline unsigned divide_up(unsigned a, unsigned b) {
  return (a + b - 1) / b;
}

/* Whether it multiplies whole tiles. */
static inline int in_tiles(const struct gemm_kernel *k) {
  return k->steps > 1;
}

/* Passes over the activations' planes that a kernel needs, and planes of weights it reads. */
static inline unsigned passes_of(const struct gemm_kernel *k, const struct conv_term *t) {
  return k->pass_planes ? divide_up(t->from.bits, k->pass_planes) : 1;
}

static inline unsigned planes_of(const struct gemm_kernel *k, const struct conv_term *t) {
  if (k->form == FORM_LUT3) return 1;
  if (!step_of(k->form).code_bytes || k->form == FORM_INT2) return t->term->bits;
  return k->form == FORM_INT8 && t->term->bits == 8 && t->term->form == 2 ? 2 : 1;
}

/* conv_choose.c: sets t->kernel; t->term and t->from are known. */
bfcn_status bfcn_choose_kernel(const struct bfcn_session *s, const struct conv *conv,
                               struct conv_term *t);

/* The kernel of k's family for `left` outputs of a map `width` wide: the widest that wastes
 * nothing, or the narrowest. */
const struct gemm_kernel *bfcn_kernel_for_outputs(const struct gemm_kernel *k, unsigned left,
                                                  unsigned width);

/* weights.c: what decides how a planned term's weights are packed; bytes that they take; pack them,
 * 0 if out of memory. */
struct order bfcn_order_of(const struct conv_term *t);
uint64_t bfcn_packed_bytes(const struct conv_term *t, unsigned padded);
int bfcn_pack_weights(const struct conv_term *t, unsigned outputs, unsigned padded,
                      struct packed_term *packed);

/* thresholds.c: 16-bit thresholds where the epilogue allows them, and moves if wanted: their bytes,
 * and find them; 0 if out of memory. */
uint64_t bfcn_thresholds_bytes(const struct conv *conv);
int bfcn_find_thresholds(const struct conv *conv, struct packed *packed);

/* pack.c: fill all of `packed`; after an error it is as empty as before. */
bfcn_status bfcn_pack(const struct bfcn_model *model, const struct conv *conv,
                      struct packed *packed);
void bfcn_pack_clear(struct packed *packed);

#endif
