/* Whole files, for tests. */
#ifndef BFCN_TESTS_FILES_H
#define BFCN_TESTS_FILES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* A block of the file's size, or NULL. */
static inline uint8_t *read_all(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  uint8_t *data = malloc(*size ? *size : 1);
  if (data && fread(data, 1, *size, file) != *size) *size = 0;
  fclose(file);
  return data;
}

#endif
