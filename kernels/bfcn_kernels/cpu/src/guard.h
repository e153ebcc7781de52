/* Under the address sanitizer, the parts of the arena that nothing may touch are poisoned: it alone
 * sees one allocation. Other builds have no red zones, and these calls do nothing. */
#ifndef BFCN_GUARD_H
#define BFCN_GUARD_H

#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BFCN_GUARDED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define BFCN_GUARDED
#endif

struct bfcn_session;
struct conv;

#if defined(BFCN_GUARDED)
enum { REDZONE = 64 }; /* bytes after each value, each thread's scratch and each part of it */

/* Before op `op` runs: only the values that it may read or write, and its scratch, can be touched.
 * op == op_count: only what the session keeps after a run. */
void bfcn_guard_op(const struct bfcn_session *s, unsigned op);
/* Parts of the scratch of a convolution, for a thread that begins a task. */
void bfcn_guard_scratch(const struct conv *conv, const void *scratch);
void bfcn_guard_off(const struct bfcn_session *s);
#else
enum { REDZONE = 0 };

#define bfcn_guard_op(session, op) ((void)0)
#define bfcn_guard_scratch(conv, scratch) ((void)0)
#define bfcn_guard_off(session) ((void)0)
#endif

#endif
