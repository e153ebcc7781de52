#include "status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char latest[512];

const char *bfcn_status_text(bfcn_status status) {
  switch (status) {
  case BFCN_OK:
    return "ok";
  case BFCN_ERROR_ARGUMENT:
    return "invalid argument";
  case BFCN_ERROR_FILE:
    return "file cannot be read";
  case BFCN_ERROR_FORMAT:
    return "malformed GGUF file";
  case BFCN_ERROR_GRAPH:
    return "invalid graph";
  case BFCN_ERROR_SHAPE:
    return "image size does not fit the graph";
  case BFCN_ERROR_MEMORY:
    return "out of memory";
  case BFCN_ERROR_KERNEL:
    return "no such kernel here";
  case BFCN_ERROR_WORK:
    return "more arithmetic than an image may take";
  }
  return "unknown status";
}

const char *bfcn_error(void) {
  return latest;
}

bfcn_status bfcn_fail(bfcn_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(latest, sizeof latest, format, arguments);
  va_end(arguments);
  for (char *at = latest; *at; at++) /* names come from files: no line breaks, no escapes */
    if ((unsigned char)*at < ' ' || *at == 0x7f) *at = '?';
  return status;
}
