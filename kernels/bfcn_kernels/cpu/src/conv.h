/* bit_conv: choose a kernel for every term, pack its weights, run it block by block. */
#ifndef BFCN_CONV_H
#define BFCN_CONV_H

#include "session.h"

/* Plan op: pack its weights, count its scratch. Sets *conv, which bfcn_conv_free frees. */
bfcn_status bfcn_conv_plan(const struct bfcn_session *s, unsigned op, struct conv **conv);
/* Pack its weights and all else that a run reads. */
bfcn_status bfcn_conv_pack(const struct bfcn_session *s, struct conv *conv);
void bfcn_conv_free(struct conv *conv);

uint64_t bfcn_conv_scratch(const struct conv *conv);
uint64_t bfcn_conv_weight_bytes(const struct conv *conv);
/* Bytes that plan and pack take for good; *passing rises to what packing takes meanwhile. */
uint64_t bfcn_conv_total_bytes(const struct conv *conv, uint64_t *passing);
const char *bfcn_conv_kernel(const struct conv *conv);

void bfcn_conv_run(struct bfcn_session *s, const struct conv *conv);

#endif
