/* The loader and the graph checks on broken files: no crash, and each refusal has a name.
 *
 * With BFCN_LIBFUZZER this is a libFuzzer target. Without, `test_fuzz_load FILE COUNT [SEED]`
 * mutates a good file COUNT times: bits, bytes, words and lengths, truncation. What still loads is
 * planned and run on a small image. */
#include "bfcn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 16 };

/* Values of a fuzzed graph may be huge: a session is refused what a test should not take. */
static int load_and_run(const uint8_t *data, size_t size) {
  static const uint8_t rgb[SIDE * SIDE * 3] = {1, 2, 3};
  bfcn_model *model;
  bfcn_session *session;
  const bfcn_options options = {.max_bytes = 64ul << 20};
  bfcn_status status = bfcn_model_load_memory(data, size, &model);
  if (status != BFCN_OK) return bfcn_error()[0] ? 0 : -1;
  status = bfcn_session_create(model, SIDE, SIDE, &options, &session);
  if (status == BFCN_OK) {
    bfcn_session_run(session, rgb, SIDE * 3, NULL);
    bfcn_session_free(session);
  }
  bfcn_model_free(model);
  return 1;
}

#if defined(BFCN_LIBFUZZER)
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (load_and_run(data, size) < 0) abort();
  return 0;
}
#else

static uint64_t state;

static uint64_t next(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/* Change one place of the file; early places, the header and the index, more often than weights. */
static size_t mutate(uint8_t *data, size_t size) {
  static const uint32_t words[] = {0, 1, 2, 255, 4096, 65535, 65536, 0x7fffffff, 0x80000000, ~0u};
  const size_t reach = next() % 4 ? size / 8 + 1 : size;
  const size_t at = next() % reach;
  switch (next() % 6) {
  case 0:
    return at + 1; /* truncated */
  case 1:
    data[at] ^= (uint8_t)(1u << next() % 8);
    return size;
  case 2:
    data[at] = (uint8_t)next();
    return size;
  case 3:
    data[at] = (uint8_t)(data[at] + 1);
    return size;
  default: {
    const size_t word = at & ~(size_t)3;
    if (word + 4 <= size) memcpy(data + word, &words[next() % 10], 4);
    return size;
  }
  }
}

static uint8_t *read_all(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  uint8_t *data = malloc(*size);
  if (data && fread(data, 1, *size, file) != *size) *size = 0;
  fclose(file);
  return data;
}

int main(int count, char **arguments) {
  size_t size;
  uint8_t *good = count > 2 ? read_all(arguments[1], &size) : NULL;
  if (!good) {
    fprintf(stderr, "usage: %s FILE COUNT [SEED]\n", arguments[0]);
    return 2;
  }
  const long runs = atol(arguments[2]);
  state = count > 3 ? strtoull(arguments[3], NULL, 10) : 1;
  if (load_and_run(good, size) != 1) {
    fprintf(stderr, "the good file does not load: %s\n", bfcn_error());
    return 1;
  }
  long loaded = 0;
  for (long i = 0; i < runs; i++) {
    uint8_t *data = malloc(size); /* its own block, so that a sanitizer sees every overrun */
    if (!data) return 2;
    memcpy(data, good, size);
    size_t length = size;
    for (uint64_t changes = 1 + next() % 4; changes > 0; changes--) length = mutate(data, length);
    uint8_t *exact = realloc(data, length);
    const int result = load_and_run(exact ? exact : data, length);
    free(exact ? exact : data);
    if (result < 0) {
      fprintf(stderr, "run %ld: refused without a message\n", i);
      return 1;
    }
    loaded += result;
  }
  printf("%ld executions, 0 crashes, %ld still loaded\n", runs, loaded);
  free(good);
  return 0;
}
#endif
