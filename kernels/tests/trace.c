/* test_trace MODEL HEIGHT WIDTH [KERNEL]: run one image and print a line per op: name, kernel, and
 * a digest of every value's bytes; then the instruction sets, and the bytes of activations and of
 * weights in a session that need not keep all values. Two builds that agree bit for bit print the
 * same digests. */
#include "bfcn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t digest(const uint8_t *data, size_t size) { /* FNV-1a */
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < size; i++) hash = (hash ^ data[i]) * 0x100000001b3;
  return hash;
}

static int trace(const bfcn_session *session) {
  for (size_t i = 0; i < bfcn_session_ops(session); i++) {
    bfcn_op_info info;
    bfcn_session_op(session, i, &info);
    const size_t pixels = (size_t)info.height * info.width;
    const size_t bytes = pixels * (info.kind == BFCN_SCORES   ? 4ul * info.channels
                                   : info.kind == BFCN_LABELS ? 1
                                                              : info.channels);
    uint8_t *value = malloc(bytes);
    if (!value || bfcn_session_read(session, i, value, bytes) != BFCN_OK) return 0;
    printf("%s %s %016llx\n", info.name, *info.kernel ? info.kernel : "-",
           (unsigned long long)digest(value, bytes));
    free(value);
  }
  return 1;
}

/* Whether a session that keeps what it must could be planned, and its bytes. */
static int plain_bytes(const bfcn_model *model, unsigned height, unsigned width,
                       bfcn_options options, size_t bytes[2]) {
  bfcn_session *session;
  options.keep_values = 0;
  if (bfcn_session_create(model, height, width, &options, &session) != BFCN_OK) return 0;
  bytes[0] = bfcn_session_peak_bytes(session);
  bytes[1] = bfcn_session_weight_bytes(session);
  bfcn_session_free(session);
  return 1;
}

int main(int count, char **arguments) {
  bfcn_model *model;
  bfcn_session *session;
  if (count != 4 && count != 5)
    return fprintf(stderr, "usage: %s MODEL HEIGHT WIDTH [KERNEL]\n", arguments[0]), 2;
  const unsigned height = (unsigned)strtoul(arguments[2], NULL, 10);
  const unsigned width = (unsigned)strtoul(arguments[3], NULL, 10);
  const bfcn_options options = {.keep_values = 1, .kernel = count == 5 ? arguments[4] : NULL};
  size_t planned[2];
  if (bfcn_model_load(arguments[1], &model) != BFCN_OK ||
      !plain_bytes(model, height, width, options, planned) ||
      bfcn_session_create(model, height, width, &options, &session) != BFCN_OK)
    return fprintf(stderr, "%s\n", bfcn_error()), 1;
  const size_t bytes = 3ul * height * width;
  uint8_t *rgb = malloc(bytes);
  if (!rgb) return 1;
  for (size_t i = 0; i < bytes; i++) rgb[i] = (uint8_t)((i * 2654435761u) >> 24 ^ i / 7);
  const int fine = bfcn_session_run(session, rgb, 3ul * width, NULL) == BFCN_OK && trace(session);
  if (!fine) fprintf(stderr, "%s\n", bfcn_error());
  printf("isas %s\nbytes %zu %zu\n", bfcn_isas(), planned[0], planned[1]);
  free(rgb);
  bfcn_session_free(session);
  bfcn_model_free(model);
  return !fine;
}
