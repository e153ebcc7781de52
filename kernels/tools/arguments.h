/* Command lines of bfcn-run and bfcn-bench. A mistake is one line on stderr and exit status 2. */
#ifndef BFCN_ARGUMENTS_H
#define BFCN_ARGUMENTS_H

#include "bfcn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 64, MAX_SIDE = 32768 };

struct arguments {
  const char *program, *usage; /* usage: what follows "usage: " */
  char **word;
  int count, at;
};

/* Exits with the line "PROGRAM: ...; try 'PROGRAM --help'". */
__attribute__((format(printf, 2, 3), noreturn)) static inline void
wrong_usage(const struct arguments *a, const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  fprintf(stderr, "%s: ", a->program);
  vfprintf(stderr, format, rest);
  fprintf(stderr, "; try '%s --help'\n", a->program);
  va_end(rest);
  exit(2);
}

/* The next word, or NULL at the end; --help and --version are answered here. */
static inline const char *next_word(struct arguments *a) {
  if (a->at + 1 >= a->count) return NULL;
  const char *word = a->word[++a->at];
  if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
    printf("usage: %s\n", a->usage);
    exit(0);
  }
  if (!strcmp(word, "--version")) {
    printf("%s %s\n", a->program, BFCN_VERSION);
    exit(0);
  }
  return word;
}

/* The word after an option. */
static inline const char *value_of(struct arguments *a, const char *option) {
  if (a->at + 1 >= a->count) wrong_usage(a, "%s needs a value", option);
  return a->word[++a->at];
}

/* The word after an option as a number of [least, most]: digits and nothing else. */
static inline unsigned number_of(struct arguments *a, const char *option, unsigned least,
                                 unsigned most) {
  const char *text = value_of(a, option), *c = text;
  unsigned number = 0;
  for (; *c >= '0' && *c <= '9' && number <= most; c++) number = number * 10 + (unsigned)(*c - '0');
  if (c == text || *c || number < least || number > most)
    wrong_usage(a, "%s must be a number from %u to %u, got '%s'", option, least, most, text);
  return number;
}

#endif
