/* Valid graphs of every op, half of them with one field changed: what the reader takes is planned
 * and run, on each instruction set, with 1 to 3 threads, values kept or sharing memory. All must
 * agree; the address sanitizer watches the arena's red zones. */
#include "bfcn.h"
#include "fuzz.h"
#include "make_graph.h"

#include <stdlib.h>
#include <string.h>

struct values {
  uint8_t *bytes; /* of all values, or of the last one, then of the logits */
  size_t size;
};

static size_t value_bytes(const bfcn_op_info *info) {
  const size_t each = info->kind == BFCN_SCORES   ? 4ul * info->channels
                      : info->kind == BFCN_LABELS ? 1
                                                  : info->channels;
  return each * info->height * info->width;
}

/* Values from `first` on, one after the other, then the logits: labels hide much. */
static struct values values_of(const bfcn_session *session, size_t first) {
  struct values v = {0};
  bfcn_op_info info;
  for (size_t i = first; i < bfcn_session_ops(session); i++) {
    bfcn_session_op(session, i, &info);
    v.size += value_bytes(&info);
  }
  unsigned height = 0, width = 0, channels = 0;
  const float *logits = bfcn_session_logits(session, &height, &width, &channels);
  const size_t logit_bytes = 4ul * height * width * channels;
  v.size += logit_bytes;
  v.bytes = malloc(v.size);
  size_t at = 0;
  for (size_t i = first; v.bytes && i < bfcn_session_ops(session); i++) {
    bfcn_session_op(session, i, &info);
    if (bfcn_session_read(session, i, v.bytes + at, v.size - at) != BFCN_OK)
      fuzz_fault("op %s cannot be read: %s", info.name, bfcn_error());
    at += value_bytes(&info);
  }
  if (v.bytes && logits) memcpy(v.bytes + at, logits, logit_bytes);
  return v;
}

struct setting {
  const char *isa;
  unsigned threads;
  int keep;
};

/* A run on a fixed image; no bytes if the size is refused. */
static struct values run(const bfcn_model *model, const struct made_model *made,
                         const struct setting *setting) {
  static uint8_t rgb[3 * 26 * 40];
  for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(i * 2654435761u >> 24);
  struct values v = {0};
  bfcn_session *session;
  const bfcn_options options = {.threads = setting->threads,
                                .isa = setting->isa,
                                .keep_values = setting->keep,
                                .max_bytes = 64ul << 20,
                                .max_ops =
                                    1ull << 26}; /* portable code under sanitizers takes a second */
  const bfcn_status status =
      bfcn_session_create(model, made->height, made->width, &options, &session);
  if (status != BFCN_OK) {
    if (!bfcn_error()[0]) fuzz_fault("refused without a message");
    if (!made->changed && status != BFCN_ERROR_WORK)
      fuzz_fault("a valid graph is refused: %s", bfcn_error());
    return v;
  }
  for (int again = 0; again < (setting->keep ? 1 : 2); again++) /* the second finds what is left */
    if (bfcn_session_run(session, rgb, 3ul * made->width, NULL) != BFCN_OK)
      fuzz_fault("a planned session does not run: %s", bfcn_error());
  v = values_of(session, setting->keep ? 0 : bfcn_session_ops(session) - 1);
  bfcn_session_free(session);
  return v;
}

/* The bytes are the last ones of `expected`. A changed graph may pass the limit on one alone. */
static void compare(const struct values *expected, const struct values *got, const char *isa,
                    int changed) {
  if (!got->bytes && changed) return;
  if (!got->bytes || got->size > expected->size)
    fuzz_fault("%s refuses what portable runs, or gives other shapes", isa);
  if (memcmp(expected->bytes + expected->size - got->size, got->bytes, got->size) != 0)
    fuzz_fault("%s differs from portable", isa);
}

int fuzz_one(const uint8_t *data, size_t size) {
  const struct made_model made = make_graph(data, size);
  bfcn_model *model;
  int taken = 0;
  if (!made.file) return 0;
  if (bfcn_model_load_memory(made.file, made.size, &model) != BFCN_OK) {
    if (!bfcn_error()[0]) fuzz_fault("refused without a message");
    if (!made.changed) fuzz_fault("a valid graph is refused: %s", bfcn_error());
    free(made.file);
    return 0;
  }
  struct values expected = run(model, &made, &(struct setting){"portable", 1, 1});
  char isas[64];
  strcpy(isas, bfcn_isas());
  for (char *isa = strtok(isas, " "); expected.bytes && isa; isa = strtok(NULL, " ")) {
    const unsigned choice = (unsigned)size + made.height + made.width;
    const struct setting setting = {isa, choice % 4 ? 1 : 2 + choice % 8 / 4, choice % 5 == 0};
    struct values got = run(model, &made, &setting);
    compare(&expected, &got, isa, made.changed);
    free(got.bytes);
    taken = 1;
  }
  free(expected.bytes);
  bfcn_model_free(model);
  free(made.file);
  return taken;
}
