/* From graph records and named tensors to checked ops. */
#ifndef BFCN_GRAPH_H
#define BFCN_GRAPH_H

#include "gguf.h"
#include "model.h"

/* model->ops have their names; fill in the rest. */
bfcn_status bfcn_graph_decode(const struct gguf *gguf, struct bfcn_model *model);

#endif
