#include "arena.h"
#include "budget.h"
#include "guard.h"
#include "status.h"

#include <stdlib.h>
#include <string.h>

/* What is placed: a value, with those that take its place in turn, or an op's scratch. */
struct block {
  uint64_t bytes, offset, best; /* best: the offset to keep */
  unsigned first, last;         /* ops during which it is needed */
};

static bfcn_status no_memory(void) {
  return bfcn_fail(BFCN_ERROR_MEMORY, "no memory for the session");
}

static bfcn_status too_large(const struct op *op, const char *what, uint64_t bytes) {
  return bfcn_fail(BFCN_ERROR_MEMORY,
                   "op '%s': %s of %llu bytes is more than this machine addresses", op->name, what,
                   (unsigned long long)bytes);
}

unsigned bfcn_logits_value(const bfcn_model *model) {
  const struct op *last = &model->ops[model->op_count - 1];
  const unsigned value = last->code == OP_ARGMAX ? last->source[0] : model->op_count;
  return bfcn_model_value(model, value).kind == BFCN_SCORES ? value : 0;
}

/* Who reads each value: how many times, and the last reader. */
static void count_reads(struct bfcn_session *s) {
  for (unsigned i = 0; i < s->model->op_count; i++) {
    const struct op *op = &s->model->ops[i];
    for (unsigned j = 0; j < op->source_count; j++) {
      struct slot *slot = &s->slots[op->source[j]];
      slot->reads++, slot->reader = i;
    }
  }
}

/* A resize of scores that only one addition reads is computed there, row by row, and not stored. */
static void find_streamed(struct bfcn_session *s) {
  count_reads(s);
  for (unsigned v = 1; v <= s->model->op_count; v++) {
    struct slot *slot = &s->slots[v];
    const struct op *add = &s->model->ops[slot->reader];
    if (s->model->ops[v - 1].code != OP_RESIZE || slot->reads != 1 || add->code != OP_ADD) continue;
    const unsigned other = add->source[add->source[0] == v];
    if (!s->slots[other].streamed_to) slot->streamed_to = slot->reader;
  }
}

/* Values live from the op that writes them to the last that reads them; results to the end. */
static void find_lifetimes(struct bfcn_session *s) {
  const unsigned count = s->model->op_count;
  for (unsigned i = 0; i < count; i++) {
    const unsigned reader = s->slots[i + 1].streamed_to ? s->slots[i + 1].streamed_to : i;
    for (unsigned j = 0; j < s->model->ops[i].source_count; j++) {
      struct slot *source = &s->slots[s->model->ops[i].source[j]];
      if (source->last < reader) source->last = reader;
    }
  }
  s->slots[bfcn_logits_value(s->model)].last = count;
  s->slots[count].last = count;
  for (unsigned v = 1; s->keep_values && v <= count; v++) s->slots[v].last = count;
}

/* Whether op reads value v pixel by pixel, each just before it writes it: an addend of scores, or a
 * residual that no term reads. Some backends read codes in bytes 8 at a time. */
static int reads_in_step(const struct op *op, unsigned v, const struct slot *slot) {
  if (op->code == OP_ADD || op->code == OP_MASK) return 1;
  if (op->code != OP_BIT_CONV || (!slot->words && op->out.channels % 8)) return 0;
  for (unsigned i = 0; i < op->term_count; i++)
    if (op->terms[i].source == v) return 0;
  return 1;
}

/* Whether two values of one grid lie in memory alike, pixel by pixel. Their bytes do not tell:
 * those of small maps are rounded up to the same. */
static int alike(const struct value *a, const struct slot *slot_a, const struct value *b,
                 const struct slot *slot_b) {
  return a->kind == b->kind && a->channels == b->channels && slot_a->words == slot_b->words &&
         (!slot_a->words || a->bits == b->bits);
}

/* A value takes the place of one that its op reads in step and that no later op reads. */
static void find_places_taken(struct bfcn_session *s) {
  for (unsigned i = 0; i < s->model->op_count; i++) {
    const struct op *op = &s->model->ops[i];
    struct slot *slot = &s->slots[i + 1];
    for (unsigned j = 0; j < op->source_count && !slot->place_of; j++) {
      const unsigned v = op->source[j];
      const struct slot *source = &s->slots[v];
      const struct value value = bfcn_model_value(s->model, v);
      if (v && source->last == i && !source->streamed_to && alike(&value, source, &op->out, slot) &&
          reads_in_step(op, v, source))
        slot->place_of = source->place_of ? source->place_of : v;
    }
  }
}

bfcn_status bfcn_shape_slots(struct bfcn_session *s) {
  for (unsigned v = 1; v <= s->model->op_count; v++) {
    const struct value value = bfcn_model_value(s->model, v);
    struct slot *slot = &s->slots[v];
    uint64_t bytes = value.channels;
    if (value.kind == BFCN_CODES && value.bits <= 4) {
      slot->words = (value.channels + 63) / 64;
      bytes = 8ull * value.bits * slot->words;
    } else if (value.kind == BFCN_SCORES) {
      bytes = 4ull * value.channels;
    } else if (value.kind == BFCN_LABELS) {
      bytes = 1;
    }
    bytes = bytes * pixels_of(s->grids[v]) + VALUE_SLACK;
    if (!addressable(bytes)) return too_large(&s->model->ops[v - 1], "its value", bytes);
    slot->bytes = round_up((size_t)bytes, 64);
    slot->first = slot->last = v - 1;
  }
  if (!s->keep_values) find_streamed(s);
  find_lifetimes(s);
  find_places_taken(s);
  return BFCN_OK;
}

/* blocks[v] is value v's, empty where it is not stored by itself; blocks[op_count + 1 + i] is op
 * i's scratch. */
static bfcn_status list_blocks(struct bfcn_session *s, const uint64_t *scratch,
                               struct block *blocks) {
  const unsigned count = s->model->op_count;
  for (unsigned v = 1; v <= count; v++) {
    const struct slot *slot = &s->slots[v];
    if (slot->place_of) {
      if (blocks[slot->place_of].last < slot->last) blocks[slot->place_of].last = slot->last;
    } else if (!slot->streamed_to) {
      blocks[v] = (struct block){slot->bytes + REDZONE, .first = slot->first, .last = slot->last};
    }
  }
  for (unsigned i = 0; i < count; i++) {
    const uint64_t room = scratch[i] ? (scratch[i] + SCRATCH_SLACK + 63) / 64 * 64 + REDZONE : 0;
    if (!addressable(room) || !addressable(bfcn_times(room, s->threads)))
      return too_large(&s->model->ops[i], "scratch", room);
    s->rooms[i].bytes = (size_t)room;
    blocks[count + 1 + i] = (struct block){.bytes = room * s->threads, .first = i, .last = i};
  }
  return BFCN_OK;
}

/* At the lowest offset that is free while it is needed, by those placed, which rise by offset. */
static void place(struct block *block, struct block *const *placed, size_t count) {
  block->offset = 0;
  for (size_t i = 0; i < count; i++) {
    const struct block *other = placed[i];
    const int meets = block->first <= other->last && other->first <= block->last;
    if (meets && block->offset + block->bytes > other->offset &&
        other->offset + other->bytes > block->offset)
      block->offset = other->offset + other->bytes;
  }
}

/* Place all in order; returns the index of the one that ends highest. */
static size_t place_all(struct block *const *order, struct block **placed, size_t count) {
  size_t highest = 0;
  uint64_t end = 0;
  for (size_t i = 0; i < count; i++) {
    place(order[i], placed, i);
    size_t at = i;
    for (; at > 0 && placed[at - 1]->offset > order[i]->offset; at--) placed[at] = placed[at - 1];
    placed[at] = order[i];
    if (order[i]->offset + order[i]->bytes > end)
      end = order[i]->offset + order[i]->bytes, highest = i;
  }
  return highest;
}

static int larger_first(const void *a, const void *b) {
  const struct block *x = *(struct block *const *)a, *y = *(struct block *const *)b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x < y ? -1 : 1;
}

/* Bytes needed at once by the op that needs most: no arena is smaller. */
static uint64_t least_bytes(const struct block *blocks, size_t count, unsigned ops) {
  uint64_t most = 0;
  for (unsigned op = 0; op < ops; op++) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++)
      if (blocks[i].first <= op && op <= blocks[i].last) sum += blocks[i].bytes;
    if (sum > most) most = sum;
  }
  return most;
}

/* Place larger blocks first, then again and again with the one that ends highest before all others,
 * and keep the best: that mostly reaches the least there is. Graphs of thousands of ops get fewer
 * tries. Returns the bytes of the arena. */
static uint64_t place_blocks(struct block *blocks, size_t count, uint64_t least,
                             struct block **order) {
  size_t used = 0;
  for (size_t i = 0; i < count; i++)
    if (blocks[i].bytes) order[used++] = &blocks[i];
  qsort(order, used, sizeof *order, larger_first);
  const size_t tries = 1 + (1ul << 24) / (used * used + (1ul << 18));
  uint64_t best = UINT64_MAX;
  for (size_t try = 0; try < tries && best > least; try++) {
    const size_t highest = place_all(order, order + count, used);
    struct block *top = order[highest];
    if (top->offset + top->bytes < best) {
      best = top->offset + top->bytes;
      for (size_t i = 0; i < used; i++) order[i]->best = order[i]->offset;
    }
    memmove(order + 1, order, highest * sizeof *order);
    order[0] = top;
  }
  return best;
}

static bfcn_status plan(struct bfcn_session *s, const uint64_t *scratch, struct block *blocks,
                        struct block **order) {
  const unsigned ops = s->model->op_count;
  const size_t count = 2ul * ops + 1;
  TRY(list_blocks(s, scratch, blocks));
  const uint64_t bytes = place_blocks(blocks, count, least_bytes(blocks, count, ops), order);
  if (!addressable(bytes)) return too_large(&s->model->ops[ops - 1], "all values", bytes);
  s->arena_bytes = (size_t)bytes;
  for (unsigned v = 1; v <= ops; v++) {
    struct slot *slot = &s->slots[v];
    slot->offset = (size_t)blocks[slot->place_of ? slot->place_of : v].best;
  }
  for (unsigned i = 0; i < ops; i++) s->rooms[i].offset = (size_t)blocks[ops + 1 + i].best;
  return BFCN_OK;
}

bfcn_status bfcn_plan_arena(struct bfcn_session *s, const uint64_t *scratch) {
  const size_t count = 2ul * s->model->op_count + 1;
  struct block *blocks = calloc(count, sizeof *blocks);
  struct block **order = calloc(2 * count, sizeof *order);
  const bfcn_status status = blocks && order ? plan(s, scratch, blocks, order) : no_memory();
  free(blocks);
  free(order);
  return status;
}

bfcn_status bfcn_allocate_arena(struct bfcn_session *s) {
  s->arena = aligned_alloc(64, s->arena_bytes);
  if (!s->arena) return no_memory();
  memset(s->arena, 0, s->arena_bytes);
  for (unsigned v = 1; v <= s->model->op_count; v++)
    if (!s->slots[v].streamed_to) s->slots[v].data = s->arena + s->slots[v].offset;
  for (unsigned i = 0; i < s->model->op_count; i++)
    s->rooms[i].data = s->arena + s->rooms[i].offset;
  return BFCN_OK;
}
