/* Fill what kernels and epilogues read of a bit_conv. */
#include "conv_plan.h"
#include "status.h"

#include <stdlib.h>
#include <string.h>

/* f32(q - zp) * R of every code of every residual. */
static int pack_addends(const struct bfcn_model *model, struct packed *packed) {
  const struct op *op = packed->op;
  packed->addends = calloc(op->residual_count + 1ul, 256 * sizeof *packed->addends);
  if (!packed->addends) return 0;
  for (unsigned i = 0; i < op->residual_count; i++) {
    const struct value from = bfcn_model_value(model, op->residuals[i].source);
    for (unsigned code = 0; code < 1u << from.bits; code++)
      packed->addends[256 * i + code] =
          (float)((int)code - (int)from.zero_point) * op->residuals[i].scale;
  }
  return 1;
}

static int pack_terms(const struct conv *conv, struct packed *packed) {
  for (unsigned i = 0; i < conv->op->term_count; i++) {
    struct packed_term *term = &packed->terms[i];
    term->scale = calloc(conv->padded, sizeof *term->scale);
    if (!term->scale || !bfcn_pack_weights(&conv->terms[i], conv->outputs, conv->padded, term))
      return 0;
    memcpy(term->scale, conv->op->terms[i].scale, conv->outputs * sizeof *term->scale);
  }
  return 1;
}

static bfcn_status pack(const struct bfcn_model *model, const struct conv *conv,
                        struct packed *packed) {
  const char *const name = conv->op->name;
  if (!pack_terms(conv, packed))
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its weights", name);
  packed->bias = calloc(conv->padded, sizeof *packed->bias);
  if (!packed->bias || !pack_addends(model, packed))
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its residuals", name);
  memcpy(packed->bias, conv->op->bias, conv->outputs * sizeof *packed->bias);
  if (!bfcn_find_thresholds(conv, packed))
    return bfcn_fail(BFCN_ERROR_MEMORY, "op '%s': no memory for its thresholds", name);
  return BFCN_OK;
}

bfcn_status bfcn_pack(const struct bfcn_model *model, const struct conv *conv,
                      struct packed *packed) {
  const bfcn_status status = pack(model, conv, packed);
  if (status != BFCN_OK) bfcn_pack_clear(packed);
  return status;
}

void bfcn_pack_clear(struct packed *packed) {
  for (unsigned i = 0; i < packed->op->term_count; i++) {
    struct packed_term *term = &packed->terms[i];
    free(term->weights);
    free(term->offset);
    free(term->scale);
    *term = (struct packed_term){.order = term->order};
  }
  free(packed->bias);
  free(packed->addends);
  free(packed->thresholds);
  free(packed->flips);
  free(packed->moves);
  free(packed->moved);
  packed->bias = packed->addends = NULL;
  packed->thresholds = packed->moves = NULL;
  packed->flips = NULL;
  packed->moved = NULL;
}
