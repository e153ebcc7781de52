/* Images as binary PPM (P6, 255 levels). */
#ifndef BFCN_PPM_H
#define BFCN_PPM_H

#include <stdint.h>

struct image {
  unsigned height, width;
  uint8_t *rgb; /* height x width x 3; the caller frees it */
};

/* Read all of a file or a pipe. NULL, or what is wrong in one line, of static storage. */
const char *ppm_read(const char *path, struct image *image);
/* Write an image. NULL, or what is wrong. */
const char *ppm_write(const char *path, const struct image *image);

#endif
