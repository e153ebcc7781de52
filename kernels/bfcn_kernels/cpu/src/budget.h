/* What a file may make a session take, worked out before it is taken. */
#ifndef BFCN_BUDGET_H
#define BFCN_BUDGET_H

#include "model.h"

/* Refuse an image whose operations, as docs/format.md counts them, pass max_ops (0: 2^44). */
bfcn_status bfcn_limit_work(const struct bfcn_model *model, const struct grid *grids,
                            uint64_t max_ops);

/* Of memory: what the system would give without swapping, within a container's own limit. */
uint64_t bfcn_free_bytes(void);

/* Sums and products of sizes from a file, in 64 bits, that stay at UINT64_MAX once they pass it. */
static inline uint64_t bfcn_add(uint64_t a, uint64_t b) {
  return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static inline uint64_t bfcn_times(uint64_t a, uint64_t b) {
  return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

#endif
