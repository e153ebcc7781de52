/* test_forks FILE: sessions in a child of fork(), which has none of its parent's threads: the child
 * runs, plans and frees what its parent made, whatever other threads did at that moment. */
#include "guard.h"

#include "bfcn.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HEIGHT = 24, WIDTH = 36, PIXELS = HEIGHT * WIDTH, SECONDS = 60, CHILDREN = 12 };

static bfcn_model *model;
static uint8_t rgb[PIXELS * 3], expected[PIXELS];
static atomic_int started, stop;

static bfcn_session *session_of(unsigned height, unsigned threads, const char *isa) {
  const bfcn_options options = {.threads = threads, .isa = isa};
  bfcn_session *session;
  if (bfcn_session_create(model, height, WIDTH, &options, &session) == BFCN_OK) return session;
  fprintf(stderr, "%s\n", bfcn_error());
  exit(1);
}

static int is_right(bfcn_session *session) {
  uint8_t labels[PIXELS];
  memset(labels, 0xee, sizeof labels);
  return bfcn_session_run(session, rgb, WIDTH * 3, labels) == BFCN_OK &&
         !memcmp(labels, expected, sizeof labels);
}

/* Whether `check` holds in a child, and in a child of that. A child that hangs is ended. */
static int holds_in_child(int (*check)(bfcn_session *), bfcn_session *session, int generations) {
  const pid_t child = fork();
  if (!child) {
    alarm(SECONDS);
    const int held = generations == 1 || holds_in_child(check, session, generations - 1);
    _exit(held && check(session) ? 0 : 1);
  }
  int status = 1;
  if (waitpid(child, &status, 0) == child && WIFEXITED(status)) return WEXITSTATUS(status) == 0;
  fprintf(stderr, "a child ended by signal %d\n", WTERMSIG(status));
  return 0;
}

static int frees(bfcn_session *session) {
  bfcn_session_free(session);
  return 1;
}

static int runs_twice_and_frees(bfcn_session *session) {
  return is_right(session) && is_right(session) && frees(session);
}

static int plans(bfcn_session *session) {
  bfcn_session *other = session_of(HEIGHT, 2, "portable");
  const int right = is_right(other) && is_right(session);
  bfcn_session_free(other);
  return right && frees(session);
}

static int frees_all(bfcn_session *session) {
  bfcn_session_free(session);
  bfcn_model_free(model);
  return 1;
}

/* Under the address sanitizer no thread may allocate or start during a fork: its locks stay taken.
 */
#if defined(BFCN_GUARDED)
enum { QUIET = 1 };
#else
enum { QUIET = 0 };
#endif

static int all_hold(unsigned threads, int used) {
  int (*const checks[])(bfcn_session *) = {frees, runs_twice_and_frees, plans, frees_all};
  bfcn_session *session = session_of(HEIGHT, threads, NULL);
  int held = !(used || QUIET) || is_right(session); /* all its threads run once it is */
  for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
    held = held && holds_in_child(checks[i], session, 2) && (!used || is_right(session));
  bfcn_session_free(session);
  if (!held) fprintf(stderr, "%u threads, used %d: wrong in a child\n", threads, used);
  return held;
}

static void *keep_running(void *session) {
  long wrong = 0;
  while (!atomic_load(&stop)) {
    wrong += !is_right(session);
    atomic_store(&started, 1);
  }
  return (void *)wrong;
}

/* Of a model of its own, so that weights are packed each time. */
static void *keep_planning(void *path) {
  while (!atomic_load(&stop)) {
    bfcn_model *own;
    bfcn_session *session;
    if (bfcn_model_load(path, &own) != BFCN_OK) return path;
    if (bfcn_session_create(own, HEIGHT, WIDTH, NULL, &session) != BFCN_OK) return path;
    bfcn_session_free(session);
    bfcn_model_free(own);
  }
  return NULL;
}

/* Children of a process in which other threads run a session, and plan others. */
static int hold_beside_threads(char *path) {
  pthread_t running, planning;
  void *wrong, *failed = NULL;
  bfcn_session *busy = session_of(HEIGHT, 2, NULL), *idle = session_of(HEIGHT, 2, NULL);
  pthread_create(&running, NULL, keep_running, busy);
  if (!QUIET) pthread_create(&planning, NULL, keep_planning, path);
  while (!atomic_load(&started)) usleep(1000);
  int held = is_right(idle);
  for (int i = 0; held && i < CHILDREN; i++)
    held = holds_in_child(plans, idle, 1) && holds_in_child(runs_twice_and_frees, busy, 1) &&
           is_right(idle);
  atomic_store(&stop, 1);
  pthread_join(running, &wrong);
  if (!QUIET) pthread_join(planning, &failed);
  bfcn_session_free(busy);
  bfcn_session_free(idle);
  if (!held || wrong || failed) fprintf(stderr, "wrong beside other threads\n");
  return held && !wrong && !failed;
}

int main(int count, char **arguments) {
  if (count != 2 || bfcn_model_load(arguments[1], &model) != BFCN_OK) {
    fprintf(stderr, "usage: %s FILE\n%s\n", arguments[0], bfcn_error());
    return 2;
  }
  for (int i = 0; i < PIXELS * 3; i++) rgb[i] = (uint8_t)(i * 7 + i / 11);
  bfcn_session *alone = session_of(HEIGHT, 1, NULL);
  bfcn_session_run(alone, rgb, WIDTH * 3, expected);
  bfcn_session_free(alone);
  int held = 1;
  for (unsigned threads = 1; threads <= 4; threads++)
    held = held && all_hold(threads, 0) && all_hold(threads, 1);
  held = held && hold_beside_threads(arguments[1]);
  bfcn_model_free(model);
  if (held) printf("children run, plan and free what their parents made\n");
  return !held;
}
