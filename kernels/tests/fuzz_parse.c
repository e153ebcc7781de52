/* The reader alone: any bytes are a model or are refused with a message. */
#include "bfcn.h"
#include "fuzz.h"

int fuzz_one(const uint8_t *data, size_t size) {
  bfcn_model *model;
  if (bfcn_model_load_memory(data, size, &model) != BFCN_OK) {
    if (!bfcn_error()[0]) fuzz_fault("refused without a message");
    return 0;
  }
  bfcn_model_free(model);
  return 1;
}
