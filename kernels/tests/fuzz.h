/* A fuzz target is fuzz_one. With clang, libFuzzer drives it (make fuzz); elsewhere fuzz_main.c
 * does, for a number of runs that tests can wait for. */
#ifndef BFCN_TESTS_FUZZ_H
#define BFCN_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* 1: the library took it, 0: it was refused with a message. A fault ends the process. */
int fuzz_one(const uint8_t *data, size_t size);

/* Print a line and abort. */
__attribute__((format(printf, 1, 2), noreturn)) void fuzz_fault(const char *format, ...);

#endif
