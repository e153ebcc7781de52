/* One block of memory for a run: every value and every op's scratch, each while it lives. */
#ifndef BFCN_ARENA_H
#define BFCN_ARENA_H

#include "session.h"

/* Bytes and form of every value; who writes it, who reads it last, and whose place it takes. */
bfcn_status bfcn_shape_slots(struct bfcn_session *s);

/* Place values, and scratch[op] bytes for each thread: s->arena_bytes is known. */
bfcn_status bfcn_plan_arena(struct bfcn_session *s, const uint64_t *scratch);
bfcn_status bfcn_allocate_arena(struct bfcn_session *s);

/* The value whose scores are the logits, or 0. */
unsigned bfcn_logits_value(const bfcn_model *model);

#endif
