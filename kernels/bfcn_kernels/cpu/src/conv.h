/* bit_conv: choose a kernel for every term, pack its weights, run it block by block. */
#ifndef BFCN_CONV_H
#define BFCN_CONV_H

#include "session.h"

/* Plan op; its weights are packed and its scratch is known. Sets *conv, which conv_free frees. */
bfcn_status conv_plan(const struct bfcn_session *s, unsigned op, struct conv **conv);
void conv_free(struct conv *conv);

uint64_t conv_scratch(const struct conv *conv);
size_t conv_weight_bytes(const struct conv *conv);
const char *conv_kernel(const struct conv *conv);

void conv_run(struct bfcn_session *s, const struct conv *conv);

#endif
