/* bfcn-run MODEL.gguf IN.ppm OUT.ppm [--overlay] [--threads N]: label an image in the palette's
 * colours. */
#include "bfcn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct image {
  unsigned height, width;
  uint8_t *rgb;
};

static int fail(const char *what) {
  fprintf(stderr, "bfcn-run: %s\n", what);
  return 1;
}

/* A number of a PPM header; comments run from # to the end of the line. */
static unsigned header_number(FILE *file) {
  int c = fgetc(file);
  for (; c == '#' || c == ' ' || (c >= '\t' && c <= '\r'); c = fgetc(file))
    if (c == '#')
      while (c != '\n' && c != EOF) c = fgetc(file);
  unsigned number = 0;
  for (; c >= '0' && c <= '9' && number < 100000; c = fgetc(file))
    number = number * 10 + (unsigned)(c - '0');
  return number;
}

static int read_ppm(const char *path, struct image *image) {
  FILE *file = fopen(path, "rb");
  if (!file) return fail("cannot open the input");
  int fine = fgetc(file) == 'P' && fgetc(file) == '6';
  image->width = fine ? header_number(file) : 0;
  image->height = fine ? header_number(file) : 0;
  fine = fine && header_number(file) == 255 && image->width && image->height &&
         image->width <= 32768 && image->height <= 32768;
  const size_t bytes = fine ? 3ul * image->width * image->height : 0;
  image->rgb = malloc(bytes + 1);
  fine = fine && image->rgb && fread(image->rgb, 1, bytes, file) == bytes;
  fclose(file);
  return fine ? 0 : fail("the input must be a binary PPM (P6) with 255 levels, complete");
}

/* Without a palette in the file, colours far apart for neighbouring labels. */
static void colour_of(const bfcn_model *model, unsigned label, uint8_t *rgb) {
  const uint8_t *palette = bfcn_model_palette(model);
  if (palette && label < bfcn_model_classes(model)) {
    memcpy(rgb, palette + 3 * label, 3);
    return;
  }
  for (int i = 0; i < 3; i++) rgb[i] = (uint8_t)((label + 1) * (67 + 40 * i));
}

static int write_labels(const char *path, const bfcn_model *model, const struct image *image,
                        const uint8_t *labels, int overlay) {
  FILE *file = fopen(path, "wb");
  if (!file) return fail("cannot write the output");
  fprintf(file, "P6\n%u %u\n255\n", image->width, image->height);
  for (size_t p = 0; p < (size_t)image->width * image->height; p++) {
    uint8_t rgb[3];
    colour_of(model, labels[p], rgb);
    for (int i = 0; overlay && i < 3; i++) rgb[i] = (uint8_t)((rgb[i] + image->rgb[3 * p + i]) / 2);
    fwrite(rgb, 1, 3, file);
  }
  return fclose(file) ? fail("cannot write the output") : 0;
}

static int label(const bfcn_model *model, const struct image *image, unsigned threads,
                 uint8_t *labels) {
  bfcn_session *session;
  const bfcn_options options = {.threads = threads};
  bfcn_status status = bfcn_session_create(model, image->height, image->width, &options, &session);
  if (status == BFCN_OK) {
    status = bfcn_session_run(session, image->rgb, 3ul * image->width, labels);
    bfcn_session_free(session);
  }
  return status == BFCN_OK ? 0 : fail(bfcn_error());
}

int main(int count, char **arguments) {
  const char *paths[3] = {0};
  int named = 0, overlay = 0;
  unsigned threads = 1;
  for (int i = 1; i < count; i++) {
    if (!strcmp(arguments[i], "--overlay"))
      overlay = 1;
    else if (!strcmp(arguments[i], "--threads") && i + 1 < count)
      threads = (unsigned)strtoul(arguments[++i], NULL, 10);
    else if (named < 3 && arguments[i][0] != '-')
      paths[named++] = arguments[i];
    else
      named = 4;
  }
  if (named != 3)
    return fail("usage: bfcn-run MODEL.gguf IN.ppm OUT.ppm [--overlay] [--threads N]");
  bfcn_model *model;
  struct image image = {0};
  if (bfcn_model_load(paths[0], &model) != BFCN_OK) return fail(bfcn_error());
  int status = read_ppm(paths[1], &image);
  uint8_t *labels = status ? NULL : malloc((size_t)image.width * image.height);
  if (!status) status = labels ? label(model, &image, threads, labels) : fail("out of memory");
  if (!status) status = write_labels(paths[2], model, &image, labels, overlay);
  free(labels);
  free(image.rgb);
  bfcn_model_free(model);
  return status;
}
