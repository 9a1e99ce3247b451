/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FIB_ARENA_H
#define EDGEPLEX_FIB_ARENA_H

/*
 * Memory of one FIB: small blocks named by 32-bit handles, in one reserved range of addresses, of
 * which only the pages in use take memory. Internal to the FIB. One thread; fib_arena_at() any.
 */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define FIB_ARENA_UNIT 8u      /* bytes; handles count in them, block sizes are multiples */
#define FIB_ARENA_MAX_UNITS 68 /* of one block */
#define FIB_ARENA_PAGE 4096u

typedef uint32_t fib_handle; /* 0: none */

struct fib_arena_page;

struct fib_arena {
	uint8_t *base;
	struct fib_arena_page *pages; /* what is known about each page, kept outside of it */
	size_t map_bytes;             /* of the whole reservation, which starts at `pages` */
	uint32_t n_pages;             /* reserved */
	uint32_t n_touched;           /* pages 1.. of which were in use once */
	uint32_t n_used;
	uint32_t n_kept;                           /* on `kept` */
	uint32_t kept;                             /* free pages that still take memory */
	uint32_t dropped;                          /* free pages given back to the kernel */
	uint32_t partial[FIB_ARENA_MAX_UNITS + 1]; /* by size: pages with a free block */
};

/* Reserves addresses for `bytes` (at most 32 GiB). Returns 0 or ENOMEM. */
int fib_arena_init(struct fib_arena *arena, size_t bytes);
void fib_arena_fini(struct fib_arena *arena);

/* Bytes of memory taken now. */
size_t fib_arena_bytes(const struct fib_arena *arena);

/*
 * A block of `bytes`, not cleared, or 0 if it would need a page and fib_arena_bytes() would exceed
 * `limit`. It is given back with the same `bytes`.
 */
fib_handle fib_arena_alloc(struct fib_arena *arena, size_t bytes, size_t limit);
void fib_arena_free(struct fib_arena *arena, fib_handle block, size_t bytes);

/* A whole page, or 0 when the reservation is used up. */
fib_handle fib_arena_page_alloc(struct fib_arena *arena);
void fib_arena_page_free(struct fib_arena *arena, fib_handle page);

static inline void *fib_arena_at(const struct fib_arena *arena, fib_handle handle)
{
	return arena->base + (size_t)handle * FIB_ARENA_UNIT;
}

#endif
