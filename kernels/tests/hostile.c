/* test_hostile FOLDER: every file that hostile.py has written there gets the verdict that its table
 * gives, read from disk and from memory; what is accepted is run on every instruction set. */
#include "bfcn.h"
#include "files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 8, MOST_VALUES = SIDE * SIDE * 64 };

struct verdict {
  const char *file, *kind, *says, *title;
};

static const char *kind_of(bfcn_status status) {
  static const char *const kinds[] = {"accepted",  "argument",    "FileError",
                                      "FileError", "GraphError",  "shape",
                                      "kernel",    "MemoryError", "kernel"};
  switch (status) {
  case BFCN_ERROR_MEMORY:
    return "MemoryError";
  case BFCN_ERROR_WORK:
    return "WorkError";
  default:
    return kinds[status];
  }
}

static bfcn_session *session_of(const bfcn_model *model, const char *isa, bfcn_status *status) {
  bfcn_session *session = NULL;
  const bfcn_options options = {.isa = isa, .threads = 2, .max_bytes = 256ul << 20};
  *status = bfcn_session_create(model, SIDE, SIDE, &options, &session);
  return session;
}

/* The output, 1 byte or float a value; 0 bytes if the session cannot be. */
static size_t run(const bfcn_model *model, const char *isa, uint8_t *out, bfcn_status *status) {
  uint8_t rgb[SIDE * SIDE * 3];
  for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(i * 37 + i / 5);
  bfcn_session *session = session_of(model, isa, status);
  if (!session) return 0;
  bfcn_op_info info;
  const size_t last = bfcn_session_ops(session) - 1;
  bfcn_session_op(session, last, &info);
  const size_t size = info.kind == BFCN_SCORES ? 4 : 1;
  const size_t bytes =
      size * info.height * info.width * (info.kind == BFCN_LABELS ? 1 : info.channels);
  *status = bfcn_session_run(session, rgb, 3 * SIDE, NULL);
  if (*status == BFCN_OK) *status = bfcn_session_read(session, last, out, 4 * MOST_VALUES);
  bfcn_session_free(session);
  return bytes;
}

/* All instruction sets agree with the portable one. */
static int runs_alike(const bfcn_model *model, bfcn_status *status) {
  static uint8_t expected[4 * MOST_VALUES], got[4 * MOST_VALUES];
  char isas[64];
  const size_t bytes = run(model, "portable", expected, status);
  if (*status != BFCN_OK) return 1;
  snprintf(isas, sizeof isas, "%s", bfcn_isas());
  for (char *isa = strtok(isas, " "); isa; isa = strtok(NULL, " ")) {
    if (run(model, isa, got, status) == bytes && !memcmp(got, expected, bytes)) continue;
    printf("  %s differs from portable\n", isa);
    return 0;
  }
  return 1;
}

static int check(const struct verdict *want, bfcn_status status, bfcn_model *model) {
  int alike = 1;
  if (status == BFCN_OK) alike = runs_alike(model, &status);
  bfcn_model_free(model);
  const char *said = status == BFCN_OK ? "" : bfcn_error();
  if (alike && !strcmp(kind_of(status), want->kind) && strstr(said, want->says)) return 0;
  printf("%s (%s): %s \"%s\", must be %s \"%s\"\n", want->title, want->file, kind_of(status), said,
         want->kind, want->says);
  return 1;
}

static int check_file(const char *folder, const struct verdict *want) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", folder, want->file);
  bfcn_model *model = NULL;
  bfcn_status status = bfcn_model_load(path, &model);
  if (check(want, status, model)) return 1;
  size_t size;
  uint8_t *bytes = read_all(path, &size); /* a block of its size: a sanitizer sees every overrun */
  if (!bytes) return printf("%s: cannot be read\n", path), 1;
  model = NULL;
  status = bfcn_model_load_memory(bytes, size, &model);
  const int failed = check(want, status, model);
  free(bytes);
  return failed;
}

int main(int count, char **arguments) {
  char path[512], line[512];
  if (count != 2) return fprintf(stderr, "usage: %s FOLDER\n", arguments[0]), 2;
  snprintf(path, sizeof path, "%s/verdicts.txt", arguments[1]);
  FILE *list = fopen(path, "r");
  if (!list) return fprintf(stderr, "%s: python hostile.py writes it\n", path), 2;
  int files = 0, failed = 0;
  for (; fgets(line, sizeof line, list); files++) {
    char *field[4] = {line};
    for (int i = 1; i < 4; i++) {
      field[i] = strchr(field[i - 1], '\t');
      if (!field[i]) return fprintf(stderr, "%s: 4 fields a line\n", path), 2;
      *field[i]++ = 0;
    }
    field[3][strcspn(field[3], "\n")] = 0;
    failed += check_file(arguments[1], &(struct verdict){field[0], field[1], field[2], field[3]});
  }
  fclose(list);
  printf("%d files, %d wrong verdicts\n", files, failed);
  return failed || files < 200;
}
