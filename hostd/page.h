/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_PAGE_H
#define EDGEPLEX_HOSTD_PAGE_H

/* A page of guest memory, as x86 and hostd's wire protocol have it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u

/* A set of pages, one bit each. The words beyond the last page are zero. */
#define PAGE_SET_WORDS(n_pages) (((n_pages) + 63) / 64)

static inline void page_set_add(uint64_t *set, size_t page)
{
	set[page / 64] |= 1ull << (page % 64);
}

static inline bool page_set_has(const uint64_t *set, size_t page)
{
	return (set[page / 64] >> (page % 64) & 1) != 0;
}

/* The first member at or after `page`; `n_pages` when there is none. */
static inline size_t page_set_next(const uint64_t *set, size_t page, size_t n_pages)
{
	size_t word = page / 64;
	uint64_t bits;

	if (page >= n_pages)
		return n_pages;
	bits = set[word] & ~0ull << (page % 64);
	while (bits == 0) {
		if (++word >= PAGE_SET_WORDS(n_pages))
			return n_pages;
		bits = set[word];
	}
	return word * 64 + (size_t)__builtin_ctzll(bits);
}

#endif
