/* Whole files into memory: what is mapped, others can cut, and the reader dies. */
#ifndef BFCN_FILE_H
#define BFCN_FILE_H

#include "bfcn.h"

/* The bytes of a regular file that is not empty; the caller frees them. */
bfcn_status bfcn_file_read(const char *path, void **bytes, size_t *size);

#endif
