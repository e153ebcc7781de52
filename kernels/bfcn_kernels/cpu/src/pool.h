/* Threads that share the tasks of one op at a time. */
#ifndef BFCN_POOL_H
#define BFCN_POOL_H

#include <stddef.h>

typedef void pool_task(void *context, size_t task, unsigned thread);

struct pool;

/* threads - 1 workers beside the caller; NULL if they cannot be made. */
struct pool *bfcn_pool_create(unsigned threads);
void bfcn_pool_free(struct pool *pool);

/* In a child of fork(), start the workers, which stayed in the parent; elsewhere do nothing. Call
 * it before a run. 0 if they cannot be started. */
int bfcn_pool_revive(struct pool *pool);

/* Run tasks 0..count - 1, each once, on any thread; returns when all are done. */
void bfcn_pool_run(struct pool *pool, pool_task *task, void *context, size_t count);

#endif
