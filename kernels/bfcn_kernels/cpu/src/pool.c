#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

/* An op takes tens of microseconds: waiting threads spin that long before they sleep. */
enum { SPINS = 2000 };

/* Forks between this process and the first one: a child has none of its parent's threads. */
static atomic_uint forks;

struct pool {
  unsigned threads, forks; /* forks: when its workers were started */
  pthread_mutex_t mutex;
  pthread_cond_t work;
  atomic_uint generation; /* of the op being run */
  atomic_uint busy;       /* workers that have not finished it */
  atomic_size_t next;     /* task to claim */
  atomic_int closing;
  pool_task *task;
  void *context;
  size_t count;
  unsigned workers;
  struct worker {
    struct pool *pool;
    pthread_t thread;
    unsigned index;
  } worker[];
};

static void claim_all(struct pool *pool, unsigned thread) {
  size_t task;
  while ((task = atomic_fetch_add(&pool->next, 1)) < pool->count)
    pool->task(pool->context, task, thread);
}

static void await_generation(struct pool *pool, unsigned seen) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load(&pool->generation) != seen) return;
    RELAX();
  }
  pthread_mutex_lock(&pool->mutex);
  while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->work, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
}

static void *work(void *argument) {
  struct worker *worker = argument;
  struct pool *pool = worker->pool;
  for (unsigned seen = 0;; seen++) {
    await_generation(pool, seen);
    if (atomic_load(&pool->closing)) return NULL;
    claim_all(pool, worker->index);
    atomic_fetch_sub(&pool->busy, 1);
  }
}

static void wake(struct pool *pool) {
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->generation, 1);
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->mutex);
}

static void count_fork(void) {
  atomic_fetch_add(&forks, 1);
}

static int handlers_fail;

static void register_handlers(void) {
  handlers_fail = pthread_atfork(NULL, NULL, count_fork);
}

static void stop(struct pool *pool) {
  atomic_store(&pool->closing, 1);
  wake(pool);
  for (unsigned i = 0; i < pool->workers; i++) pthread_join(pool->worker[i].thread, NULL);
  pthread_cond_destroy(&pool->work);
  pthread_mutex_destroy(&pool->mutex);
}

/* Start the workers, whatever state the pool is in. 0 if they cannot all be started. */
static int start(struct pool *pool) {
  pool->forks = atomic_load(&forks);
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->work, NULL);
  atomic_store(&pool->generation, 0);
  atomic_store(&pool->closing, 0);
  for (pool->workers = 0; pool->workers + 1 < pool->threads; pool->workers++) {
    struct worker *worker = &pool->worker[pool->workers];
    *worker = (struct worker){.pool = pool, .index = pool->workers + 1};
    if (pthread_create(&worker->thread, NULL, work, worker)) {
      stop(pool);
      return 0;
    }
  }
  return 1;
}

struct pool *bfcn_pool_create(unsigned threads) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_handlers);
  struct pool *pool = calloc(1, sizeof *pool + threads * sizeof *pool->worker);
  if (!pool) return NULL;
  pool->threads = threads;
  if (!handlers_fail && start(pool)) return pool;
  free(pool);
  return NULL;
}

int bfcn_pool_revive(struct pool *pool) {
  if (pool->forks == atomic_load(&forks)) return 1;
  if (start(pool)) return 1;
  pool->forks--; /* try again at the next run */
  return 0;
}

void bfcn_pool_free(struct pool *pool) {
  if (!pool) return;
  if (pool->forks == atomic_load(&forks)) stop(pool);
  free(pool);
}

void bfcn_pool_run(struct pool *pool, pool_task *task, void *context, size_t count) {
  if (pool->workers == 0 || count <= 1) {
    for (size_t i = 0; i < count; i++) task(context, i, 0);
    return;
  }
  pool->task = task;
  pool->context = context;
  pool->count = count;
  atomic_store(&pool->next, 0);
  atomic_store(&pool->busy, pool->workers);
  wake(pool);
  claim_all(pool, 0);
  for (int i = 0; atomic_load(&pool->busy); i++) {
    RELAX();
    if (i > SPINS) {
      sched_yield();
      i = 0;
    }
  }
}
