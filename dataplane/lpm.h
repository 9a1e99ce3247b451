/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_LPM_H
#define EDGEPLEX_DATAPLANE_LPM_H

/*
 * Longest-prefix match for IPv4 or IPv6: a tree bitmap (Eatherton, Varghese, Dittia, 2004) of
 * stride 6. A prefix is stored once, in one node, so an update rewrites one node whatever the
 * prefix covers; about 20 bytes a prefix (docs/notes/fib.md has the measurement).
 *
 * One thread may change a table while another one looks up, without locks: nodes are replaced,
 * never changed, apart from single words. Everything but lpm_lookup() is for the writer only.
 *
 * Values are 32-bit numbers chosen by the caller; 0 means "no route".
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct epoch;
struct lpm;

/*
 * An empty table for addresses of `bits` (32 or 128). `epoch` must outlive it.
 * Returns NULL with errno when memory ran out.
 */
struct lpm *lpm_create(unsigned bits, struct epoch *epoch);

/* Frees the table; no reader may use it any more. Accepts NULL. */
void lpm_destroy(struct lpm *lpm);

/*
 * Longest match for `addr` (network order). Returns its value, or 0; stores the match's length in
 * `*len` (may be NULL). Reader thread, or writer.
 */
uint32_t lpm_lookup(const struct lpm *lpm, const void *addr, unsigned *len);

/*
 * Adds or replaces. Bits of `addr` beyond `len` are ignored. `*old` gets the value replaced, or 0.
 * Returns 0 or ENOMEM (then nothing was changed).
 */
int lpm_insert(struct lpm *lpm, const void *addr, unsigned len, uint32_t value, uint32_t *old);

/* The value of exactly this prefix, or 0. */
uint32_t lpm_get(const struct lpm *lpm, const void *addr, unsigned len);

/* Removes. Returns 0 and the value in `*old` (0: there was none), or ENOMEM (unchanged). */
int lpm_delete(struct lpm *lpm, const void *addr, unsigned len, uint32_t *old);

/*
 * Sees one prefix; may change `*value` (not to 0). Returns false to end the walk. Must not change
 * the table otherwise.
 */
typedef bool (*lpm_visitor)(void *ctx, const uint8_t *addr, unsigned len, uint32_t *value);

/*
 * Visits prefixes ordered by address, then length, beginning behind (`addr`, `len`), or with the
 * first one when `addr` is NULL.
 */
void lpm_walk(struct lpm *lpm, const void *addr, unsigned len, lpm_visitor visit, void *ctx);

size_t lpm_count(const struct lpm *lpm);

/* Bytes of nodes in use, and bytes taken from the system for them. */
void lpm_memory(const struct lpm *lpm, size_t *used, size_t *taken);

#endif
