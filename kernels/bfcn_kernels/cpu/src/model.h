/* A checked model: ops in execution order, every source smaller than its op, every rule of
 * docs/format.md that does not depend on the image's size already held. */
#ifndef BFCN_MODEL_H
#define BFCN_MODEL_H

#include "bfcn.h"

enum opcode {
  OP_IMAGE_CODES = 1,
  OP_BIT_CONV,
  OP_TABLE,
  OP_MAX_POOL,
  OP_AVG_POOL,
  OP_ADAPTIVE_AVG_POOL,
  OP_RESIZE,
  OP_ADD,
  OP_CONCAT,
  OP_MASK,
  OP_ARGMAX,
  OP_CODES_END
};

enum mode { MODE_NEAREST, MODE_BILINEAR, MODE_ALIGN_CORNERS, MODES };
enum target { TARGET_LIKE, TARGET_SIZE, TARGET_FACTOR, TARGETS };

enum {
  MAX_OPS = 4096,
  MAX_CHANNELS = 65536,
  MAX_SIDE = 32768,
  MAX_EXTENT = 4096,
  MAX_TERMS = 16,
  MAX_SOURCES = 64,
  MAX_SUMMANDS = 1 << 20
};

struct value {
  bfcn_kind kind;
  unsigned channels, bits, zero_point;
};

struct window {
  unsigned kh, kw, sh, sw, ph, pw, dh, dw;
};

struct term {
  unsigned source;
  struct window window;
  unsigned groups, bits, form;
  int z;                 /* a weight code b stands for form * b - z */
  int64_t bound;         /* largest |acc| */
  const uint8_t *weight; /* canonical words, of any alignment: [channels][bits][words] */
  size_t length, words;  /* of a filter: weights, words a plane */
  const float *scale;    /* A, or R_i */
};

struct residual {
  unsigned source;
  float scale;
};

struct op {
  enum opcode code;
  const char *name;
  struct value out;
  unsigned source_count, source[MAX_SOURCES]; /* every value whose data it reads; 0 is the image */
  unsigned term_count, residual_count;
  struct term *terms;
  struct residual *residuals;
  const float *bias;
  const uint8_t *table;
  unsigned order[3];
  struct window window;
  int ceil, include_pad;
  float A, B;
  enum mode mode;
  enum target target;
  unsigned extent[2]; /* value, size or factor of a resize; size of an adaptive pool */
  unsigned dilation;  /* of a mask */
  unsigned summands;  /* of scores: convolutions whose outputs are added */
  int is_read;        /* by a later op */
};

/* What sessions of a model share and what they take: the only part that changes once it is loaded,
 * by packed.c, which is safe in threads. */
struct store {
  struct packed **first; /* [op_count]: of each op, a list */
  uint64_t bytes;        /* of sessions and of what they share, each counted once */
};

struct bfcn_model {
  struct op *ops; /* op i writes value i + 1 */
  unsigned op_count;
  const char **classes;
  size_t class_count;
  uint8_t *palette;
  struct block *blocks; /* everything allocated for the model */
  void *file;           /* bytes read from a path; NULL for a model in memory */
  size_t bytes;         /* of all that is allocated for the model */
  struct store *store;
};

struct grid {
  unsigned height, width;
};

/* Zeroed memory that lives as long as the model; NULL if there is none. */
void *bfcn_model_alloc(struct bfcn_model *model, size_t size);

/* What op (or 0: the image) `value` describes. */
struct value bfcn_model_value(const struct bfcn_model *model, unsigned value);

const char *bfcn_op_text(enum opcode code);

/* grids[0] is the image's, grids[i + 1] op i's. */
bfcn_status bfcn_model_grids(const struct bfcn_model *model, unsigned height, unsigned width,
                             struct grid *grids);

#endif
