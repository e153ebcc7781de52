/* Thresholds that a file carries: an exact acceleration that must agree with A and B. */
#ifndef BFCN_STORED_THRESHOLDS_H
#define BFCN_STORED_THRESHOLDS_H

#include "model.h"

/* Whether int32 [channels][2^bits - 1], of any alignment, are the thresholds (docs/format.md) of a
 * convolution of one term without residuals. */
int bfcn_stored_thresholds_follow(const struct op *op, const uint8_t *stored);

#endif
