/* bfcn-run: label an image in the palette's colours. */
#include "arguments.h"
#include "ppm.h"

static const char usage[] =
    "bfcn-run MODEL.gguf IN.ppm OUT.ppm [--overlay] [--threads N]\n"
    "  IN.ppm, OUT.ppm  binary PPM (P6), 255 levels; the output has the colours of the model's\n"
    "                   palette\n"
    "  --overlay        mix them with the image, half and half\n"
    "  --threads N      1 to 64, 1 by default; no more run than there are cores\n"
    "  --version        print the version";

struct settings {
  const char *paths[3]; /* model, input, output */
  int overlay;
  unsigned threads;
};

static int fail(const char *what) {
  fprintf(stderr, "bfcn-run: %s\n", what);
  return 1;
}

static struct settings parse(int count, char **words) {
  struct arguments a = {"bfcn-run", usage, words, count, 0};
  struct settings s = {.threads = 1};
  int named = 0;
  for (const char *word; (word = next_word(&a));) {
    if (!strcmp(word, "--overlay"))
      s.overlay = 1;
    else if (!strcmp(word, "--threads"))
      s.threads = number_of(&a, word, 1, MAX_THREADS);
    else if (word[0] == '-')
      wrong_usage(&a, "there is no option '%s'", word);
    else if (named == 3)
      wrong_usage(&a, "MODEL.gguf IN.ppm OUT.ppm are three, got also '%s'", word);
    else
      s.paths[named++] = word;
  }
  if (named != 3) wrong_usage(&a, "MODEL.gguf IN.ppm OUT.ppm must be given, got %d of them", named);
  return s;
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

static void colour(const bfcn_model *model, const uint8_t *labels, int overlay,
                   const struct image *image) {
  for (size_t p = 0; p < (size_t)image->width * image->height; p++) {
    uint8_t rgb[3], *pixel = image->rgb + 3 * p;
    colour_of(model, labels[p], rgb);
    for (int i = 0; i < 3; i++) pixel[i] = overlay ? (uint8_t)((rgb[i] + pixel[i]) / 2) : rgb[i];
  }
}

static bfcn_status label(const bfcn_model *model, const struct image *image, unsigned threads,
                         uint8_t *labels) {
  bfcn_session *session;
  const bfcn_options options = {.threads = threads};
  bfcn_status status = bfcn_session_create(model, image->height, image->width, &options, &session);
  if (status != BFCN_OK) return status;
  status = bfcn_session_run(session, image->rgb, 3ul * image->width, labels);
  bfcn_session_free(session);
  return status;
}

static int run(const bfcn_model *model, const struct settings *s, struct image *image) {
  const char *trouble = ppm_read(s->paths[1], image);
  if (trouble) return fail(trouble);
  uint8_t *labels = malloc((size_t)image->width * image->height);
  if (!labels) return fail("out of memory");
  if (label(model, image, s->threads, labels) != BFCN_OK) {
    free(labels);
    return fail(bfcn_error());
  }
  colour(model, labels, s->overlay, image);
  free(labels);
  trouble = ppm_write(s->paths[2], image);
  return trouble ? fail(trouble) : 0;
}

int main(int count, char **words) {
  const struct settings s = parse(count, words);
  bfcn_model *model;
  struct image image = {0};
  if (bfcn_model_load(s.paths[0], &model) != BFCN_OK) return fail(bfcn_error());
  const int status = run(model, &s, &image);
  free(image.rgb);
  bfcn_model_free(model);
  return status;
}
