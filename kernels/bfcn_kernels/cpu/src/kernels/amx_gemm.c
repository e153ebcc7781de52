/* Matrix kernels for AMX: codes of any bits as bytes, 16 pixels x 16 outputs x 64 channels an
 * instruction, one in 16 cycles. A kernel holds 2 x 2 tiles of sums, so that each tile that it
 * loads is used twice. Weights of 1 and 2 bits stay bits in memory: they become bytes in `room`,
 * where all pixels of a block find them.
 *
 * Tile registers: 0 to 3 sums, of (pixels, outputs) 00, 01, 10, 11; 4 and 5 weights; 6 and 7 codes.
 */
#include "../kernels.h"

#if defined(BFCN_AMX)
#include "target.h"

#include <immintrin.h>

TARGET_BEGIN(AMX_FEATURES)

enum { SIDE = 16, DEPTH = 64, TILE_BYTES = SIDE * DEPTH };

/* All tiles are whole: what is missing has weights of 0, or is not read. */
struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

static const struct tile_config whole_tiles = {
    .palette = 1,
    .row_bytes = {DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH},
    .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE},
};

void bfcn_amx_enter(void) {
  _tile_loadconfig(&whole_tiles);
}

void bfcn_amx_leave(void) {
  _tile_release();
}

/* gcc 12 does not know that loads of tiles read memory: what is written before must be. */
static inline void write_all(void) {
  __asm__ volatile("" ::: "memory");
}

/* Where the codes of 16 pixels lie: as far apart as the first two, or, if `apart`, anywhere. */
struct codes {
  const uint8_t *const *pixels;
  size_t stride;
  int apart;
};

static inline struct codes codes_of(const uint8_t *const *pixels) {
  const ptrdiff_t stride = pixels[1] - pixels[0];
  const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i steps = _mm512_mullo_epi64(lane, _mm512_set1_epi64(stride));
  const __m512i low = _mm512_add_epi64(_mm512_set1_epi64((int64_t)(uintptr_t)pixels[0]), steps);
  const __m512i high = _mm512_add_epi64(low, _mm512_set1_epi64(8 * stride));
  const int apart = _mm512_cmpneq_epi64_mask(low, _mm512_loadu_si512(pixels)) |
                    _mm512_cmpneq_epi64_mask(high, _mm512_loadu_si512(pixels + 8));
  return (struct codes){pixels, apart ? DEPTH : (size_t)stride, apart};
}

/* The tile at byte `at` of every pixel; those of pixels anywhere are gathered. */
static inline const uint8_t *find_tile(const struct codes *codes, size_t at, uint8_t *gathered) {
  if (!codes->apart) return codes->pixels[0] + at;
  UNROLLED
  for (int i = 0; i < SIDE; i++)
    _mm512_store_si512(gathered + DEPTH * i, _mm512_loadu_si512(codes->pixels[i] + at));
  write_all();
  return gathered;
}

/* A tile of weights from its planes, [plane][16 rows] words of 16 outputs x 4 channels. */
static inline void unpack_tile(const uint64_t *words, unsigned planes, const int8_t *values,
                               uint8_t *tile) {
  const __m512i v0 = _mm512_set1_epi8(values[0]), v1 = _mm512_set1_epi8(values[1]);
  const __m512i v2 = _mm512_set1_epi8(values[2]), v3 = _mm512_set1_epi8(values[3]);
  UNROLLED
  for (int i = 0; i < SIDE; i++) {
    __m512i v = _mm512_mask_mov_epi8(v0, words[i], v1);
    if (planes == 2)
      v = _mm512_mask_mov_epi8(v, words[SIDE + i], _mm512_mask_mov_epi8(v2, words[i], v3));
    _mm512_store_si512(tile + DEPTH * i, v);
  }
}

/* The channels of a tile from `first` on count nothing. */
static inline void clear_channels(uint8_t *tile, size_t first) {
  for (size_t row = first / 4; row < SIDE; row++) {
    const uint32_t kept = row == first / 4 ? (1u << 8 * (first % 4)) - 1 : 0;
    const __m512i v = _mm512_load_si512(tile + DEPTH * row);
    _mm512_store_si512(tile + DEPTH * row, _mm512_and_si512(v, _mm512_set1_epi32((int)kept)));
  }
}

/* Two tiles, of which this many channels count. */
static inline void unpack_tiles(const struct gemm *g, const uint8_t *w, size_t channels,
                                uint8_t *room) {
  for (int n = 0; n < 2; n++, w += g->block_bytes, room += TILE_BYTES) {
    unpack_tile((const uint64_t *)w, g->planes, g->values, room);
    if (channels < DEPTH) clear_channels(room, channels);
  }
  write_all();
}

/* Sums of p x 16 pixels x 32 outputs += products with one plane of weights as bytes, or with all
 * of them as bits (channels of a step: 4 or 16), which a block's first pixels unpack. */
TILE add_products(const struct gemm *g, int p, const size_t channels, const uint8_t *w,
                  int unpack) {
  _Alignas(64) uint8_t gathered[2][TILE_BYTES];
  const int bits = channels > 4;
  const size_t tile_bytes = bits ? SIDE * sizeof(uint64_t) * g->planes : TILE_BYTES;
  const size_t other = bits ? TILE_BYTES : g->block_bytes;
  const size_t depth = g->steps * channels;
  uint8_t *room = g->room;
  size_t left = unpack ? g->rows * g->columns * (depth / DEPTH) - 1 : 0; /* not unpacked yet */
  if (unpack) unpack_tiles(g, w, g->tap_channels, room);
  for (size_t row = 0; row < g->rows; row++) {
    const uint8_t *const *pixels = g->pixels + row * g->row_stride;
    const struct codes first = codes_of(pixels), second = codes_of(pixels + (p - 1) * SIDE);
    for (size_t column = 0; column < g->columns; column++) {
      const size_t from = g->first_byte + column * g->column_bytes;
      ROLLED
      for (size_t at = 0; at < depth; at += DEPTH, w += tile_bytes, room += 2 * TILE_BYTES) {
        if (unpack && left-- > 0) { /* one ahead: what has just been written is slow to load */
          const size_t next = at + DEPTH < depth ? at + DEPTH : 0;
          unpack_tiles(g, w + tile_bytes, g->tap_channels - next, room + 2 * TILE_BYTES);
        }
        const uint8_t *bytes = bits ? room : w;
        _tile_loadd(4, bytes, DEPTH);
        _tile_loadd(6, find_tile(&first, from + at, gathered[0]), first.stride);
        _tile_loadd(5, bytes + other, DEPTH);
        _tile_dpbusd(0, 6, 4);
        _tile_dpbusd(1, 6, 5);
        if (p == 1) continue;
        _tile_loadd(7, find_tile(&second, from + at, gathered[1]), second.stride);
        _tile_dpbusd(2, 7, 4);
        _tile_dpbusd(3, 7, 5);
      }
    }
  }
}

/* sums: [32 pixels][32 outputs] */
static inline void store_tiles(int32_t *sums) {
  _tile_stored(0, sums, 2 * DEPTH);
  _tile_stored(1, sums + SIDE, 2 * DEPTH);
  _tile_stored(2, sums + 2 * SIDE * SIDE, 2 * DEPTH);
  _tile_stored(3, sums + 2 * SIDE * SIDE + SIDE, 2 * DEPTH);
}

/* From one plane of weights of 8 bits to the next. */
static inline void double_tiles(int32_t *sums) {
  store_tiles(sums);
  for (int i = 0; i < 4 * SIDE * SIDE; i++) sums[i] *= 2;
  write_all();
  _tile_loadd(0, sums, 2 * DEPTH);
  _tile_loadd(1, sums + SIDE, 2 * DEPTH);
  _tile_loadd(2, sums + 2 * SIDE * SIDE, 2 * DEPTH);
  _tile_loadd(3, sums + 2 * SIDE * SIDE + SIDE, 2 * DEPTH);
}

/* Of `pixels` pixels; sums of 16 bits are the low halves. */
static inline void copy_sums(const struct gemm *g, size_t pixels, const int32_t *sums,
                             const int sum_bits) {
  const __m512i even =
      _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                       24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  for (size_t i = 0; i < pixels; i++, sums += 2 * SIDE) {
    const __m512i low = _mm512_load_si512(sums), high = _mm512_load_si512(sums + SIDE);
    if (sum_bits == 16) {
      _mm512_storeu_si512((uint16_t *)g->sums + i * g->sum_stride,
                          _mm512_permutex2var_epi16(low, even, high));
    } else {
      int32_t *to = (int32_t *)g->sums + i * g->sum_stride;
      _mm512_storeu_si512(to, low);
      _mm512_storeu_si512(to + SIDE, high);
    }
  }
}

TILE amx_tile(const struct gemm *g, int p, const size_t channels, int unpack, const int sum_bits) {
  _Alignas(64) int32_t sums[4 * SIDE * SIDE];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (channels > 4)
    add_products(g, p, channels, g->weights, unpack);
  else
    for (unsigned plane = g->planes; plane-- > 0;) {
      add_products(g, p, channels, (const uint8_t *)g->weights + plane * g->plane_bytes, 0);
      if (plane) double_tiles(sums);
    }
  store_tiles(sums);
  copy_sums(g, (size_t)p * SIDE, sums, sum_bits);
}

/* Two tiles of pixels at a time; the last one may be alone. Codes are multiplied in one pass: there
 * is no shift, and nothing to accumulate. */
TILE multiply(const struct gemm *g, const size_t channels, const int sum_bits) {
  struct gemm tile = *g;
  for (int unpack = channels > 4; tile.tiles > 0; unpack = 0) {
    const int p = tile.tiles > 1 ? 2 : 1;
    amx_tile(&tile, p, channels, unpack, sum_bits);
    tile.tiles -= (size_t)p;
    tile.pixels += 2 * SIDE;
    tile.sums = (uint8_t *)tile.sums + 2 * SIDE * tile.sum_stride * sum_bits / 8;
  }
}

void bfcn_int8_gemm_16x32__amx(const struct gemm *g) {
  multiply(g, 4, 32);
}
void bfcn_int8_gemm_16x32s16__amx(const struct gemm *g) {
  multiply(g, 4, 16);
}
void bfcn_int2_gemm_16x32__amx(const struct gemm *g) {
  multiply(g, 16, 32);
}
void bfcn_int2_gemm_16x32s16__amx(const struct gemm *g) {
  multiply(g, 16, 16);
}

TARGET_END
#endif
