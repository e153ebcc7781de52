#include "guard.h"

#include "conv_plan.h"

#if defined(BFCN_GUARDED)
#include <sanitizer/asan_interface.h>

static void open_room(const struct bfcn_session *s, const struct room *room) {
  for (unsigned i = 0; room->bytes && i < s->threads; i++)
    ASAN_UNPOISON_MEMORY_REGION(room->data + i * room->bytes, room->bytes - REDZONE);
}

void bfcn_guard_op(const struct bfcn_session *s, unsigned op) {
  const unsigned count = s->model->op_count;
  ASAN_POISON_MEMORY_REGION(s->arena, s->arena_bytes);
  for (unsigned v = 1; v <= count; v++) {
    const struct slot *slot = &s->slots[v];
    if (slot->data && slot->first <= op && op <= slot->last)
      ASAN_UNPOISON_MEMORY_REGION(slot->data, slot->bytes);
  }
  if (op < count) open_room(s, &s->rooms[op]);
}

void bfcn_guard_scratch(const struct conv *conv, const void *scratch) {
  for (unsigned i = 0; i < conv->redzones; i++)
    ASAN_POISON_MEMORY_REGION((const char *)scratch + conv->redzone_at[i], REDZONE);
}

void bfcn_guard_off(const struct bfcn_session *s) {
  if (s->arena) ASAN_UNPOISON_MEMORY_REGION(s->arena, s->arena_bytes);
}
#endif
