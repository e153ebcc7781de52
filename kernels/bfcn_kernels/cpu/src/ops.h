/* What ops that write whole rows share. A task is some rows of the output. */
#ifndef BFCN_OPS_H
#define BFCN_OPS_H

#include "session.h"

#include <math.h>

struct rows;
typedef void rows_function(const struct rows *r, unsigned row, unsigned end, uint8_t *scratch);

struct rows {
  struct bfcn_session *s;
  const struct op *op;
  unsigned value;      /* that the op writes */
  struct grid in, out; /* of the first source and of the value */
  struct value from, to;
  unsigned rows_per_task;
  rows_function *run;
};

static inline void *source_data(const struct rows *r, unsigned i) {
  return r->s->slots[r->op->source[i]].data;
}

static inline float code_float(float t, unsigned bits) {
  const float u = floorf(t + 0.5f), top = (float)((1u << bits) - 1);
  return u < 0 ? 0 : u > top ? top : u;
}

/* What op `op` of a session runs on; r.s is left to the caller. */
struct rows bfcn_rows_of(const struct bfcn_session *s, unsigned op);

/* interpolate.c, each with the bytes of scratch that a thread needs. */
rows_function bfcn_resize_codes, bfcn_resize_scores, bfcn_argmax;
/* out = other + the rows of a resize of scores, which may be in other's place. */
void bfcn_add_resized(const struct rows *resize, const float *other, float *out, unsigned row,
                      unsigned end, uint8_t *scratch);
uint64_t bfcn_add_resized_scratch(const struct rows *resize);
uint64_t bfcn_resize_codes_scratch(const struct rows *r);
uint64_t bfcn_resize_scores_scratch(const struct rows *r);
uint64_t bfcn_argmax_scratch(const struct rows *r);

#endif
