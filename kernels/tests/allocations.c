/* test_allocations FILE: whichever allocation fails while a model is loaded, planned and run, the
 * call says so and everything is given back. And no model takes more than it counts. Linked with
 * --wrap, so that malloc and its kin come here first. */
#include "bfcn.h"
#include "files.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { HEIGHT = 24, WIDTH = 36 };

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *block);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *block);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);

/* Allocations left until one fails (-1: none does), blocks that are not yet freed, and their bytes.
 */
static long countdown = -1, live;
static size_t taken, most;
static struct {
  void *at;
  size_t size;
} blocks[4096];

static int fails(void) {
  return countdown >= 0 && countdown-- == 0;
}

static void *note(void *block, size_t size) {
  if (!block) return NULL;
  live++;
  taken += size;
  if (taken > most) most = taken;
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
    if (!blocks[i].at) {
      blocks[i].at = block, blocks[i].size = size;
      return block;
    }
  abort();
}

void *__wrap_malloc(size_t size) {
  return fails() ? NULL : note(__real_malloc(size), size);
}

void *__wrap_calloc(size_t count, size_t size) {
  return fails() ? NULL : note(__real_calloc(count, size), count * size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
  return fails() ? NULL : note(__real_aligned_alloc(alignment, size), size);
}

void __wrap_free(void *block) {
  for (size_t i = 0; block && i < sizeof blocks / sizeof *blocks; i++)
    if (blocks[i].at == block) {
      live--;
      taken -= blocks[i].size;
      blocks[i].at = NULL;
    }
  __real_free(block);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
  return fails() ? EAGAIN : __real_pthread_create(thread, attributes, run, argument);
}

struct outcome {
  bfcn_status status;
  size_t total; /* bytes that the model counts, with its sessions */
};

static bfcn_status run(bfcn_session *const *sessions, size_t count) {
  static const uint8_t rgb[(HEIGHT + 1) * WIDTH * 3] = {1, 2, 3};
  static uint8_t labels[(HEIGHT + 1) * WIDTH];
  bfcn_status status = BFCN_OK;
  for (size_t i = 0; status == BFCN_OK && i < count; i++)
    status = bfcn_session_run(sessions[i], rgb, WIDTH * 3, labels);
  return status;
}

/* Two sizes, whose sessions share weights: where the second cannot be made, the first still runs.
 */
static struct outcome use(const char *path, const char *isa, unsigned threads) {
  bfcn_model *model;
  bfcn_session *sessions[2];
  const bfcn_options options = {.isa = isa, .threads = threads};
  struct outcome outcome = {bfcn_model_load(path, &model), 0};
  if (outcome.status != BFCN_OK) return outcome;
  size_t made = 0;
  for (; made < 2 && outcome.status == BFCN_OK; made += outcome.status == BFCN_OK)
    outcome.status =
        bfcn_session_create(model, HEIGHT + (unsigned)made, WIDTH, &options, &sessions[made]);
  outcome.total = bfcn_model_bytes(model);
  const bfcn_status ran = run(sessions, made);
  if (outcome.status == BFCN_OK) outcome.status = ran;
  while (made > 0) bfcn_session_free(sessions[--made]);
  bfcn_model_free(model);
  return outcome;
}

/* Fails each allocation in turn until none is left to fail; returns how many there are, or -1. */
static long fail_each(const char *path, const char *isa, unsigned threads) {
  for (long n = 0;; n++) {
    countdown = n;
    const struct outcome outcome = use(path, isa, threads);
    const int failed = countdown < 0; /* the n-th was reached */
    countdown = -1;
    if (live || taken)
      return printf("%s: %ld blocks leak where allocation %ld fails\n", isa, live, n), -1;
    if (!failed && outcome.status == BFCN_OK) return n;
    if (failed && outcome.status != BFCN_ERROR_MEMORY)
      return printf("%s: status %d where allocation %ld fails: %s\n", isa, outcome.status, n,
                    bfcn_error()),
             -1;
    if (!failed) return printf("%s: %s\n", isa, bfcn_error()), -1;
  }
}

/* What is allocated at once is what the model counts, and little more: the arena's plan, and the
 * threads. */
static int counts_all(const char *path, const char *isa) {
  most = taken = 0;
  const struct outcome outcome = use(path, isa, 2);
  const size_t slack = 64 << 10;
  if (outcome.status == BFCN_OK && most <= outcome.total + slack && outcome.total <= most + slack)
    return 1;
  printf("%s: %zu bytes are taken, %zu counted\n", isa, most, outcome.total);
  return 0;
}

int main(int count, char **arguments) {
  char isas[64];
  if (count != 2) return fprintf(stderr, "usage: %s FILE\n", arguments[0]), 2;
  snprintf(isas, sizeof isas, "%s", bfcn_isas());
  for (char *isa = strtok(isas, " "); isa; isa = strtok(NULL, " ")) {
    const long allocations = fail_each(arguments[1], isa, 2);
    if (allocations < 20 || !counts_all(arguments[1], isa)) return 1;
    printf("%s: each of %ld allocations failed once\n", isa, allocations);
  }
  return 0;
}
