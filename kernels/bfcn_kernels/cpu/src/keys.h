/* The keys of a packed model: types, names of ops, classes and palette. */
#ifndef BFCN_KEYS_H
#define BFCN_KEYS_H

#include "gguf.h"
#include "model.h"

/* Check every known key; allocate model->ops with their names, and classes and palette if any. */
bfcn_status bfcn_keys_decode(const struct gguf *gguf, struct bfcn_model *model);

#endif
