/* test_plan: which values share memory, and that a session takes the bytes that a reader of the
 * graph works out by hand: values while they live, and one op's scratch at a time. */
#include "conv_plan.h"
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEIGHT = 9, WIDTH = 21, PIXELS = HEIGHT * WIDTH, COARSE = 5 * 11, CLASSES = 5 };

/* Values in the order of their ops: two residual joins, of which one is read again, then scores at
 * two sizes, the coarser ones resized and added. */
enum {
  PIXEL_CODES = 1,
  STEM,
  INNER,
  JOINED,
  DEEPER,
  KEPT,
  LOW,
  FINE,
  UP,
  SUM,
  LABELS,
  OPS = LABELS
};

struct net {
  struct bfcn_model model;
  struct store store;
  struct packed *packed[OPS];
  struct op ops[OPS];
  struct term terms[OPS];
  struct residual residuals[OPS];
};

static uint8_t table[768], weights[512 * 64];
static float scale[64], bias[64];
static int failures;

static void expect(const char *what, size_t got, size_t wanted) {
  if (got == wanted) return;
  printf("%s: got %zu, must be %zu\n", what, got, wanted);
  failures++;
}

static struct op *op_of(struct net *n, unsigned value, enum opcode code, struct value out) {
  struct op *op = &n->ops[value - 1];
  *op = (struct op){.code = code, .name = "op", .out = out, .A = 1, .mode = MODE_BILINEAR};
  return op;
}

static void sources(struct op *op, unsigned count, unsigned first, unsigned second) {
  op->source_count = count;
  op->source[0] = first;
  op->source[1] = second;
}

/* 1x1, one bit a weight; residual 0: none. */
static void conv(struct net *n, unsigned value, unsigned from, unsigned stride, unsigned residual,
                 struct value out) {
  struct op *op = op_of(n, value, OP_BIT_CONV, out);
  const unsigned channels = n->ops[from - 1].out.channels;
  struct term *t = &n->terms[value - 1];
  *t = (struct term){.source = from,
                     .window = {1, 1, stride, stride, 0, 0, 1, 1},
                     .groups = 1,
                     .bits = 1,
                     .form = 2,
                     .z = 1,
                     .bound = 255 * channels,
                     .weight = weights,
                     .length = channels,
                     .words = 1,
                     .scale = scale};
  n->residuals[value - 1] = (struct residual){residual, 1};
  op->terms = t;
  op->term_count = 1;
  op->residuals = &n->residuals[value - 1];
  op->residual_count = residual > 0;
  op->bias = bias;
  sources(op, 1 + op->residual_count, from, residual);
}

static void build(struct net *n) {
  const struct value codes = {BFCN_CODES, 64, 2, 0}, scores = {BFCN_SCORES, CLASSES, 0, 0};
  memset(n, 0, sizeof *n);
  struct op *pixels = op_of(n, PIXEL_CODES, OP_IMAGE_CODES, (struct value){BFCN_CODES, 3, 8, 0});
  pixels->table = table;
  sources(pixels, 1, 0, 0);
  conv(n, STEM, PIXEL_CODES, 1, 0, codes);
  conv(n, INNER, STEM, 1, 0, codes);
  conv(n, JOINED, INNER, 1, STEM, codes); /* takes the place of STEM */
  conv(n, DEEPER, JOINED, 1, 0, codes);
  conv(n, KEPT, DEEPER, 1, JOINED, codes); /* must not: FINE reads JOINED */
  conv(n, LOW, KEPT, 2, 0, scores);
  conv(n, FINE, JOINED, 1, 0, scores);
  struct op *up = op_of(n, UP, OP_RESIZE, scores);
  up->target = TARGET_LIKE;
  up->extent[0] = FINE;
  sources(up, 1, LOW, 0);
  sources(op_of(n, SUM, OP_ADD, scores), 2, UP, FINE); /* takes the place of FINE; UP is streamed */
  sources(op_of(n, LABELS, OP_ARGMAX, (struct value){BFCN_LABELS, CLASSES, 0, 0}), 1, SUM, 0);
  n->model.ops = n->ops;
  n->model.op_count = OPS;
  n->store.first = n->packed;
  n->model.store = &n->store;
}

static size_t padded(size_t bytes) {
  return round_up(bytes + VALUE_SLACK, 64) + REDZONE;
}

static bfcn_session *session_of(const struct net *n, unsigned threads, int keep_values) {
  const bfcn_options options = {.threads = threads, .keep_values = keep_values};
  bfcn_session *s;
  if (bfcn_session_create(&n->model, HEIGHT, WIDTH, &options, &s) == BFCN_OK) return s;
  printf("%s\n", bfcn_error());
  exit(1);
}

static void test_sharing(const struct net *n) {
  bfcn_session *s = session_of(n, 1, 0);
  expect("place of JOINED", s->slots[JOINED].place_of, STEM);
  expect("place of KEPT", s->slots[KEPT].place_of, 0);
  expect("place of SUM", s->slots[SUM].place_of, FINE);
  expect("UP is streamed to", s->slots[UP].streamed_to, SUM - 1);
  expect("JOINED lies where STEM lay", s->slots[JOINED].data == s->slots[STEM].data, 1);
  expect("the logits lie where FINE lay",
         bfcn_session_logits(s, NULL, NULL, NULL) == s->slots[FINE].data, 1);
  bfcn_session_free(s);
}

/* Sessions of any size read the same packed weights, which count once and stay for the next; those
 * of another instruction set read their own. */
static void test_shared_weights(const struct net *n) {
  const bfcn_options portable = {.isa = "portable"};
  bfcn_session *s = session_of(n, 1, 0), *kept = session_of(n, 2, 1), *other, *apart;
  const size_t two = bfcn_model_bytes(&n->model);
  expect("create", bfcn_session_create(&n->model, 7, 5, NULL, &other), BFCN_OK);
  const size_t three = bfcn_model_bytes(&n->model);
  expect("one set of weights",
         s->convs[STEM - 1]->packed == other->convs[STEM - 1]->packed &&
             s->convs[STEM - 1]->packed == kept->convs[STEM - 1]->packed,
         1);
  expect("a further size adds its own bytes", three - two, (size_t)other->own_bytes);
  expect("create", bfcn_session_create(&n->model, 7, 5, &portable, &apart), BFCN_OK);
  if (strcmp(bfcn_isas(), "portable"))
    expect("other weights", apart->convs[STEM - 1]->packed != s->convs[STEM - 1]->packed, 1);
  bfcn_session_free(apart);
  bfcn_session_free(s);
  bfcn_session_free(kept);
  bfcn_session_free(other);
  const size_t weights = bfcn_model_bytes(&n->model);
  expect("weights stay without a session", weights > n->model.bytes, 1);
  s = session_of(n, 1, 0);
  expect("a next session finds them", bfcn_model_bytes(&n->model), weights + (size_t)s->own_bytes);
  bfcn_session_free(s);
}

/* Of a model's sessions together: what one more adds must fit below max_bytes; weights that none
 * reads make room. */
static void test_limit_of_all_sessions(const struct net *n) {
  bfcn_session *first = session_of(n, 1, 0), *second;
  bfcn_options options = {.max_bytes = bfcn_session_total_bytes(first)};
  bfcn_session_free(first);
  expect("alone", bfcn_session_create(&n->model, HEIGHT, WIDTH, &options, &first), BFCN_OK);
  const size_t taken = bfcn_model_bytes(&n->model), added = (size_t)first->own_bytes;
  options.max_bytes = taken + added - 1;
  expect("one byte too few", bfcn_session_create(&n->model, HEIGHT, WIDTH, &options, &second),
         BFCN_ERROR_MEMORY);
  expect("nothing stays", bfcn_model_bytes(&n->model), taken);
  options.max_bytes++;
  expect("enough", bfcn_session_create(&n->model, HEIGHT, WIDTH, &options, &second), BFCN_OK);
  bfcn_session_free(second);
  bfcn_session_free(first);
  bfcn_options portable = {.isa = "portable"};
  expect("create", bfcn_session_create(&n->model, 7, 5, &portable, &second), BFCN_OK);
  portable.max_bytes = bfcn_session_total_bytes(second);
  bfcn_session_free(second);
  expect("room is made", bfcn_session_create(&n->model, 7, 5, &portable, &second), BFCN_OK);
  expect("no more is taken", bfcn_model_bytes(&n->model) <= portable.max_bytes, 1);
  bfcn_session_free(second);
}

/* What is alive while each op runs, without its scratch. */
static size_t live(unsigned value) {
  const size_t pixels = padded(3 * PIXELS), codes = padded(16 * PIXELS), labels = padded(PIXELS),
               low = padded(4 * CLASSES * COARSE), fine = padded(4 * CLASSES * PIXELS);
  switch (value) {
  case PIXEL_CODES:
    return pixels;
  case STEM:
    return pixels + codes;
  case INNER:
  case JOINED: /* in STEM's place */
  case DEEPER:
    return 2 * codes;
  case KEPT:
    return 3 * codes;
  case LOW: /* JOINED and KEPT */
    return 2 * codes + low;
  case FINE:
    return codes + low + fine;
  case SUM:
    return low + fine;
  case LABELS:
    return fine + labels;
  default: /* UP is not run */
    return 0;
  }
}

static void test_bytes(const struct net *n, unsigned threads) {
  bfcn_session *s = session_of(n, threads, 0);
  size_t most = 0;
  for (unsigned v = 1; v <= OPS; v++) {
    const size_t bytes = live(v) + threads * s->rooms[v - 1].bytes;
    if (bytes > most) most = bytes;
  }
  /* Placing mostly reaches the least there is: here, with the sizes that 64 bits give. */
  const size_t peak = bfcn_session_peak_bytes(s), over = sizeof(void *) == 8 ? 0 : most / 40;
  expect("peak bytes", peak < most || peak > most + over ? peak : most, most);
  expect("scratch of SUM", s->rooms[SUM - 1].bytes,
         round_up(4 * 3 * WIDTH * CLASSES + SCRATCH_SLACK, 64) + REDZONE);
  expect("scratch of UP", s->rooms[UP - 1].bytes, 0);
  bfcn_session_free(s);
}

static void test_kept_values(const struct net *n) {
  bfcn_session *s = session_of(n, 1, 1);
  size_t values = 0, scratch = 0, most = 0;
  for (unsigned v = 1; v <= OPS; v++) {
    expect("kept in a place of its own", s->slots[v].place_of + s->slots[v].streamed_to, 0);
    values += s->slots[v].bytes + REDZONE;
    if (s->rooms[v - 1].bytes > scratch) scratch = s->rooms[v - 1].bytes;
    if (values + s->rooms[v - 1].bytes > most) most = values + s->rooms[v - 1].bytes;
  }
  const size_t peak = bfcn_session_peak_bytes(s);
  expect("room for all values at once", peak >= most, 1);
  expect("scratch shares memory with values to come", peak < values + scratch, 1);
  bfcn_session_free(s);
}

/* Labels and logits are those of a session that shares nothing. */
static void test_results(const struct net *n, unsigned threads) {
  static uint8_t rgb[3 * PIXELS], labels[2][PIXELS];
  static float logits[2][CLASSES * PIXELS];
  for (size_t run = 0; run < 3; run++) {
    for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)((i + run) * 2654435761u >> 24);
    for (int keep = 0; keep < 2; keep++) {
      bfcn_session *s = session_of(n, threads, keep);
      memset(s->arena, 0xff, s->arena_bytes);
      memset(labels[keep], 0xee, PIXELS);
      expect("run", bfcn_session_run(s, rgb, 3 * WIDTH, labels[keep]), BFCN_OK);
      memcpy(logits[keep], bfcn_session_logits(s, NULL, NULL, NULL), sizeof *logits);
      bfcn_session_free(s);
    }
    expect("labels differ", (size_t)memcmp(labels[0], labels[1], PIXELS), 0);
    expect("logits differ", (size_t)memcmp(logits[0], logits[1], sizeof *logits), 0);
  }
  int classes = 0;
  for (size_t i = 1; i < PIXELS; i++) classes |= labels[0][i] ^ labels[0][0];
  expect("more than one class is seen", classes != 0, 1);
}

int main(void) {
  static struct net net;
  for (size_t i = 0; i < sizeof weights; i++)
    weights[i] = (uint8_t)((uint32_t)i * 2654435761u >> 24);
  for (unsigned i = 0; i < sizeof table; i++) table[i] = (uint8_t)(i % 256 / 8);
  for (unsigned c = 0; c < 64; c++) {
    scale[c] = (c % 5 == 4 ? -0.1f : 0.1f) * (float)(1 + c % 3);
    bias[c] = 1.0f;
  }
  build(&net);
  test_sharing(&net);
  test_kept_values(&net);
  test_shared_weights(&net);
  test_limit_of_all_sessions(&net);
  for (unsigned threads = 1; threads <= 3; threads++) {
    test_bytes(&net, threads);
    test_results(&net, threads);
  }
  bfcn_packed_free_all(&net.model);
  printf("%d expectations failed\n", failures);
  return failures != 0;
}
