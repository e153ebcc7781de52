/* The kernel of every term of a bit_conv: what serves it, and the cheapest of that. */
#include "conv_plan.h"
#include "status.h"

#include <string.h>

/* Largest sum of weight codes times activation codes. */
static uint64_t largest_sum(const struct conv_term *t) {
  return (uint64_t)t->term->length * ((1u << t->term->bits) - 1) * ((1u << t->from.bits) - 1);
}

static int serves(const struct gemm_kernel *k, const struct conv_term *t, unsigned width,
                  enum isa isa) {
  if (k->isa > isa) return 0;
  const struct window *w = &t->term->window;
  if (k->columns && (k->columns != w->kw || w->sw != 1 || w->dw != 1 || width % k->mr)) return 0;
  if (k->form == FORM_INT4 && (t->from.bits > 4 || t->term->bits > 4)) return 0;
  if (k->form == FORM_LUT3 && t->term->bits != 2) return 0;
  if (k->form == FORM_INT2 && t->term->bits > 2) return 0;
  if (k->form == FORM_INT8 && in_tiles(k) && t->term->bits <= 2) return 0; /* INT2 keeps bits */
  if (step_of(k->form).code_bytes) {
    const int fits = !t->from.zero_point && t->term->bound <= INT16_MAX;
    return (t->term->groups == 1 || k->nr == k->lanes) && (k->sum_bits == 32 || fits);
  }
  return t->term->groups == 1 && t->from.bits <= 4 &&
         (k->sum_bits == 32 || largest_sum(t) <= UINT16_MAX);
}

const struct gemm_kernel *bfcn_kernel_for_outputs(const struct gemm_kernel *k, unsigned left,
                                                  unsigned width) {
  const struct gemm_kernel *best = k;
  for (size_t i = 0; i < bfcn_gemm_kernel_count; i++) {
    const struct gemm_kernel *other = &bfcn_gemm_kernels[i];
    if (other->isa != k->isa || other->form != k->form || other->pass_planes != k->pass_planes ||
        other->lanes != k->lanes || other->nr > k->nr || other->columns != k->columns ||
        other->sum_bits != k->sum_bits || (other->columns && width % other->mr))
      continue;
    const int fits = other->nr <= left, best_fits = best->nr <= left;
    if (fits > best_fits ||
        (fits == best_fits && (fits ? other->nr > best->nr : other->nr < best->nr)))
      best = other;
  }
  return best;
}

/* Cycles of a tile's pass beyond its multiplications: pointers, the first loads, widening, stores;
 * and bytes of weights that a cycle unpacks, once a block. */
enum { TILE_CYCLES = 45, AMX_TILE_CYCLES = 120, UNPACKED_BYTES = 24 };

static double cycles(const struct gemm_kernel *k, const struct conv_term *t, unsigned outputs,
                     struct grid grid) {
  const unsigned width = step_of(k->form).channels;
  const uint64_t taps = (uint64_t)t->term->window.kh * t->term->window.kw;
  const unsigned planes = k->form == FORM_INT2 ? 1 : planes_of(k, t); /* at once */
  const unsigned tile = in_tiles(k) ? AMX_TILE_CYCLES : TILE_CYCLES;
  const unsigned pixels = (unsigned)pixels_of(grid);
  const unsigned unpacked = k->form == FORM_INT2 ? divide_up(pixels, AMX_BLOCK_PIXELS) : 0;
  const uint64_t depth =
      taps * divide_up(t->from.channels, width) * width * passes_of(k, t) * planes;
  double sum = 0;
  for (unsigned done = 0; done < outputs;) {
    const struct gemm_kernel *part = bfcn_kernel_for_outputs(k, outputs - done, grid.width);
    sum +=
        (double)divide_up(pixels, part->mr) *
            ((double)depth * part->mr * part->nr / part->macs_per_cycle + tile * passes_of(k, t)) +
        (double)unpacked * depth * part->nr / UNPACKED_BYTES;
    done += part->nr;
  }
  return sum;
}

bfcn_status bfcn_choose_kernel(const struct bfcn_session *s, const struct conv *conv,
                               struct conv_term *t) {
  double least = 0;
  for (size_t i = 0; i < bfcn_gemm_kernel_count; i++) {
    const struct gemm_kernel *k = &bfcn_gemm_kernels[i];
    if (!serves(k, t, conv->grid.width, s->isa)) continue;
    const double cost = cycles(k, t, conv->outputs, conv->grid);
    const int wanted = s->wanted_kernel && !strcmp(s->wanted_kernel, k->name);
    if (!t->kernel || cost < least || wanted) t->kernel = k, least = cost;
    if (wanted) break;
  }
  if (!t->kernel)
    return bfcn_fail(BFCN_ERROR_KERNEL, "op '%s': no kernel serves it", conv->op->name);
  return BFCN_OK;
}
