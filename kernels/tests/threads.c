/* test_threads FILE RUNS: sessions of one model in several threads, also while others are planned
 * and freed, give what one gives alone. */
#include "bfcn.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEIGHT = 24, WIDTH = 36, PIXELS = HEIGHT * WIDTH };

struct job {
  const bfcn_model *model;
  uint8_t rgb[PIXELS * 3], expected[PIXELS];
  unsigned threads;
  long runs, wrong;
};

static bfcn_session *session_of(const struct job *job, unsigned threads) {
  const bfcn_options options = {.threads = threads};
  bfcn_session *session;
  if (bfcn_session_create(job->model, HEIGHT, WIDTH, &options, &session) == BFCN_OK) return session;
  fprintf(stderr, "%s\n", bfcn_error());
  exit(1);
}

static void *work(void *argument) {
  struct job *job = argument;
  uint8_t labels[PIXELS];
  bfcn_session *session = session_of(job, job->threads);
  for (long i = 0; i < job->runs; i++) {
    memset(labels, 0xee, sizeof labels);
    if (bfcn_session_run(session, job->rgb, WIDTH * 3, labels) != BFCN_OK ||
        memcmp(labels, job->expected, sizeof labels))
      job->wrong++;
  }
  bfcn_session_free(session);
  return NULL;
}

/* Sessions of two sizes and two instruction sets come and go: weights are packed, shared and freed.
 */
static void *plan_and_free(void *argument) {
  struct job *job = argument;
  for (long i = 0; i < job->runs; i++) {
    const bfcn_options options = {.threads = job->threads, .isa = i % 3 ? NULL : "portable"};
    bfcn_session *session;
    uint8_t labels[PIXELS];
    memset(labels, 0xee, sizeof labels);
    if (bfcn_session_create(job->model, HEIGHT - 8u * (i % 2), WIDTH, &options, &session) ||
        bfcn_session_run(session, job->rgb, WIDTH * 3, labels) ||
        (i % 2 == 0 && memcmp(labels, job->expected, sizeof labels)))
      job->wrong++;
    bfcn_session_free(session);
  }
  return NULL;
}

static long run_all(struct job jobs[2], long runs, void *(*function)(void *)) {
  enum { THREADS = 4 };
  static struct job own[THREADS];
  pthread_t threads[THREADS];
  long wrong = 0;
  for (int i = 0; i < THREADS; i++) {
    own[i] = jobs[i % 2];
    own[i].runs = runs;
    pthread_create(&threads[i], NULL, function, &own[i]);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    wrong += own[i].wrong;
  }
  return wrong;
}

int main(int count, char **arguments) {
  bfcn_model *model;
  if (count != 3 || bfcn_model_load(arguments[1], &model) != BFCN_OK) {
    fprintf(stderr, "usage: %s FILE RUNS\n%s\n", arguments[0], bfcn_error());
    return 2;
  }
  static struct job jobs[2];
  for (int j = 0; j < 2; j++) {
    jobs[j] = (struct job){.model = model, .threads = 1u + (unsigned)j};
    for (int i = 0; i < PIXELS * 3; i++) jobs[j].rgb[i] = (uint8_t)(i * (7 + j) + i / 11 + 90 * j);
    bfcn_session *alone = session_of(&jobs[j], 1);
    bfcn_session_run(alone, jobs[j].rgb, WIDTH * 3, jobs[j].expected);
    bfcn_session_free(alone);
  }
  if (!memcmp(jobs[0].expected, jobs[1].expected, PIXELS)) {
    fprintf(stderr, "the two images must differ in their labels, or the test says nothing\n");
    return 1;
  }
  const bfcn_options portable = {.isa = "portable"};
  bfcn_session *session;
  if (bfcn_session_create(model, HEIGHT, WIDTH, &portable, &session) == BFCN_OK)
    bfcn_session_free(session);
  const size_t bytes = bfcn_model_bytes(model); /* with the weights of both */
  const long runs = atol(arguments[2]);
  const long wrong[2] = {run_all(jobs, runs / 4, work), run_all(jobs, runs / 40, plan_and_free)};
  printf("%ld runs differ, %ld beside planning; %zu bytes left of %zu\n", wrong[0], wrong[1],
         bfcn_model_bytes(model), bytes);
  const int kept = bfcn_model_bytes(model) != bytes;
  bfcn_model_free(model);
  return wrong[0] || wrong[1] || kept;
}
