/* test_threads FILE RUNS: two sessions of one model in two threads give what one gives alone. */
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

int main(int count, char **arguments) {
  bfcn_model *model;
  if (count != 3 || bfcn_model_load(arguments[1], &model) != BFCN_OK) {
    fprintf(stderr, "usage: %s FILE RUNS\n%s\n", arguments[0], bfcn_error());
    return 2;
  }
  static struct job jobs[2];
  for (int j = 0; j < 2; j++) {
    jobs[j] = (struct job){.model = model, .runs = atol(arguments[2]), .threads = 1u + (unsigned)j};
    for (int i = 0; i < PIXELS * 3; i++) jobs[j].rgb[i] = (uint8_t)(i * (7 + j) + i / 11 + 90 * j);
    bfcn_session *alone = session_of(&jobs[j], 1);
    bfcn_session_run(alone, jobs[j].rgb, WIDTH * 3, jobs[j].expected);
    bfcn_session_free(alone);
  }
  if (!memcmp(jobs[0].expected, jobs[1].expected, PIXELS)) {
    fprintf(stderr, "the two images must differ in their labels, or the test says nothing\n");
    return 1;
  }
  pthread_t threads[2];
  for (int j = 0; j < 2; j++) pthread_create(&threads[j], NULL, work, &jobs[j]);
  for (int j = 0; j < 2; j++) pthread_join(threads[j], NULL);
  bfcn_model_free(model);
  printf("2 x %ld runs, %ld and %ld differ\n", jobs[0].runs, jobs[0].wrong, jobs[1].wrong);
  return jobs[0].wrong || jobs[1].wrong;
}
