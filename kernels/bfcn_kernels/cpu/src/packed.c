/* Who packs, who waits and who frees: the store of a model, for sessions in many threads. */
#include "packed.h"

#include "conv_plan.h"
#include "budget.h"
#include "status.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Of all stores, since they are held for moments only. A fork waits until nothing is being packed:
 * a child has no thread that would finish it. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned packing, forking; /* threads that do */

static void before_fork(void) {
  pthread_mutex_lock(&mutex);
  forking++;
  while (packing) pthread_cond_wait(&changed, &mutex);
}

static void after_fork(void) {
  forking--;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void) {
  forking = 0;
  pthread_mutex_init(&mutex, NULL);
  pthread_cond_init(&changed, NULL);
}

static int handlers_fail;

static void register_handlers(void) {
  handlers_fail = pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

static void free_packed(struct packed *p) {
  bfcn_pack_clear(p);
  free(p->terms);
  free(p);
}

static int orders_agree(const struct order *a, const struct order *b) {
  return a->form == b->form && a->lanes == b->lanes && a->steps == b->steps &&
         a->pass_planes == b->pass_planes && a->zero_shift == b->zero_shift;
}

static int serves(const struct packed *p, const struct conv *conv) {
  if (p->with_thresholds != conv->with_thresholds || p->with_moves != conv->with_moves) return 0;
  for (unsigned i = 0; i < p->op->term_count; i++) {
    const struct order order = bfcn_order_of(&conv->terms[i]);
    if (!orders_agree(&p->terms[i].order, &order)) return 0;
  }
  return 1;
}

static struct packed *find(const struct store *store, const struct conv *conv) {
  struct packed *p = store->first[conv->index];
  while (p && !serves(p, conv)) p = p->next;
  return p;
}

static struct packed *add(struct store *store, const struct conv *conv) {
  struct packed *p = calloc(1, sizeof *p);
  if (p) p->terms = calloc(conv->op->term_count, sizeof *p->terms);
  if (!p || !p->terms) {
    free(p);
    return NULL;
  }
  p->op = conv->op;
  p->index = conv->index;
  p->bytes = conv->packed_bytes;
  p->with_thresholds = conv->with_thresholds;
  p->with_moves = conv->with_moves;
  for (unsigned i = 0; i < p->op->term_count; i++)
    p->terms[i].order = bfcn_order_of(&conv->terms[i]);
  p->next = store->first[p->index];
  store->first[p->index] = p;
  store->bytes += p->bytes;
  return p;
}

static void take_out(struct store *store, struct packed *p) {
  struct packed **at = &store->first[p->index];
  while (*at != p) at = &(*at)->next;
  *at = p->next;
  store->bytes -= p->bytes;
  free_packed(p);
}

/* Free what no session reads and this one will not; the mutex is held. */
static void take_out_unused(const struct bfcn_session *s) {
  struct store *store = s->model->store;
  for (unsigned i = 0; i < s->model->op_count; i++)
    for (struct packed *p = store->first[i], *next; p; p = next) {
      next = p->next;
      if (!p->references && !(s->convs[i] && serves(p, s->convs[i]))) take_out(store, p);
    }
}

static void detach(struct bfcn_session *s) {
  struct store *store = s->model->store;
  for (unsigned i = 0; i < s->model->op_count; i++) {
    struct packed *p = s->convs[i] ? s->convs[i]->packed : NULL;
    if (!p) continue;
    if (--p->references == 0 && p->state == PACKED_EMPTY) take_out(store, p);
    s->convs[i]->packed = NULL;
  }
  store->bytes -= s->counted_bytes;
  s->counted_bytes = 0;
}

/* Bytes of the model with this session; the mutex is held. */
static uint64_t bytes_with(const struct bfcn_session *s) {
  uint64_t bytes = s->own_bytes, passing = 0;
  for (unsigned i = 0; i < s->model->op_count; i++) {
    const struct conv *conv = s->convs[i];
    if (!conv || find(s->model->store, conv)) continue;
    bytes = bfcn_add(bytes, conv->packed_bytes);
    if (conv->passing_bytes > passing) passing = conv->passing_bytes;
  }
  return bfcn_add(bfcn_add(bytes, passing), s->model->store->bytes + s->model->bytes);
}

static int attach(struct bfcn_session *s, uint64_t limit, uint64_t *needed) {
  struct store *store = s->model->store;
  *needed = bytes_with(s);
  if (*needed > limit) take_out_unused(s);
  *needed = bytes_with(s);
  if (*needed > limit) return 0;
  s->counted_bytes = s->own_bytes;
  store->bytes += s->own_bytes;
  for (unsigned i = 0; i < s->model->op_count; i++) {
    struct conv *conv = s->convs[i];
    if (!conv) continue;
    conv->packed = find(store, conv);
    if (!conv->packed) conv->packed = add(store, conv);
    if (!conv->packed) {
      detach(s);
      return -1;
    }
    conv->packed->references++;
  }
  return 1;
}

int bfcn_packed_attach(struct bfcn_session *s, uint64_t limit, uint64_t *needed) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_handlers);
  if (handlers_fail) return -1;
  pthread_mutex_lock(&mutex);
  const int attached = attach(s, limit, needed);
  pthread_mutex_unlock(&mutex);
  return attached;
}

void bfcn_packed_detach(struct bfcn_session *s) {
  pthread_mutex_lock(&mutex);
  detach(s);
  pthread_mutex_unlock(&mutex);
}

bfcn_status bfcn_packed_fill(const struct bfcn_model *model, const struct conv *conv) {
  struct packed *p = conv->packed;
  pthread_mutex_lock(&mutex);
  while (p->state == PACKED_BUSY || (p->state == PACKED_EMPTY && forking))
    pthread_cond_wait(&changed, &mutex);
  const int ours = p->state == PACKED_EMPTY;
  if (ours) p->state = PACKED_BUSY, packing++;
  pthread_mutex_unlock(&mutex);
  if (!ours) return BFCN_OK;
  const bfcn_status status = bfcn_pack(model, conv, p);
  pthread_mutex_lock(&mutex);
  p->state = status == BFCN_OK ? PACKED_READY : PACKED_EMPTY;
  packing--;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  return status;
}

uint64_t bfcn_packed_taken(const struct bfcn_model *model) {
  pthread_mutex_lock(&mutex);
  const uint64_t bytes = model->bytes + model->store->bytes;
  pthread_mutex_unlock(&mutex);
  return bytes;
}

void bfcn_packed_free_all(struct bfcn_model *model) {
  for (unsigned i = 0; i < model->op_count; i++)
    for (struct packed *p = model->store->first[i], *next; p; p = next) {
      next = p->next;
      free_packed(p);
    }
}
