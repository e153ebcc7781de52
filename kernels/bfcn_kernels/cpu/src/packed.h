/* What kernels read of a bit_conv's weights and channels, packed in their order. It belongs to the
 * model: sessions whose kernels read the same order share it, whatever their image size. */
#ifndef BFCN_PACKED_H
#define BFCN_PACKED_H

#include "kernels.h"
#include "model.h"

/* All that packing a term depends on, besides the model. */
struct order {
  enum form form;
  unsigned lanes, steps, pass_planes; /* of the kernel */
  int zero_shift;                     /* the code that its sums count as 0, less the network's */
};

struct packed_term {
  struct order order;
  uint8_t *weights;
  int32_t *offset;        /* [outputs], or NULL without a zero shift */
  float *scale;           /* padded */
  size_t run, shared_run; /* of steps between two widenings, for lookups; shared_run: of kernels
                             that share tables along a row */
  int pairs_fit;          /* of steps' products in 16 bits */
};

struct packed {
  struct packed *next; /* of the op */
  const struct op *op;
  unsigned index;      /* of the op */
  unsigned references; /* sessions */
  enum { PACKED_EMPTY, PACKED_BUSY, PACKED_READY } state;
  uint64_t bytes;                  /* of all that is allocated for it */
  int with_thresholds, with_moves; /* where the op allows them */
  struct packed_term *terms;
  float *bias, *addends;       /* addends: 256 entries a residual */
  int16_t *thresholds, *moves; /* as in struct epilogue */
  uint32_t *flips;
  uint8_t *moved;
};

struct bfcn_session;
struct conv;

/* Find or add what the session's convolutions read, not yet filled, and count its bytes and the
 * session's own as taken, unless all together pass `limit`; *needed is all together. Returns 1, 0
 * past the limit, -1 out of memory. */
int bfcn_packed_attach(struct bfcn_session *s, uint64_t limit, uint64_t *needed);
/* Fill what a convolution reads, or wait for the thread that does. */
bfcn_status bfcn_packed_fill(const struct bfcn_model *model, const struct conv *conv);
/* Undo attach. What no session reads any more stays for the next, until a limit needs its bytes. */
void bfcn_packed_detach(struct bfcn_session *s);

/* Bytes that the model, its sessions and what they share take now. */
uint64_t bfcn_packed_taken(const struct bfcn_model *model);
void bfcn_packed_free_all(struct bfcn_model *model);

#endif
