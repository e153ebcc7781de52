/* bit_conv: choose a kernel for every term, run it block by block. */
#ifndef BFCN_CONV_H
#define BFCN_CONV_H

#include "session.h"

/* Plan op: choose kernels, count its scratch and bytes. Sets *conv, which bfcn_conv_free frees. */
bfcn_status bfcn_conv_plan(const struct bfcn_session *s, unsigned op, struct conv **conv);
void bfcn_conv_free(struct conv *conv);

uint64_t bfcn_conv_scratch(const struct conv *conv);
const char *bfcn_conv_kernel(const struct conv *conv);

void bfcn_conv_run(struct bfcn_session *s, const struct conv *conv);

#endif
