/* A C program that embeds bfcn: prints the labels' checksum for a fixed image. Its own helpers have
 * names that a library could have as well, some of them ggml's. */
#include <bfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEIGHT = 37, WIDTH = 61 };

void gguf_free(void *context) {
  free(context);
}

void *gguf_find_key(size_t size) {
  return malloc(size);
}

int gguf_find_tensor(int pixel) {
  return (int)((unsigned)pixel * 2654435761u >> 13 & 255);
}

unsigned argmax(unsigned a, unsigned b) {
  return a > b ? a : b;
}

void pool_run(void) {
  abort();
}

int main(int count, char **arguments) {
  bfcn_model *model = NULL;
  bfcn_session *session = NULL;
  uint8_t *rgb = gguf_find_key(3 * HEIGHT * WIDTH), *labels = gguf_find_key(HEIGHT * WIDTH);
  unsigned sum = 0, largest = 0;
  int i;
  if (count != 2 || !rgb || !labels) return 2;
  for (i = 0; i < 3 * HEIGHT * WIDTH; i++) rgb[i] = (uint8_t)gguf_find_tensor(i);
  if (bfcn_model_load(arguments[1], &model) != BFCN_OK ||
      bfcn_session_create(model, HEIGHT, WIDTH, NULL, &session) != BFCN_OK ||
      bfcn_session_run(session, rgb, 3 * WIDTH, labels) != BFCN_OK) {
    fprintf(stderr, "%s\n", bfcn_error());
    return 1;
  }
  for (i = 0; i < HEIGHT * WIDTH; i++) {
    sum = sum * 31 + labels[i];
    largest = argmax(largest, labels[i]);
  }
  printf("%08x %u\n", sum, largest);
  bfcn_session_free(session);
  bfcn_model_free(model);
  gguf_free(rgb);
  gguf_free(labels);
  return 0;
}
