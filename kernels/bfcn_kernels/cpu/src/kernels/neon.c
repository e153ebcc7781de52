/* NEON around the matrix kernels: expansion of planes, epilogues, packing.
 *
 * ARMv7's NEON flushes denormal floats to zero, AArch64's does not. The epilogue through float32
 * runs in NEON on ARMv7 only where that cannot change a code: codes, not scores, of at most two
 * additions (B, then a second term or a residual). Why it cannot: every flush moves a value by at
 * most d = 2^31 * 2^-126 = 2^-95, a denormal scale times an accumulator. Two floats that differ by
 * at most d have magnitudes of at most 2^24 d, or one ulp would exceed d. Adding such a pair to a
 * float either absorbs it or has a sum below 2^51 d, and then the sums differ by at most 2^28 d.
 * After two additions that is 2^(-95 + 56) = 2^-39, so a t that differs has |t| <= 2^-15: code 0
 * both ways, since t + 0.5 < 1. Scores, and what float operations follow them, run in scalar VFP,
 * which keeps denormals. */
#include "neon.h"

#if defined(BFCN_NEON)

#include "../kernels.h"
#include "rows.h"

#include <string.h>

static const uint8_t bit_of_lane[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};

/* Popcounts of two planes' words as 16-bit lanes; a pixel's are added across at its end. */
static void sum_codes_neon(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                           int32_t *sums) {
  for (size_t p = 0; p < pixels; p++) {
    uint16x8_t sum = vdupq_n_u16(0);
    for (unsigned b = bits; b-- > 0;) {
      const uint8_t *plane = (const uint8_t *)(planes + b * words);
      sum = vaddq_u16(sum, sum);
      unsigned i = 0;
      for (; i + 2 <= words; i += 2) sum = vpadalq_u8(sum, vcntq_u8(vld1q_u8(plane + 8ul * i)));
      if (i < words)
        sum = vpadalq_u8(sum, vcombine_u8(vcnt_u8(vld1_u8(plane + 8ul * i)), vdup_n_u8(0)));
    }
    const uint32x4_t quarter = vpaddlq_u16(sum);
    const uint32x2_t half = vadd_u32(vget_low_u32(quarter), vget_high_u32(quarter));
    vst1_lane_s32(sums + p, vreinterpret_s32_u32(vpadd_u32(half, half)), 0);
    planes += bits * words;
  }
}

/* u16 offsets of tables (field * 16), field = 4 bits of the low plane, 4 of the high. */
static inline void lut4_offsets(const uint64_t *low, const uint64_t *high, uint16_t *out) {
  const uint8x8_t v0 = vld1_u8((const uint8_t *)low);
  const uint8x8_t v1 = high ? vld1_u8((const uint8_t *)high) : vdup_n_u8(0);
  const uint8x8x2_t fields = vzip_u8(vsli_n_u8(v0, v1, 4), vsri_n_u8(v1, v0, 4));
  vst1q_u16(out, vshll_n_u8(fields.val[0], 4));
  vst1q_u16(out + 8, vshll_n_u8(fields.val[1], 4));
}

static void expand_lut4(const struct expand *e) {
  const size_t steps = (e->channels + 3) / 4;
  uint16_t *out = e->out;
  const uint64_t *codes = e->codes;
  for (size_t p = 0; p < e->pixels; p++, codes += e->planes * e->words)
    for (unsigned b = 0; b < e->planes; b += e->pass_planes, out += steps) {
      const uint64_t *low = codes + b * e->words;
      const uint64_t *high = e->pass_planes == 2 && b + 1 < e->planes ? low + e->words : NULL;
      unsigned i = 0;
      for (; 16 * (i + 1ul) <= steps; i++)
        lut4_offsets(low + i, high ? high + i : NULL, out + 16 * i);
      if (16ul * i < steps) {
        uint16_t offsets[16];
        lut4_offsets(low + i, high ? high + i : NULL, offsets);
        memcpy(out + 16 * i, offsets, 2 * (steps - 16 * i));
      }
    }
}

#if defined(__aarch64__)
/* 8 fields of 5 bits are 5 bytes: bytes from the i-th five on, of which none is past the end. */
static inline uint8x8_t fives(const uint8_t *plane, unsigned i, unsigned bytes) {
  const unsigned at = 5 * i + 8 < bytes ? 5 * i : bytes - 8;
  uint64_t eight;
  memcpy(&eight, plane + at, 8);
  return vcreate_u8(eight >> 8 * (5 * i - at));
}

/* u16 offsets of tables (field * 32), field = 5 bits of the low plane, 5 of the high. */
static inline uint16x8_t lut5_offsets(const uint8_t *low, const uint8_t *high, unsigned i,
                                      unsigned bytes) {
  static const uint8_t lanes[16] = {0, 1, 0, 1, 1, 2, 1, 2, 2, 3, 3, 4, 3, 4, 4, 5};
  static const int16_t shifts[8] = {5, 0, 3, -2, 1, 4, -1, 2};
  const uint8x16_t both = vld1q_u8(lanes);
  const int16x8_t shift = vld1q_s16(shifts);
  const uint8x16_t v0 = vqtbl1q_u8(vcombine_u8(fives(low, i, bytes), vdup_n_u8(0)), both);
  const uint16x8_t field = vshlq_u16(vreinterpretq_u16_u8(v0), shift);
  if (!high) return vandq_u16(field, vdupq_n_u16(31 << 5));
  const uint8x16_t v1 = vqtbl1q_u8(vcombine_u8(fives(high, i, bytes), vdup_n_u8(0)), both);
  const uint16x8_t upper = vshlq_u16(vreinterpretq_u16_u8(v1), vaddq_s16(shift, vdupq_n_s16(5)));
  return vorrq_u16(vandq_u16(field, vdupq_n_u16(31 << 5)), vandq_u16(upper, vdupq_n_u16(31 << 10)));
}

static void expand_lut5(const struct expand *e) {
  const size_t steps = (e->channels + 4) / 5;
  const unsigned bytes = 8 * e->words;
  uint16_t *out = e->out;
  const uint8_t *codes = (const uint8_t *)e->codes;
  for (size_t p = 0; p < e->pixels; p++, codes += e->planes * bytes)
    for (unsigned b = 0; b < e->planes; b += e->pass_planes, out += steps) {
      const uint8_t *low = codes + b * bytes;
      const uint8_t *high = e->pass_planes == 2 && b + 1 < e->planes ? low + bytes : NULL;
      unsigned i = 0;
      for (; 8 * (i + 1ul) <= steps; i++) vst1q_u16(out + 8 * i, lut5_offsets(low, high, i, bytes));
      if (8ul * i < steps) {
        uint16_t offsets[8];
        vst1q_u16(offsets, lut5_offsets(low, high, i, bytes));
        memcpy(out + 8 * i, offsets, 2 * (steps - 8 * i));
      }
    }
}
#endif

/* 16 bytes of ones where the bits of two bytes are set. */
static inline uint8x16_t spread(const uint8_t *bits) {
  const uint8x16_t both = vcombine_u8(vld1_dup_u8(bits), vld1_dup_u8(bits + 1));
  return vtstq_u8(both, vld1q_u8(bit_of_lane));
}

/* 16 codes of up to 8 planes. */
static inline uint8x16_t codes_of(const uint8_t *planes, unsigned bits, size_t plane_bytes) {
  uint8x16_t codes = vdupq_n_u8(0);
  for (unsigned b = bits; b-- > 0;) /* codes * 2 + the plane's bit, which spread() gives as -1 */
    codes = vsubq_u8(vaddq_u8(codes, codes), spread(planes + b * plane_bytes));
  return codes;
}

static void unpack(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                   unsigned channels, uint8_t *codes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels)
    for (unsigned c = 0; c < channels; c += 16) {
      const uint8x16_t v = codes_of((const uint8_t *)planes + c / 8, bits, 8ul * words);
      const unsigned left = channels - c;
      uint8_t bytes[16];
      vst1q_u8(left < 16 ? bytes : codes + c, v);
      if (left < 16) memcpy(codes + c, bytes, left);
    }
}

/* Bit i of the word is set where mask byte i is all ones. */
static inline uint8x8_t word_of(const uint8x16_t mask[4]) {
  const uint8x16_t lanes = vld1q_u8(bit_of_lane);
  const uint8x16_t a = pairs_u8(vandq_u8(mask[0], lanes), vandq_u8(mask[1], lanes));
  const uint8x16_t b = pairs_u8(vandq_u8(mask[2], lanes), vandq_u8(mask[3], lanes));
  const uint8x16_t c = pairs_u8(a, b);
  return vpadd_u8(vget_low_u8(c), vget_high_u8(c));
}

/* 64 codes to a word in each of `bits` planes. */
static inline void store_word(const uint8x16_t code[4], unsigned bits, size_t plane_bytes,
                              uint8_t *out) {
  for (unsigned b = 0; b < bits; b++, out += plane_bytes) {
    const uint8x16_t bit = vdupq_n_u8((uint8_t)(1u << b));
    uint8x16_t mask[4];
    UNROLLED
    for (int i = 0; i < 4; i++) mask[i] = vtstq_u8(code[i], bit);
    vst1_u8(out, word_of(mask));
  }
}

static void pack(const uint8_t *codes, unsigned channels, size_t pixels, unsigned bits,
                 unsigned words, uint64_t *planes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels)
    for (unsigned i = 0; i < words; i++) {
      const unsigned left = channels - 64 * i;
      uint8_t room[64] = {0};
      if (left < 64) memcpy(room, codes + 64 * i, left);
      const uint8_t *from = left < 64 ? room : codes + 64 * i;
      uint8x16_t code[4];
      UNROLLED
      for (int j = 0; j < 4; j++) code[j] = vld1q_u8(from + 16 * j);
      store_word(code, bits, 8ul * words, (uint8_t *)(planes + i));
    }
}

static void expand_int8(const struct expand *e) {
  unpack(e->codes, e->planes, e->words, e->pixels, e->channels, e->out);
}

static void expand_bits(const struct expand *e) {
  bfcn_backend_portable.expand[FORM_BITS](e);
}

/* acc * scale of 4 lanes; the width of the sums is a constant. */
static inline float32x4_t product_of(const struct epilogue_term *t, const int sum_bits, size_t at,
                                     unsigned channel, int32x4_t twice, int32x4_t box) {
  const int32x4_t sum =
      sum_bits == 16 ? vreinterpretq_s32_u32(vmovl_u16(vld1_u16((const uint16_t *)t->sums + at)))
                     : vld1q_s32((const int32_t *)t->sums + at);
  int32x4_t acc = vaddq_s32(vaddq_s32(sum, vandq_s32(sum, twice)), box);
  if (t->offset) acc = vaddq_s32(acc, vld1q_s32(t->offset + channel));
  return vmulq_f32(vcvtq_f32_s32(acc), vld1q_f32(t->scale + channel));
}

/* f32(q - zp) * R of 16 channels, looked up by code. The last channels may be fewer. */
static void addends_of(const struct epilogue *e, const struct epilogue_residual *r, size_t p,
                       unsigned channel, unsigned count, float addend[16]) {
  uint8_t code[16] = {0};
  if (r->bits > 4) {
    memcpy(code, (const uint8_t *)r->codes + p * e->all_channels + channel, count);
  } else {
    const size_t plane = (e->all_channels + 63) / 64 * 8;
    const uint8_t *planes = (const uint8_t *)r->codes + p * r->bits * plane + channel / 8;
    vst1q_u8(code, codes_of(planes, r->bits, plane));
  }
  for (int i = 0; i < 16; i++) addend[i] = r->addend[code[i]];
}

/* t += acc * scale, or t = acc * scale + B for the first term, of 16 channels from column c. */
static inline __attribute__((always_inline)) void add_term(const struct epilogue *e, unsigned index,
                                                           const int sum_bits, size_t p, unsigned c,
                                                           float32x4_t t[4]) {
  const struct epilogue_term *term = &e->term[index];
  const int32x4_t twice = vdupq_n_s32(term->k == 2 ? -1 : 0);
  const int32x4_t box = vdupq_n_s32(
      term->box_scale ? (int32_t)((uint32_t)term->box_scale * (uint32_t)term->box[p]) : 0);
  const unsigned channel = e->first + c;
  UNROLLED
  for (unsigned j = 0; j < 4; j++) {
    const float32x4_t product =
        product_of(term, sum_bits, p * term->sum_stride + c + 4 * j, channel + 4 * j, twice, box);
    t[j] = vaddq_f32(product, index ? t[j] : vld1q_f32(e->bias + channel + 4 * j));
  }
}

/* t of 16 channels from column c of this call. */
static inline __attribute__((always_inline)) void pre_activation(const struct epilogue *e, size_t p,
                                                                 unsigned c, float32x4_t t[4]) {
  if (e->term[0].sum_bits == 16)
    add_term(e, 0, 16, p, c, t);
  else
    add_term(e, 0, 32, p, c, t);
  for (unsigned i = 1; i < e->terms; i++)
    if (e->term[i].sum_bits == 16)
      add_term(e, i, 16, p, c, t);
    else
      add_term(e, i, 32, p, c, t);
  for (unsigned i = 0; i < e->residuals; i++) {
    float addend[16];
    const unsigned left = e->channels - c;
    addends_of(e, &e->residual[i], p, e->first + c, left < 16 ? left : 16, addend);
    UNROLLED
    for (unsigned j = 0; j < 4; j++) t[j] = vaddq_f32(t[j], vld1q_f32(addend + 4 * j));
  }
}

/* clip(floor(t + 0.5), 0, top): truncation of what is not negative; narrowing clips, too. */
static inline uint8x16_t to_codes(const float32x4_t t[4], unsigned bits) {
  uint16x4_t code[4];
  UNROLLED
  for (int j = 0; j < 4; j++)
    code[j] = vqmovun_s32(vcvtq_s32_f32(vaddq_f32(t[j], vdupq_n_f32(0.5f))));
  return vminq_u8(vcombine_u8(vqmovn_u16(vcombine_u16(code[0], code[1])),
                              vqmovn_u16(vcombine_u16(code[2], code[3]))),
                  vdupq_n_u8((uint8_t)((1u << bits) - 1)));
}

static void store_scores(const struct epilogue *e, size_t p, unsigned c) {
  float *scores = (float *)e->out + p * e->all_channels + e->first + c, room[16];
  const unsigned left = e->channels - c;
  float32x4_t t[4];
  pre_activation(e, p, c, t);
  UNROLLED
  for (int j = 0; j < 4; j++) vst1q_f32((left < 16 ? room : scores) + 4 * j, t[j]);
  if (left < 16) memcpy(scores, room, 4ul * left);
}

static void store_bytes(const struct epilogue *e, size_t p, unsigned c) {
  uint8_t *codes = (uint8_t *)e->out + p * e->all_channels + e->first + c, room[16];
  const unsigned left = e->channels - c;
  float32x4_t t[4];
  pre_activation(e, p, c, t);
  vst1q_u8(left < 16 ? room : codes, to_codes(t, e->bits));
  if (left < 16) memcpy(codes, room, left);
}

/* 64 channels to planes; those past the last are 0. */
static void store_planes(const struct epilogue *e, size_t p, unsigned c) {
  const size_t plane = (e->all_channels + 63) / 64 * 8;
  const unsigned left = e->channels - c;
  uint8_t room[64];
  ROLLED
  for (unsigned i = 0; i < 64 && i < left; i += 16) {
    float32x4_t t[4];
    pre_activation(e, p, c + i, t);
    vst1q_u8(room + i, to_codes(t, e->bits));
  }
  if (left < 64) memset(room + left, 0, 64 - left);
  uint8x16_t code[4];
  UNROLLED
  for (int i = 0; i < 4; i++) code[i] = vld1q_u8(room + 16 * i);
  store_word(code, e->bits, plane, (uint8_t *)e->out + p * e->bits * plane + (e->first + c) / 8);
}

enum { SPAN = 16 }; /* pixels whose codes wait as bytes */

/* 64 channels of `count` pixels to planes, some of their bits changed. */
static inline void store_span(const struct epilogue *e, unsigned c, size_t first, size_t count,
                              const uint8_t codes[SPAN * 64], const uint8x16_t change[4],
                              unsigned bits) {
  const size_t plane = (e->all_channels + 63) / 64 * 8;
  uint8_t *out = (uint8_t *)e->out + first * bits * plane + (e->first + c) / 8;
  for (size_t p = 0; p < count; p++, out += bits * plane) {
    uint8x16_t code[4];
    UNROLLED
    for (int i = 0; i < 4; i++) code[i] = veorq_u8(vld1q_u8(codes + 64 * p + 16 * i), change[i]);
    store_word(code, bits, plane, out);
  }
}

/* Codes of 16 channels of a span's pixels, from one or two terms: of narrow sums without an offset,
 * or of 32-bit sums without a box. */
TILE codes_16(const struct epilogue *e, unsigned c, size_t first, size_t count, const int terms,
              const int narrow, uint8_t codes[SPAN * 64]) {
  float32x4_t scale[2][4], bias[4];
  int32x4_t offset[2][4];
  int16x8_t twice[2];
  UNROLLED
  for (int i = 0; i < terms; i++) {
    const struct epilogue_term *term = &e->term[i];
    twice[i] = vdupq_n_s16(term->k == 2 ? -1 : 0);
    UNROLLED
    for (int j = 0; j < 4; j++) {
      scale[i][j] = vld1q_f32(term->scale + e->first + c + 4 * j);
      offset[i][j] =
          !narrow && term->offset ? vld1q_s32(term->offset + e->first + c + 4 * j) : vdupq_n_s32(0);
      bias[j] = vld1q_f32(e->bias + e->first + c + 4 * j);
    }
  }
  ROLLED
  for (size_t p = 0; p < count; p++) {
    float32x4_t t[4];
    UNROLLED
    for (int j = 0; j < 4; j++) t[j] = bias[j];
    UNROLLED
    for (int i = 0; i < terms; i++) {
      const struct epilogue_term *term = &e->term[i];
      const size_t at = (first + p) * term->sum_stride + c;
      int32x4_t acc[4];
      if (narrow) {
        const int16_t box = (int16_t)(term->box_scale * term->box[first + p]);
        UNROLLED
        for (int j = 0; j < 4; j += 2) {
          const int16x8_t sum = vld1q_s16((const int16_t *)term->sums + at + 4 * j);
          const int16x8_t all =
              vaddq_s16(vaddq_s16(sum, vandq_s16(sum, twice[i])), vdupq_n_s16(box));
          acc[j] = vmovl_s16(vget_low_s16(all)), acc[j + 1] = vmovl_s16(vget_high_s16(all));
        }
      } else {
        UNROLLED
        for (int j = 0; j < 4; j++)
          acc[j] = vaddq_s32(vld1q_s32((const int32_t *)term->sums + at + 4 * j), offset[i][j]);
      }
      UNROLLED
      for (int j = 0; j < 4; j++)
        t[j] = vaddq_f32(t[j], vmulq_f32(vcvtq_f32_s32(acc[j]), scale[i][j]));
    }
    vst1q_u8(codes + 64 * p, to_codes(t, e->bits));
  }
}

/* 64 channels of every pixel. Those past the last have scales and biases of 0, so that code 0. */
TILE planes_block(const struct epilogue *e, unsigned c, const int terms, const int narrow) {
  const uint8x16_t none = vdupq_n_u8(0), change[4] = {none, none, none, none};
  for (size_t first = 0; first < e->pixels; first += SPAN) {
    const size_t count = e->pixels - first < SPAN ? e->pixels - first : SPAN;
    uint8_t codes[SPAN * 64];
    ROLLED
    for (unsigned i = 0; i < 64; i += 16)
      codes_16(e, c + i, first, count, terms, narrow, codes + i);
    store_span(e, c, first, count, codes, change, e->bits);
  }
}

/* Whether planes_block() serves: all terms are of one kind, and nothing is added to them. */
static int in_spans(const struct epilogue *e) {
  if (e->residuals || e->terms > 2) return 0;
  for (unsigned i = 0; i < e->terms; i++) {
    const struct epilogue_term *t = &e->term[i];
    if (t->narrow != e->term[0].narrow || (t->narrow ? t->offset != NULL || !t->box : t->box_scale))
      return 0;
    if (!t->narrow && (t->sum_bits != 32 || t->k != 1)) return 0;
  }
  return 1;
}

static void planes(const struct epilogue *e) {
  const int kind = in_spans(e) ? 2 * (int)e->terms + (e->term[0].narrow != 0) : 0;
  for (unsigned c = 0; c < e->channels; c += 64) switch (kind) {
    case 0:
      for (size_t p = 0; p < e->pixels; p++) store_planes(e, p, c);
      break;
    case 2:
      planes_block(e, c, 1, 0);
      break;
    case 3:
      planes_block(e, c, 1, 1);
      break;
    case 4:
      planes_block(e, c, 2, 0);
      break;
    default:
      planes_block(e, c, 2, 1);
    }
}

static void epilogue(const struct epilogue *e) {
#if defined(__arm__)
  if (e->bits == 0 || e->terms + e->residuals > 2) {
    bfcn_backend_portable.epilogue(e);
    return;
  }
#endif
  if (e->bits && e->bits <= 4) {
    planes(e);
    return;
  }
  for (size_t p = 0; p < e->pixels; p++)
    for (unsigned c = 0; c < e->channels; c += 16) (e->bits ? store_bytes : store_scores)(e, p, c);
}

/* The threshold of step j for each lane's residual code, of t[codes][steps]. */
static inline int16x8_t threshold_of(const int16x8_t *t, const int codes, const int steps, int j,
                                     uint16x8_t r0, uint16x8_t r1) {
  int16x8_t chosen = t[j];
  if (codes > 1) chosen = vbslq_s16(r0, t[steps + j], chosen);
  if (codes > 2) chosen = vbslq_s16(r1, vbslq_s16(r0, t[3 * steps + j], t[2 * steps + j]), chosen);
  return chosen;
}

/* 8 channels, as 16-bit lanes: 1 - m of three thresholds, -m of one, with m those that acc does not
 * exceed. */
static inline uint16x8_t compare(int16x8_t acc, const int16x8_t t[], const int steps) {
  const uint16x8_t first = vcgeq_s16(t[0], acc);
  if (steps == 1) return first;
  return vsubq_u16(vaddq_u16(first, vcgeq_s16(t[1], acc)), vcgtq_s16(acc, t[2]));
}

/* 8 lanes of ones where a byte's bits are set; the byte after it is read as well. */
static inline uint16x8_t spread_wide(const uint8_t *bits) {
  static const uint16_t lanes[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  uint16_t two;
  memcpy(&two, bits, 2);
  return vtstq_u16(vld1q_dup_u16(&two), vld1q_u16(lanes));
}

/* What a block of 64 channels shares: of `count` pixels, `first` on, what is added to the sums, and
 * that in quarters. */
struct span {
  size_t first, count;
  int16x8_t box[SPAN], quarters[SPAN];
};

/* 8 channels of a span's pixels: what compare() finds, as bytes. The residual's code chooses the
 * thresholds, or moves acc. */
TILE compare_8(const struct epilogue *e, unsigned c, const struct span *span, const int k,
               const int residual_bits, const int bits, const int moved, uint8_t found[SPAN * 64]) {
  const struct epilogue_term *term = &e->term[0];
  const int steps = bits == 2 ? 3 : 1, codes = moved ? 1 : 1 << residual_bits;
  const int rows = moved ? residual_bits + steps : codes * steps;
  const size_t plane = (e->all_channels + 63) / 64 * 8, at = (e->first + c) / 8;
  const size_t stride = term->sum_stride;
  const int16_t *from = (moved ? e->moves : e->thresholds) +
                        (e->first + c) / 32 * (size_t)(32 * rows) + (e->first + c) % 32;
  const uint16_t *sums = (const uint16_t *)term->sums + span->first * stride + c;
  const uint8_t *residual = NULL;
  if (residual_bits)
    residual = (const uint8_t *)e->residual[0].codes + span->first * residual_bits * plane + at;
  int16x8_t row[12];
  UNROLLED
  for (int j = 0; j < rows; j++) row[j] = vld1q_s16(from + 32 * j);
  ROLLED
  for (size_t p = 0; p < span->count; p++, sums += stride) {
    uint16x8_t r0 = vdupq_n_u16(0), r1 = r0;
    if (residual_bits) r0 = spread_wide(residual);
    if (residual_bits == 2) r1 = spread_wide(residual + plane);
    residual += (unsigned)residual_bits * plane;
    int16x8_t acc = vreinterpretq_s16_u16(vld1q_u16(sums)), t[3];
    if (moved) {
      acc = vaddq_s16(k == 2 ? vshlq_n_s16(acc, 3) : vshlq_n_s16(acc, 2), span->quarters[p]);
      acc = vaddq_s16(acc, vandq_s16(row[0], vreinterpretq_s16_u16(r0)));
      if (residual_bits == 2) acc = vaddq_s16(acc, vandq_s16(row[1], vreinterpretq_s16_u16(r1)));
    } else {
      acc = vaddq_s16(k == 2 ? vaddq_s16(acc, acc) : acc, span->box[p]);
    }
    UNROLLED
    for (int j = 0; j < steps; j++)
      t[j] = moved ? row[residual_bits + j] : threshold_of(row, codes, steps, j, r0, r1);
    vst1_u8(found + 64 * p, vmovn_u16(compare(acc, t, steps)));
  }
}

/* 64 channels of every pixel, 8 at a time, so that registers hold their thresholds. The code is
 * steps - m, or m where the channel falls: the low bits of what is found, but for one. */
TILE threshold_block(const struct epilogue *e, unsigned c, const int residual_bits,
                     const int bits) {
  const struct epilogue_term *term = &e->term[0];
  const size_t at = (e->first + c) / 8;
  uint8x16_t change[4];
  UNROLLED
  for (int i = 0; i < 4; i++) {
    const uint8x16_t falls = spread((const uint8_t *)e->flips + at + 2 * i);
    change[i] =
        bits == 2 ? vbslq_u8(falls, vdupq_n_u8(1), vdupq_n_u8(2)) : vbicq_u8(vdupq_n_u8(1), falls);
  }
  struct span span;
  for (span.first = 0; span.first < e->pixels; span.first += span.count) {
    const size_t left = e->pixels - span.first;
    uint8_t found[SPAN * 64];
    span.count = left < SPAN ? left : SPAN;
    for (size_t p = 0; p < span.count; p++) {
      const int box = term->box_scale * term->box[span.first + p];
      span.box[p] = vdupq_n_s16((int16_t)box);
      if (residual_bits) span.quarters[p] = vdupq_n_s16((int16_t)(QUARTERS * box));
    }
    ROLLED
    for (unsigned i = 0; i < 64; i += 8)
      switch (2 * (residual_bits && e->moved[at + i / 8]) + (term->k == 2)) {
      case 0:
        compare_8(e, c + i, &span, 1, residual_bits, bits, 0, found + i);
        break;
      case 1:
        compare_8(e, c + i, &span, 2, residual_bits, bits, 0, found + i);
        break;
      case 2:
        compare_8(e, c + i, &span, 1, residual_bits, bits, 1, found + i);
        break;
      default:
        compare_8(e, c + i, &span, 2, residual_bits, bits, 1, found + i);
      }
    store_span(e, c, span.first, span.count, found, change, (unsigned)bits);
  }
}

static void epilogue_threshold(const struct epilogue *e) {
  const unsigned residual_bits = e->residuals ? e->residual[0].bits : 0;
  for (unsigned c = 0; c < e->channels; c += 64) switch (residual_bits * 4 + e->bits) {
    case 1:
      threshold_block(e, c, 0, 1);
      break;
    case 2:
      threshold_block(e, c, 0, 2);
      break;
    case 5:
      threshold_block(e, c, 1, 1);
      break;
    case 6:
      threshold_block(e, c, 1, 2);
      break;
    case 9:
      threshold_block(e, c, 2, 1);
      break;
    default:
      threshold_block(e, c, 2, 2);
    }
}

/* Only USMMLA multiplies unsigned codes by signed weights. */
#define NEON_BACKEND                                                                           \
  .expand = {[FORM_BITS] = expand_bits, [FORM_LUT4] = expand_lut4, [FORM_INT8] = expand_int8}, \
  .epilogue = epilogue, .epilogue_threshold = epilogue_threshold, .moves = 1,                  \
  .sum_codes = sum_codes_neon, .unpack = unpack, .pack = pack, .lerp = lerp,                   \
  .lerp_columns = lerp_columns, .argmax_row = bfcn_argmax_row_neon

const struct backend bfcn_backend_neon = {.name = "neon", .wide_zero = 128, NEON_BACKEND};
/* Beyond NEON, only matrix kernels differ. */
#if defined(__aarch64__)
const struct backend bfcn_backend_dotprod = {
    .name = "dotprod", .wide_zero = 128, NEON_BACKEND, .expand[FORM_LUT5] = expand_lut5};
const struct backend bfcn_backend_i8mm = {
    .name = "i8mm", NEON_BACKEND, .expand[FORM_LUT5] = expand_lut5};
#endif

#endif
