/* test_fuzz_NAME COUNT SEED [FILE...]: COUNT runs of a fuzz target on files with some bytes, words
 * or lengths changed, or without files on random bytes. A FILE may be a folder's verdicts.txt, for
 * all that it lists. With BFCN_LIBFUZZER, libFuzzer's entry instead. */
#include "files.h"
#include "fuzz.h"

#include <stdarg.h>
#include <string.h>

void fuzz_fault(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  abort();
}

#if defined(BFCN_LIBFUZZER)
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_one(data, size);
  return 0;
}
#else

enum { MOST_FILES = 1024, RANDOM_BYTES = 1024 };

static uint64_t state;

static uint64_t next(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/* Change one place of a file; early places, the header and the index, more often than weights. */
static size_t mutate(uint8_t *data, size_t size) {
  static const uint32_t words[] = {0, 1, 2, 255, 4096, 65535, 65536, 0x7fffffff, 0x80000000, ~0u};
  const size_t reach = next() % 4 ? size / 8 + 1 : size;
  const size_t at = next() % (size > 4096 ? reach : size);
  switch (next() % 12) {
  case 0:
    return at + 1; /* truncated */
  case 1:
  case 2:
    data[at] ^= (uint8_t)(1u << next() % 8);
    return size;
  case 3:
  case 4:
    data[at] = (uint8_t)next();
    return size;
  case 5:
    data[at] = (uint8_t)(data[at] + 1);
    return size;
  default: {
    const size_t word = at & ~(size_t)3;
    if (word + 4 <= size) memcpy(data + word, &words[next() % 10], 4);
    return size;
  }
  }
}

/* In a block of its own size, so that a sanitizer sees every overrun. */
static int run_changed(const uint8_t *file, size_t size) {
  uint8_t *data = malloc(size);
  if (!data) exit(2);
  memcpy(data, file, size);
  size_t length = size;
  for (uint64_t changes = 1 + next() % 4; changes > 0; changes--) length = mutate(data, length);
  uint8_t *exact = realloc(data, length);
  const int taken = fuzz_one(exact ? exact : data, length);
  free(exact ? exact : data);
  return taken;
}

static int run_random(void) {
  uint8_t data[RANDOM_BYTES];
  const size_t size = 1 + next() % RANDOM_BYTES;
  for (size_t i = 0; i < size; i++) data[i] = (uint8_t)next();
  return fuzz_one(data, size);
}

struct file {
  uint8_t *data;
  size_t size;
};

/* Appends a file, or all that a verdicts.txt lists; returns how many there are then. */
static size_t append(const char *path, struct file *files, size_t count) {
  const char *name = strrchr(path, '/');
  if (!name || strcmp(name, "/verdicts.txt") != 0) {
    files[count].data = read_all(path, &files[count].size);
    if (!files[count].data) fuzz_fault("%s: cannot be read", path);
    if (files[count].size) return count + 1;
    free(files[count].data);
    return count;
  }
  FILE *list = fopen(path, "r");
  char line[512], full[1024];
  if (!list) fuzz_fault("%s: cannot be read", path);
  while (count < MOST_FILES && fgets(line, sizeof line, list)) {
    line[strcspn(line, "\t")] = 0;
    snprintf(full, sizeof full, "%.*s/%s", (int)(name - path), path, line);
    count = append(full, files, count);
  }
  fclose(list);
  return count;
}

int main(int count, char **arguments) {
  if (count < 3) return fprintf(stderr, "usage: %s COUNT SEED [FILE...]\n", arguments[0]), 2;
  static struct file files[MOST_FILES];
  size_t known = 0;
  for (int i = 3; i < count; i++) known = append(arguments[i], files, known);
  const long runs = atol(arguments[1]);
  state = strtoull(arguments[2], NULL, 10);
  long taken = 0;
  for (size_t i = 0; i < known; i++) fuzz_one(files[i].data, files[i].size);
  for (long i = 0; i < runs; i++) {
    const struct file *file = known ? &files[next() % known] : NULL;
    taken += file ? run_changed(file->data, file->size) : run_random();
  }
  printf("%ld executions, 0 faults, %ld were taken\n", runs, taken);
  for (size_t i = 0; i < known; i++) free(files[i].data);
  return 0;
}
#endif
