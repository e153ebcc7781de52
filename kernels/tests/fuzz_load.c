/* The reader, the planner and a run: what bytes still load is run on a small image, within limits.
 */
#include "bfcn.h"
#include "fuzz.h"

enum { SIDE = 16 };

int fuzz_one(const uint8_t *data, size_t size) {
  static const uint8_t rgb[SIDE * SIDE * 3] = {1, 2, 3};
  bfcn_model *model;
  bfcn_session *session;
  const bfcn_options options = {.max_bytes = 64ul << 20, .max_ops = 1ull << 30};
  bfcn_status status = bfcn_model_load_memory(data, size, &model);
  if (status != BFCN_OK) {
    if (!bfcn_error()[0]) fuzz_fault("refused without a message");
    return 0;
  }
  status = bfcn_session_create(model, SIDE, SIDE, &options, &session);
  if (status == BFCN_OK) {
    bfcn_session_run(session, rgb, SIDE * 3, NULL);
    bfcn_session_free(session);
  }
  bfcn_model_free(model);
  return 1;
}
