/* AVX-512 around the matrix kernels: expansion of planes, epilogues, packing. */
#if defined(__x86_64__)

#include "../kernels.h"
#include "target.h"

#include <immintrin.h>
#include <string.h>

TARGET_BEGIN(AVX512_FEATURES)
#include "rows.h"

/* Whole vectors of pixels of 1, 2 or 4 words; the number of pixels done. */
static size_t sum_short_codes(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                              int32_t *sums) {
  const unsigned length = bits * words, at_once = 8 / length;
  const __m512i word = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i in_pixel = _mm512_and_si512(word, _mm512_set1_epi64(length - 1));
  const __m512i plane = _mm512_srli_epi64(in_pixel, words == 4 ? 2 : words == 2 ? 1 : 0);
  const __m512i firsts = _mm512_castsi256_si512(_mm256_mullo_epi32(
      _mm256_set1_epi32(2 * (int)length), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0)));
  const __mmask8 wanted = (__mmask8)((1u << at_once) - 1);
  size_t p = 0;
  for (; p + at_once <= pixels; p += at_once, planes += 8) {
    __m512i sum = _mm512_sllv_epi64(_mm512_popcnt_epi64(_mm512_loadu_si512(planes)), plane);
    if (length > 1) sum = _mm512_add_epi64(sum, _mm512_shuffle_epi32(sum, _MM_PERM_BADC));
    if (length > 2) sum = _mm512_add_epi64(sum, _mm512_permutex_epi64(sum, 0x4e));
    _mm256_mask_storeu_epi32(sums + p, wanted,
                             _mm512_castsi512_si256(_mm512_permutexvar_epi32(firsts, sum)));
  }
  return p;
}

/* Sums of codes, 8 words at a time where there are that many. */
static void sum_codes_wide(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                           int32_t *sums) {
  const unsigned length = bits * words;
  if (length == 1 || length == 2 || length == 4) {
    const size_t done = sum_short_codes(planes, bits, words, pixels, sums);
    planes += done * length, pixels -= done, sums += done;
  }
  if (words < 3) {
    sum_codes(planes, bits, words, pixels, sums);
    return;
  }
  for (size_t p = 0; p < pixels; p++) {
    __m512i sum = _mm512_setzero_si512();
    for (unsigned b = 0; b < bits; b++, planes += words) {
      __m512i count = _mm512_setzero_si512();
      for (unsigned i = 0; i < words; i += 8) {
        const __mmask8 some = (__mmask8)(words - i < 8 ? (1u << (words - i)) - 1 : 255);
        count = _mm512_add_epi64(count,
                                 _mm512_popcnt_epi64(_mm512_maskz_loadu_epi64(some, planes + i)));
      }
      sum = _mm512_add_epi64(sum, _mm512_sll_epi64(count, _mm_cvtsi32_si128((int)b)));
    }
    sums[p] = (int32_t)_mm512_reduce_add_epi64(sum);
  }
}

static inline __mmask64 low_bits(size_t count) {
  return count < 64 ? (1ull << count) - 1 : ~0ull;
}

/* Table rows (field * 64, as u16) of fields of 6 bits: each qword of the result takes the bytes
 * that `source` names, and each of its bytes the 8 bits from the bit on that `shifts` names. */
static inline __m512i table_rows(__m256i bytes, __m512i source, __m512i shifts) {
  const __m512i spread = _mm512_permutexvar_epi8(source, _mm512_castsi256_si512(bytes));
  return _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, spread), _mm512_set1_epi16(63 << 6));
}

/* One plane a pass: 32 steps are 24 bytes, a qword 4 fields of 3 bytes. */
static void expand_lut6_one(const struct expand *e, unsigned plane, size_t steps, uint16_t *out,
                            size_t stride) {
  const long long first = 0x0302010003020100, next = 0x0303030303030303;
  const __m512i source =
      _mm512_set_epi64(first + 7 * next, first + 6 * next, first + 5 * next, first + 4 * next,
                       first + 3 * next, first + 2 * next, first + next, first);
  const __m512i shifts = _mm512_set1_epi64(0x140c0e060800023a);
  const size_t bytes = 8ul * e->words, pixel = e->planes * bytes;
  for (size_t step = 0, at = 0; step < steps; step += 32, at += 24) {
    const __mmask32 inside = (__mmask32)low_bits(bytes - at),
                    wanted = (__mmask32)low_bits(steps - step);
    const uint8_t *low = (const uint8_t *)e->codes + plane * bytes + at;
    uint16_t *to = out + step;
    for (size_t p = 0; p < e->pixels; p++, low += pixel, to += stride)
      _mm512_mask_storeu_epi16(to, wanted,
                               table_rows(_mm256_maskz_loadu_epi8(inside, low), source, shifts));
  }
}

/* Two planes a pass, side by side: 16 steps are 12 bytes of each, a qword 2 fields of both. They
 * begin at bit 0 of their bytes, or at bit 4 in every other qword. */
static void expand_lut6_two(const struct expand *e, unsigned plane, size_t steps, uint16_t *out,
                            size_t stride) {
  const long long first = 0x1312111003020100, next = 0x0101010101010101;
  const __m512i source =
      _mm512_set_epi64(first + 10 * next, first + 9 * next, first + 7 * next, first + 6 * next,
                       first + 4 * next, first + 3 * next, first + next, first);
  const long long at_0 = 0x28200800221a023a, at_4 = 0x2c240c04261e063e;
  const __m512i shifts = _mm512_set_epi64(at_4, at_0, at_4, at_0, at_4, at_0, at_4, at_0);
  const size_t bytes = 8ul * e->words, pixel = e->planes * bytes;
  const int pair = plane + 1 < e->planes;
  for (size_t step = 0, at = 0; step < steps; step += 16, at += 12) {
    const __mmask16 inside = (__mmask16)low_bits(bytes - at), also = pair ? inside : 0,
                    wanted = (__mmask16)low_bits(steps - step);
    const uint8_t *low = (const uint8_t *)e->codes + plane * bytes + at;
    const uint8_t *high = low + (pair ? bytes : 0);
    uint16_t *to = out + 2 * step;
    for (size_t p = 0; p < e->pixels; p++, low += pixel, high += pixel, to += stride) {
      const __m256i both =
          _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_maskz_loadu_epi8(inside, low)),
                                  _mm_maskz_loadu_epi8(also, high), 1);
      _mm512_mask_storeu_epi32(to, wanted, table_rows(both, source, shifts));
    }
  }
}

static void expand_lut6(const struct expand *e) {
  const size_t steps = (e->channels + 5) / 6, pass = steps * e->pass_planes;
  const size_t stride = pass * ((e->planes + e->pass_planes - 1) / e->pass_planes);
  uint16_t *out = e->out;
  for (unsigned plane = 0; plane < e->planes; plane += e->pass_planes, out += pass)
    if (e->pass_planes == 1)
      expand_lut6_one(e, plane, steps, out, stride);
    else
      expand_lut6_two(e, plane, steps, out, stride);
}

/* 8 bits from bit `low` + 3 f on for the lower byte of u16 lane f = 0..3, `high` for the upper. */
static inline long long every_third(unsigned low, unsigned high) {
  unsigned long long shifts = 0;
  for (unsigned f = 0; f < 4; f++)
    shifts |= (unsigned long long)((low + 3 * f) % 64 | (high + 3 * f) % 64 << 8) << 16 * f;
  return (long long)shifts;
}

/* Fields of 3 bits of both planes, side by side: (field 1 << 3 | field 0) * 64. 32 steps are 12
 * bytes of each plane, a qword 4 fields of both, from bit 0 on or, in every other one, from bit 4;
 * those of the second plane lie 16 bits higher. */
static void expand_lut3(const struct expand *e) {
  const size_t steps = (e->channels + 2) / 3, bytes = 8ul * e->words, pixel = e->planes * bytes;
  const long long first = 0x11100100, next = 0x01010101;
  const __m512i source =
      _mm512_set_epi64(first + 10 * next, first + 9 * next, first + 7 * next, first + 6 * next,
                       first + 4 * next, first + 3 * next, first + next, first);
  const long long low_0 = every_third(64 - 6, 2), low_4 = every_third(64 - 6 + 4, 2 + 4);
  const long long high_0 = every_third(0, 16 - 1), high_4 = every_third(0, 16 - 1 + 4);
  const __m512i low = _mm512_set_epi64(low_4, low_0, low_4, low_0, low_4, low_0, low_4, low_0);
  const __m512i high =
      _mm512_set_epi64(high_4, high_0, high_4, high_0, high_4, high_0, high_4, high_0);
  const __m512i low_field = _mm512_set1_epi16(7 << 6), both_fields = _mm512_set1_epi16(63 << 6);
  uint16_t *out = e->out;
  for (size_t p = 0; p < e->pixels; p++)
    for (unsigned plane = 0; plane < e->planes; plane += 2, out += steps) {
      const uint8_t *from = (const uint8_t *)e->codes + p * pixel + plane * bytes;
      for (size_t step = 0, at = 0; step < steps; step += 32, at += 12) {
        const __mmask16 inside = (__mmask16)low_bits(bytes - at);
        const __mmask16 also = plane + 1 < e->planes ? inside : 0;
        const __m256i both =
            _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_maskz_loadu_epi8(inside, from + at)),
                                    _mm_maskz_loadu_epi8(also, from + bytes + at), 1);
        const __m512i spread = _mm512_permutexvar_epi8(source, _mm512_castsi256_si512(both));
        const __m512i fields = _mm512_ternarylogic_epi64(
            low_field, _mm512_multishift_epi64_epi8(low, spread),
            _mm512_multishift_epi64_epi8(high, spread), 0xca); /* where low_field: the first */
        _mm512_mask_storeu_epi16(out + step, (__mmask32)low_bits(steps - step),
                                 _mm512_and_si512(fields, both_fields));
      }
    }
}

static void unpack(const uint64_t *planes, unsigned bits, unsigned words, size_t pixels,
                   unsigned channels, uint8_t *codes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels)
    for (unsigned i = 0; i < words; i++) {
      __m512i v = _mm512_maskz_set1_epi8(planes[i], 1);
      for (unsigned b = 1; b < bits; b++)
        v = _mm512_mask_add_epi8(v, planes[b * words + i], v, _mm512_set1_epi8((char)(1 << b)));
      _mm512_mask_storeu_epi8(codes + 64 * i, low_bits(channels - 64 * i), v);
    }
}

static void pack(const uint8_t *codes, unsigned channels, size_t pixels, unsigned bits,
                 unsigned words, uint64_t *planes) {
  for (size_t p = 0; p < pixels; p++, planes += bits * words, codes += channels)
    for (unsigned i = 0; i < words; i++) {
      const __m512i v = _mm512_maskz_loadu_epi8(low_bits(channels - 64 * i), codes + 64 * i);
      for (unsigned b = 0; b < bits; b++)
        planes[b * words + i] = _mm512_test_epi8_mask(v, _mm512_set1_epi8((char)(1 << b)));
    }
}

static void expand_int8(const struct expand *e) {
  unpack(e->codes, e->planes, e->words, e->pixels, e->channels, e->out);
}

static inline __m512i widened(const uint16_t *sums, int negative) {
  const __m256i v = _mm256_loadu_si256((const __m256i *)sums);
  return negative ? _mm512_cvtepi16_epi32(v) : _mm512_cvtepu16_epi32(v);
}

/* 16 sums of pixel p from column c (of this call), as accumulators. */
static inline __m512 term_product(const struct epilogue_term *t, const struct epilogue *e, size_t p,
                                  unsigned c) {
  const size_t at = p * t->sum_stride + c;
  __m512i acc = t->sum_bits == 16 ? widened((const uint16_t *)t->sums + at, t->negative)
                                  : _mm512_loadu_si512((const int32_t *)t->sums + at);
  if (t->k == 2) acc = _mm512_add_epi32(acc, acc);
  if (t->box_scale)
    acc = _mm512_add_epi32(
        acc, _mm512_set1_epi32((int32_t)((uint32_t)t->box_scale * (uint32_t)t->box[p])));
  if (t->offset) acc = _mm512_add_epi32(acc, _mm512_loadu_si512(t->offset + e->first + c));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(t->scale + e->first + c));
}

static inline __m512 residual_addend(const struct epilogue_residual *r, const struct epilogue *e,
                                     size_t p, unsigned channel, __mmask16 some) {
  if (r->bits > 4) {
    const uint8_t *codes = (const uint8_t *)r->codes + p * e->all_channels + channel;
    const __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, codes));
    return _mm512_i32gather_ps(code, r->addend, 4);
  }
  const size_t plane = (e->all_channels + 63) / 64 * 8;
  const uint8_t *planes = (const uint8_t *)r->codes + p * r->bits * plane + channel / 8;
  __m512i code = _mm512_setzero_si512();
  for (unsigned b = 0; b < r->bits; b++) {
    uint16_t mask;
    memcpy(&mask, planes + b * plane, 2);
    code = _mm512_mask_or_epi32(code, mask, code, _mm512_set1_epi32(1 << b));
  }
  return _mm512_permutexvar_ps(code, _mm512_loadu_ps(r->addend));
}

static inline __m512 terms_and_bias(const struct epilogue *e, size_t p, unsigned c) {
  __m512 t =
      _mm512_add_ps(term_product(&e->term[0], e, p, c), _mm512_loadu_ps(e->bias + e->first + c));
  for (unsigned i = 1; i < e->terms; i++) t = _mm512_add_ps(t, term_product(&e->term[i], e, p, c));
  return t;
}

static inline __m512 pre_activation(const struct epilogue *e, size_t p, unsigned c,
                                    __mmask16 some) {
  __m512 t = terms_and_bias(e, p, c);
  for (unsigned i = 0; i < e->residuals; i++)
    t = _mm512_add_ps(t, residual_addend(&e->residual[i], e, p, e->first + c, some));
  return t;
}

/* clip(floor(t + 0.5), 0, top): truncation of what is not negative. */
static inline __m512i to_codes(__m512 t, unsigned bits) {
  const __m512 u = _mm512_add_ps(t, _mm512_set1_ps(0.5f));
  const __m512 top = _mm512_set1_ps((float)((1u << bits) - 1));
  return _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(u, _mm512_setzero_ps()), top));
}

/* Add a residual to 64 channels of pixel p. */
static inline void add_residual(const struct epilogue_residual *r, const struct epilogue *e,
                                size_t p, unsigned c, __m512 t[4]) {
  if (r->bits > 4) {
    for (unsigned q = 0; q < 4; q++)
      t[q] = _mm512_add_ps(t[q], residual_addend(r, e, p, e->first + c + 16 * q, 0xffff));
    return;
  }
  const size_t words = (e->all_channels + 63) / 64;
  const uint64_t *planes = (const uint64_t *)r->codes + p * r->bits * words + (e->first + c) / 64;
  __m512i codes = _mm512_setzero_si512();
  for (unsigned b = 0; b < r->bits; b++)
    codes = _mm512_or_si512(codes, _mm512_maskz_set1_epi8(planes[b * words], (char)(1 << b)));
  _Alignas(64) uint8_t bytes[64];
  _mm512_store_si512(bytes, codes);
  const __m512 addends = _mm512_loadu_ps(r->addend);
  UNROLLED
  for (unsigned q = 0; q < 4; q++) {
    const __m512i code = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(bytes + 16 * q)));
    t[q] = _mm512_add_ps(t[q], _mm512_permutexvar_ps(code, addends));
  }
}

/* 4 x 16 codes, a byte each: packing takes 4 from each in turn. */
static inline __m512i to_bytes(const __m512i code[4]) {
  const __m512i mixed = _mm512_packus_epi16(_mm512_packus_epi32(code[0], code[1]),
                                            _mm512_packus_epi32(code[2], code[3]));
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_permutexvar_epi32(order, mixed);
}

/* Codes of pixel p to planes, whatever the terms, residuals and bits. */
static void store_planes(const struct epilogue *e, size_t p) {
  const size_t words = (e->all_channels + 63) / 64;
  uint64_t *out = (uint64_t *)e->out + p * e->bits * words + e->first / 64;
  for (unsigned c = 0; c < e->channels; c += 64) {
    __m512 t[4];
    __m512i code[4];
    UNROLLED
    for (unsigned q = 0; q < 4; q++) t[q] = terms_and_bias(e, p, c + 16 * q);
    for (unsigned i = 0; i < e->residuals; i++) add_residual(&e->residual[i], e, p, c, t);
    UNROLLED
    for (unsigned q = 0; q < 4; q++) code[q] = to_codes(t[q], e->bits);
    const __m512i bytes = to_bytes(code);
    const uint64_t inside = low_bits(e->channels - c);
    for (unsigned b = 0; b < e->bits; b++)
      out[b * words + c / 64] =
          _mm512_test_epi8_mask(bytes, _mm512_set1_epi8((char)(1 << b))) & inside;
  }
}

enum { SPAN_PIXELS = 128 };

/* acc * scale of 16 lanes of 16-bit sums: k * sum + box is below 2^24, so float32 holds it. */
static inline __m512 short_product(const uint16_t *sums, int negative, float k, float box,
                                   __m512 scale) {
  const __m512 acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(widened(sums, negative)), _mm512_set1_ps(k),
                                     _mm512_set1_ps(box));
  return _mm512_mul_ps(acc, scale);
}

static inline __m512 long_product(const int32_t *sums, int k, __m512i offset, __m512 scale) {
  __m512i acc = _mm512_loadu_si512(sums);
  if (k == 2) acc = _mm512_add_epi32(acc, acc);
  return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(acc, offset)), scale);
}

/* 32 bits where t + 0.5 reaches 1, 2 or 3: 0.5 - 2^-25 is the least that rounds to 1. */
static inline uint32_t reaches(const __m512 t[2], float least) {
  const __mmask16 first = _mm512_cmp_ps_mask(t[0], _mm512_set1_ps(least), _CMP_GE_OQ);
  return _mm512_cmp_ps_mask(t[1], _mm512_set1_ps(least), _CMP_GE_OQ) * 0x10000u + first;
}

static inline void store_bits(uint8_t *out, uint32_t bits) {
  memcpy(out, &bits, 4);
}

/* Codes of 1 or 2 bits of 32 lanes of `count` pixels from `first` on, without residuals, a box or
 * an offset only where sums have 16 or 32 bits: coefficients stay in registers. */
TILE low_bit_block(const struct epilogue *e, unsigned c, size_t first, size_t count,
                   const float box[2][SPAN_PIXELS], const unsigned bits, const unsigned terms,
                   const int sum_bits) {
  const size_t plane = (e->all_channels + 63) / 64 * 8;
  const unsigned channel = e->first + c;
  uint8_t *out = (uint8_t *)e->out + first * bits * plane + channel / 8;
  __m512 bias[2], scale[2][2];
  __m512i offset[2][2];
  const uint8_t *sums[2];
  UNROLLED
  for (unsigned h = 0; h < 2; h++) {
    bias[h] = _mm512_loadu_ps(e->bias + channel + 16 * h);
    UNROLLED
    for (unsigned i = 0; i < terms; i++) {
      const struct epilogue_term *t = &e->term[i];
      scale[i][h] = _mm512_loadu_ps(t->scale + channel + 16 * h);
      offset[i][h] =
          t->offset ? _mm512_loadu_si512(t->offset + channel + 16 * h) : _mm512_setzero_si512();
      sums[i] = (const uint8_t *)t->sums + (first * t->sum_stride + c) * (size_t)sum_bits / 8;
    }
  }
  for (size_t p = 0; p < count; p++, out += bits * plane) {
    __m512 t[2];
    UNROLLED
    for (unsigned i = 0; i < terms; i++) {
      UNROLLED
      for (unsigned h = 0; h < 2; h++) {
        const __m512 product =
            sum_bits == 16 ? short_product((const uint16_t *)sums[i] + 16 * h, e->term[i].negative,
                                           (float)e->term[i].k, box[i][p], scale[i][h])
                           : long_product((const int32_t *)sums[i] + 16 * h, e->term[i].k,
                                          offset[i][h], scale[i][h]);
        t[h] = _mm512_add_ps(i ? t[h] : product, i ? product : bias[h]);
      }
      sums[i] += e->term[i].sum_stride * (size_t)sum_bits / 8;
    }
    const uint32_t one = reaches(t, 0x1.fffffep-2f);
    if (bits == 1) {
      store_bits(out, one);
      continue;
    }
    const uint32_t two = reaches(t, 1.5f);
    store_bits(out, one ^ two ^ reaches(t, 2.5f));
    store_bits(out + plane, two);
  }
}

/* Whether blocks serve a term: sums of 16 bits have no offset, those of 32 no box. */
static int blocks_serve(const struct epilogue_term *t, unsigned sum_bits) {
  return t->sum_bits == sum_bits && (sum_bits == 16 ? !t->offset : !t->box_scale);
}

/* Whether the blocks serve this epilogue: then all its planes are written. */
static int low_bit_blocks(const struct epilogue *e) {
  const unsigned sum_bits = e->term[0].sum_bits;
  if (e->bits < 1 || e->bits > 2 || e->residuals || e->terms > 2 || e->channels % 64 ||
      !blocks_serve(&e->term[0], sum_bits) || !blocks_serve(&e->term[e->terms - 1], sum_bits))
    return 0;
  for (size_t first = 0; first < e->pixels; first += SPAN_PIXELS) {
    const size_t left = e->pixels - first, count = left < SPAN_PIXELS ? left : SPAN_PIXELS;
    float box[2][SPAN_PIXELS];
    for (unsigned i = 0; i < e->terms; i++)
      for (size_t p = 0; p < count; p++)
        box[i][p] =
            e->term[i].box_scale ? (float)(e->term[i].box_scale * e->term[i].box[first + p]) : 0.0f;
    for (unsigned c = 0; c < e->channels; c += 32)
      switch ((e->bits - 1) * 4 + (e->terms - 1) * 2 + (sum_bits == 32)) {
      case 0:
        low_bit_block(e, c, first, count, box, 1, 1, 16);
        break;
      case 1:
        low_bit_block(e, c, first, count, box, 1, 1, 32);
        break;
      case 2:
        low_bit_block(e, c, first, count, box, 1, 2, 16);
        break;
      case 3:
        low_bit_block(e, c, first, count, box, 1, 2, 32);
        break;
      case 4:
        low_bit_block(e, c, first, count, box, 2, 1, 16);
        break;
      case 5:
        low_bit_block(e, c, first, count, box, 2, 1, 32);
        break;
      case 6:
        low_bit_block(e, c, first, count, box, 2, 2, 16);
        break;
      default:
        low_bit_block(e, c, first, count, box, 2, 2, 32);
      }
  }
  return 1;
}

static void epilogue(const struct epilogue *e) {
  if (low_bit_blocks(e)) return;
  for (size_t p = 0; p < e->pixels; p++) {
    if (e->bits && e->bits <= 4) {
      store_planes(e, p);
      continue;
    }
    const size_t at = p * e->all_channels + e->first;
    for (unsigned c = 0; c < e->channels; c += 16) {
      const unsigned left = e->channels - c;
      const __mmask16 some = (__mmask16)low_bits(left < 16 ? left : 16);
      const __m512 t = pre_activation(e, p, c, some);
      if (e->bits == 0)
        _mm512_mask_storeu_ps((float *)e->out + at + c, some, t);
      else
        _mm512_mask_cvtepi32_storeu_epi8((uint8_t *)e->out + at + c, some, to_codes(t, e->bits));
    }
  }
}

/* The threshold of step j for each lane's residual code. */
static inline __m512i threshold_of(const __m512i *thresholds, int residual_bits, int steps, int j,
                                   __mmask32 r0, __mmask32 r1) {
  const __m512i t0 = thresholds[j];
  if (residual_bits == 0) return t0;
  const __m512i low = _mm512_mask_mov_epi16(t0, r0, thresholds[steps + j]);
  if (residual_bits == 1) return low;
  const __m512i high =
      _mm512_mask_mov_epi16(thresholds[2 * steps + j], r0, thresholds[3 * steps + j]);
  return _mm512_mask_mov_epi16(low, r1, high);
}

/* 32 channels of `count` pixels from `first` on: thresholds stay in registers, comparisons give
 * plane bits. Code 1 or 3: an odd number of steps is reached. box: box_scale * box, twice. */
TILE threshold_block(const struct epilogue *e, unsigned c, size_t first, size_t count,
                     const uint32_t *box, const int residual_bits, const int bits) {
  const struct epilogue_term *term = &e->term[0];
  const int steps = bits == 2 ? 3 : 1, codes = 1 << residual_bits;
  const size_t plane = (e->all_channels + 63) / 64 * 8, block = (e->first + c) / 32;
  const size_t residual_bytes = (size_t)residual_bits * plane, bytes = (size_t)bits * plane;
  const uint32_t flip = e->flips[block];
  __m512i thresholds[12];
  UNROLLED
  for (int i = 0; i < steps * codes; i++)
    thresholds[i] =
        _mm512_load_si512(e->thresholds + (block * (size_t)(steps * codes) + (size_t)i) * 32);
  const uint8_t *residual = NULL;
  if (residual_bits)
    residual = (const uint8_t *)e->residual[0].codes + first * residual_bytes + 4 * block;
  uint8_t *out = (uint8_t *)e->out + first * bytes + 4 * block;
  const size_t stride = term->sum_stride;
  const uint16_t *sums = (const uint16_t *)term->sums + first * stride + c;
  const int twice = term->k == 2;
  for (size_t p = 0; p < count; p++, sums += stride, out += bytes) {
    __m512i acc = _mm512_loadu_si512(sums);
    if (twice) acc = _mm512_add_epi16(acc, acc);
    acc = _mm512_add_epi16(acc, _mm512_set1_epi32((int)box[p]));
    __mmask32 r0 = 0, r1 = 0;
    if (residual_bits) memcpy(&r0, residual, 4);
    if (residual_bits == 2) memcpy(&r1, residual + plane, 4);
    if (residual_bits) residual += residual_bytes;
    if (bits == 2 && residual_bits == 0) { /* signs of differences: a mask less to move */
      __m512i left[3];
      UNROLLED
      for (int j = 0; j < steps; j++) left[j] = _mm512_subs_epi16(thresholds[j], acc);
      const __m512i odd = _mm512_ternarylogic_epi32(left[0], left[1], left[2], 0x96);
      store_bits(out, _mm512_movepi16_mask(odd) ^ flip);
      store_bits(out + plane, _mm512_movepi16_mask(left[1]) ^ flip);
      continue;
    }
    uint32_t reached[3];
    UNROLLED
    for (int j = 0; j < steps; j++)
      reached[j] =
          _mm512_cmpgt_epi16_mask(acc, threshold_of(thresholds, residual_bits, steps, j, r0, r1));
    if (bits == 2) {
      store_bits(out + plane, reached[1] ^ flip);
      reached[0] ^= reached[1] ^ reached[2];
    }
    store_bits(out, reached[0] ^ flip);
  }
}

static void epilogue_threshold(const struct epilogue *e) {
  const struct epilogue_term *term = &e->term[0];
  const unsigned residual_bits = e->residuals ? e->residual[0].bits : 0;
  const unsigned end = (e->channels + 63) / 64 * 64;
  for (size_t first = 0; first < e->pixels; first += SPAN_PIXELS) {
    const size_t left = e->pixels - first;
    const size_t count = left < SPAN_PIXELS ? left : SPAN_PIXELS;
    uint32_t box[SPAN_PIXELS];
    for (size_t p = 0; p < count; p++)
      box[p] = 0x10001u * (uint16_t)(term->box_scale * term->box[first + p]);
    for (unsigned c = 0; c < end; c += 32) switch (residual_bits * 4 + e->bits) {
      case 1:
        threshold_block(e, c, first, count, box, 0, 1);
        break;
      case 2:
        threshold_block(e, c, first, count, box, 0, 2);
        break;
      case 5:
        threshold_block(e, c, first, count, box, 1, 1);
        break;
      case 6:
        threshold_block(e, c, first, count, box, 1, 2);
        break;
      case 9:
        threshold_block(e, c, first, count, box, 2, 1);
        break;
      default:
        threshold_block(e, c, first, count, box, 2, 2);
      }
  }
}

static void expand_bits(const struct expand *e) {
  bfcn_backend_portable.expand[FORM_BITS](e);
}

/* 16 columns read 16 neighbouring floats of each row where the width grows: one permutation. */
static void lerp_columns_wide(const float *row, size_t stride, unsigned channels, const int32_t *x0,
                              const int32_t *x1, const float *l, size_t width, float *out) {
  for (size_t x = 0; x < width; x += 16) {
    const size_t last = width - x < 16 ? width - 1 : x + 15;
    const __mmask16 some = (__mmask16)low_bits(last - x + 1);
    const int near = x0[last] - x0[x] < 16 && x1[last] - x1[x] < 16;
    const int32_t from0 = near ? x0[x] : 0, from1 = near ? x1[x] : 0;
    const __m512i i0 =
        _mm512_sub_epi32(_mm512_maskz_loadu_epi32(some, x0 + x), _mm512_set1_epi32(from0));
    const __m512i i1 =
        _mm512_sub_epi32(_mm512_maskz_loadu_epi32(some, x1 + x), _mm512_set1_epi32(from1));
    const __m512 weight = _mm512_maskz_loadu_ps(some, l + x);
    const float *r = row;
    for (unsigned c = 0; c < channels; c++, r += stride) {
      __m512 a, b;
      if (near) {
        a = _mm512_permutexvar_ps(i0, _mm512_loadu_ps(r + from0));
        b = _mm512_permutexvar_ps(i1, _mm512_loadu_ps(r + from1));
      } else {
        a = _mm512_mask_i32gather_ps(weight, some, i0, r, 4);
        b = _mm512_mask_i32gather_ps(weight, some, i1, r, 4);
      }
      const __m512 step = _mm512_mul_ps(_mm512_sub_ps(b, a), weight);
      _mm512_mask_storeu_ps(out + c * width + x, some, _mm512_add_ps(a, step));
    }
  }
}

static void argmax_row_wide(const float *top, const float *bottom, float l, unsigned channels,
                            size_t width, uint8_t *labels) {
  const __m512 weight = _mm512_set1_ps(l);
  for (size_t x = 0; x < width; x += 16) {
    const __mmask16 some = (__mmask16)low_bits(width - x < 16 ? width - x : 16);
    __m512 best = _mm512_setzero_ps();
    __m512i index = _mm512_setzero_si512();
    for (unsigned c = 0; c < channels; c++) {
      const __m512 a = _mm512_maskz_loadu_ps(some, top + c * width + x);
      const __m512 b = _mm512_maskz_loadu_ps(some, bottom + c * width + x);
      const __m512 v = _mm512_add_ps(a, _mm512_mul_ps(_mm512_sub_ps(b, a), weight));
      const __mmask16 larger = c ? _mm512_cmp_ps_mask(v, best, _CMP_GT_OQ) : 0xffff;
      best = _mm512_mask_mov_ps(best, larger, v);
      index = _mm512_mask_mov_epi32(index, larger, _mm512_set1_epi32((int)c));
    }
    _mm512_mask_cvtepi32_storeu_epi8(labels + x, some, index);
  }
}

#define AVX512_BACKEND                                                               \
  .expand = {[FORM_BITS] = expand_bits,                                              \
             [FORM_LUT6] = expand_lut6,                                              \
             [FORM_LUT3] = expand_lut3,                                              \
             [FORM_INT8] = expand_int8},                                             \
  .epilogue = epilogue, .epilogue_threshold = epilogue_threshold, .doubled_sums = 1, \
  .sum_codes = sum_codes_wide, .unpack = unpack, .pack = pack, .lerp = lerp,         \
  .lerp_columns = lerp_columns_wide, .argmax_row = argmax_row_wide

const struct backend bfcn_backend_avx512 = {.name = "avx512", AVX512_BACKEND};
#if defined(BFCN_AMX)
/* amx_gemm.c */
void bfcn_amx_enter(void);
void bfcn_amx_leave(void);

const struct backend bfcn_backend_amx = {.name = "amx",
                                         .enter = bfcn_amx_enter,
                                         .leave = bfcn_amx_leave,
                                         AVX512_BACKEND,
                                         .expand[FORM_INT2] = expand_int8};
#endif

TARGET_END
#endif
