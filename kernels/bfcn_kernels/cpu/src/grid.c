/* The height and width of every value for one image size. */
#include "model.h"
#include "status.h"

static int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}

static int64_t window_side(int64_t in, unsigned k, unsigned s, unsigned p, unsigned d, int ceil) {
  const int64_t span = in + 2 * (int64_t)p - (int64_t)d * (k - 1) - 1 + (ceil ? s - 1 : 0);
  int64_t out = floor_divide(span, s) + 1;
  if (ceil && (out - 1) * s >= in + p) out--;
  return out;
}

/* Sides outside 1..MAX_SIDE become 0, which the caller refuses. */
static struct grid windowed(struct grid in, const struct window *w, int ceil) {
  const int64_t height = window_side(in.height, w->kh, w->sh, w->ph, w->dh, ceil);
  const int64_t width = window_side(in.width, w->kw, w->sw, w->pw, w->dw, ceil);
  const int fine = height >= 1 && height <= MAX_SIDE && width >= 1 && width <= MAX_SIDE;
  return fine ? (struct grid){(unsigned)height, (unsigned)width} : (struct grid){0, 0};
}

static int equal(struct grid a, struct grid b) {
  return a.height == b.height && a.width == b.width;
}

static struct grid resized(const struct op *op, const struct grid *grids) {
  const struct grid in = grids[op->source[0]];
  switch (op->target) {
  case TARGET_LIKE:
    return grids[op->extent[0]];
  case TARGET_SIZE:
    return (struct grid){op->extent[0], op->extent[1]};
  default:
    return (struct grid){in.height * op->extent[0], in.width * op->extent[1]};
  }
}

static bfcn_status mismatch(const struct op *op, unsigned source, struct grid got,
                            struct grid want) {
  return bfcn_fail(BFCN_ERROR_SHAPE, "op '%s': source %u must have the grid %u x %u, got %u x %u",
                   op->name, source, want.height, want.width, got.height, got.width);
}

static bfcn_status op_grid(const struct op *op, const struct grid *grids, struct grid *out) {
  const struct grid first = grids[op->source[0]];
  switch (op->code) {
  case OP_MAX_POOL:
  case OP_AVG_POOL:
    *out = windowed(first, &op->window, op->ceil);
    return BFCN_OK;
  case OP_ADAPTIVE_AVG_POOL:
    *out = (struct grid){op->extent[0], op->extent[1]};
    return BFCN_OK;
  case OP_RESIZE:
    *out = resized(op, grids);
    return BFCN_OK;
  case OP_ARGMAX:
    *out = grids[0];
    return BFCN_OK;
  case OP_BIT_CONV:
    *out = windowed(first, &op->terms[0].window, 0);
    break;
  default:
    *out = first;
  }
  for (unsigned i = 1; i < op->source_count; i++) {
    struct grid got = grids[op->source[i]];
    if (i < op->term_count) got = windowed(got, &op->terms[i].window, 0);
    if (!equal(got, *out)) return mismatch(op, op->source[i], got, *out);
  }
  return BFCN_OK;
}

bfcn_status bfcn_model_grids(const struct bfcn_model *model, unsigned height, unsigned width,
                             struct grid *grids) {
  if (height < 1 || height > MAX_SIDE || width < 1 || width > MAX_SIDE)
    return bfcn_fail(BFCN_ERROR_SHAPE, "image sides must be in 1..%d, got %u x %u", MAX_SIDE,
                     height, width);
  grids[0] = (struct grid){height, width};
  for (unsigned i = 0; i < model->op_count; i++) {
    struct grid *out = &grids[i + 1];
    TRY(op_grid(&model->ops[i], grids, out));
    if (out->height < 1 || out->height > MAX_SIDE || out->width < 1 || out->width > MAX_SIDE)
      return bfcn_fail(BFCN_ERROR_SHAPE,
                       "op '%s': sides must be in 1..%d, got %u x %u for an image of %u x %u",
                       model->ops[i].name, MAX_SIDE, out->height, out->width, height, width);
  }
  return BFCN_OK;
}
