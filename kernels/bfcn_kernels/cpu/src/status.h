/* Errors: a code for the program, one line for the person. */
#ifndef BFCN_STATUS_H
#define BFCN_STATUS_H

#include "bfcn.h"

/* Keep the formatted line for bfcn_error() and return the code. */
__attribute__((format(printf, 2, 3))) bfcn_status bfcn_fail(bfcn_status status, const char *format,
                                                            ...);

#define TRY(call)                                 \
  do {                                            \
    bfcn_status try_status = (call);              \
    if (try_status != BFCN_OK) return try_status; \
  } while (0)

#endif
