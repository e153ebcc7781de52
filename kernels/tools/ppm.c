#include "ppm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 32768, SLACK = 4096 };

static char line[4400];

__attribute__((format(printf, 1, 2))) static const char *wrong(const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  vsnprintf(line, sizeof line, format, rest);
  va_end(rest);
  return line;
}

/* A header being read. */
struct header {
  FILE *file;
  int last; /* character read */
  int crlf; /* lines end in CR LF */
};

static int is_space(int c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The next character; a comment, from # to the end of the line, counts as that end. */
static int next(struct header *h) {
  int c = fgetc(h->file);
  if (c == '#')
    while (c != '\n' && c != '\r' && c != EOF) c = fgetc(h->file);
  if (h->last == '\r' && c == '\n') h->crlf = 1;
  return h->last = c;
}

/* A number between white space; -1 for anything else. */
static long long number(struct header *h) {
  if (!is_space(h->last)) return -1;
  while (is_space(h->last)) next(h);
  long long value = 0;
  int digits = 0;
  for (; h->last >= '0' && h->last <= '9'; next(h), digits++)
    if (value < 100000000000000000) value = value * 10 + (h->last - '0');
  return digits && is_space(h->last) ? value : -1;
}

/* Where the pixels begin in the `got` bytes after a header's last white space. Usually at 0. Where
 * that white space was the CR of CR LF, the LF is skipped, and so is a comment; if the file has
 * only as many bytes as pixels take, they are pixels.
 */
static size_t pixels_at(const uint8_t *data, size_t got, size_t bytes, const struct header *h) {
  size_t at = h->last == '\r' && data[0] == '\n' && (h->crlf || got > bytes);
  if (got > bytes && data[at] == '#') {
    while (at < got && data[at] != '\n' && data[at] != '\r') at++;
    if (at + 1 < got && data[at] == '\r' && data[at + 1] == '\n') at++;
    at++;
    if (at + bytes > got) at = 0;
  }
  return at;
}

static const char *read_pixels(const struct header *h, const char *path, struct image *image) {
  const size_t bytes = 3ul * image->width * image->height;
  image->rgb = malloc(bytes + SLACK);
  if (!image->rgb)
    return wrong("%s: no memory for %u x %u pixels", path, image->width, image->height);
  const size_t got = fread(image->rgb, 1, bytes + SLACK, h->file);
  if (ferror(h->file)) return wrong("%s: %s", path, strerror(errno));
  const size_t at = got ? pixels_at(image->rgb, got, bytes, h) : 0, left = got - at;
  if (left < bytes)
    return wrong("%s: %u x %u pixels take %zu bytes, the file ends after %zu", path, image->width,
                 image->height, bytes, left);
  const uint8_t *rest = image->rgb + at + bytes;
  if (left > bytes && (left < bytes + 2 || memcmp(rest, "P6", 2)))
    return wrong("%s: more bytes than the %zu of %u x %u pixels, and no further P6 image", path,
                 bytes, image->width, image->height);
  memmove(image->rgb, image->rgb + at, bytes);
  return NULL;
}

static const char *read_image(FILE *file, const char *path, struct image *image) {
  struct header h = {.file = file};
  const int p = fgetc(file), kind = fgetc(file);
  if (ferror(file)) return wrong("%s: %s", path, strerror(errno));
  if (p != 'P' || kind < '1' || kind > '7') return wrong("%s is not a PPM image", path);
  if (kind != '6') return wrong("%s must be binary RGB, a PPM of kind P6, got P%c", path, kind);
  next(&h);
  const long long width = number(&h), height = number(&h), levels = number(&h);
  if (width < 0 || height < 0 || levels < 0)
    return wrong("%s: a PPM header is P6 and three numbers: width, height, 255", path);
  if (width < 1 || width > MAX_SIDE || height < 1 || height > MAX_SIDE)
    return wrong("%s: sides must be in 1..%d, got %lld x %lld", path, MAX_SIDE, height, width);
  if (levels != 255) return wrong("%s: a PPM's largest value must be 255, got %lld", path, levels);
  image->width = (unsigned)width;
  image->height = (unsigned)height;
  return read_pixels(&h, path, image);
}

const char *ppm_read(const char *path, struct image *image) {
  *image = (struct image){0};
  FILE *file = fopen(path, "rb");
  if (!file) return wrong("%s: %s", path, strerror(errno));
  const char *trouble = read_image(file, path, image);
  fclose(file);
  if (!trouble) return NULL;
  free(image->rgb);
  image->rgb = NULL;
  return trouble;
}

const char *ppm_write(const char *path, const struct image *image) {
  const size_t bytes = 3ul * image->width * image->height;
  FILE *file = fopen(path, "wb");
  if (!file) return wrong("%s: %s", path, strerror(errno));
  fprintf(file, "P6\n%u %u\n255\n", image->width, image->height);
  const int fine = fwrite(image->rgb, 1, bytes, file) == bytes && !fflush(file);
  const int reason = errno;
  if (fclose(file) == 0 && fine) return NULL;
  return wrong("%s: %s", path, strerror(fine ? errno : reason));
}
