// SPDX-License-Identifier: GPL-2.0-or-later
#include "dataplane/fib_arena.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1 /* as GCC says it */
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#define UNITS_PER_PAGE (FIB_ARENA_PAGE / FIB_ARENA_UNIT)
#define NO_BLOCK UINT16_MAX

/* A page holds blocks of one size. */
struct fib_arena_page {
	uint32_t prev, next;  /* on the list of its size, or of free pages; 0: end */
	uint16_t units;       /* of its blocks */
	uint16_t used;        /* blocks */
	uint16_t fresh;       /* first block that was never used */
	uint16_t free_blocks; /* first of those used before, linked by their first bytes */
};

static_assert(sizeof(struct fib_arena_page) == 16, "one page of them describes 1 MiB");

static uint8_t *page_at(const struct fib_arena *arena, uint32_t page)
{
	return arena->base + (size_t)page * FIB_ARENA_PAGE;
}

static unsigned int page_capacity(const struct fib_arena_page *page)
{
	return UNITS_PER_PAGE / page->units;
}

int fib_arena_init(struct fib_arena *arena, size_t bytes)
{
	size_t n_pages = bytes / FIB_ARENA_PAGE + 1; /* page 0 stays unused: handle 0 is none */
	assert(n_pages <= UINT32_MAX / UNITS_PER_PAGE);
	size_t info = (n_pages * sizeof(struct fib_arena_page) + FIB_ARENA_PAGE - 1) &
		      ~(size_t)(FIB_ARENA_PAGE - 1);
	size_t map_bytes = info + n_pages * FIB_ARENA_PAGE;
	uint8_t *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
		// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return ENOMEM;
	/* Huge pages would give a small table far more memory than it asks for. */
	madvise(map, map_bytes, MADV_NOHUGEPAGE);
	*arena = (struct fib_arena){
		.base = map + info,
		.pages = (struct fib_arena_page *)map,
		.map_bytes = map_bytes,
		.n_pages = n_pages,
		.n_touched = 1,
	};
	return 0;
}

void fib_arena_fini(struct fib_arena *arena)
{
	UNPOISON(arena->base, (size_t)arena->n_touched * FIB_ARENA_PAGE);
	munmap(arena->pages, arena->map_bytes);
}

size_t fib_arena_bytes(const struct fib_arena *arena)
{
	size_t info = (size_t)arena->n_touched * sizeof(struct fib_arena_page);

	return ((size_t)arena->n_used + arena->n_kept) * FIB_ARENA_PAGE +
	       (info + FIB_ARENA_PAGE - 1) / FIB_ARENA_PAGE * FIB_ARENA_PAGE;
}

static void list_push(struct fib_arena *arena, uint32_t *head, uint32_t page)
{
	struct fib_arena_page *p = &arena->pages[page];

	p->prev = 0;
	p->next = *head;
	if (*head)
		arena->pages[*head].prev = page;
	*head = page;
}

static void list_remove(struct fib_arena *arena, uint32_t *head, uint32_t page)
{
	struct fib_arena_page *p = &arena->pages[page];

	if (p->prev)
		arena->pages[p->prev].next = p->next;
	else
		*head = p->next;
	if (p->next)
		arena->pages[p->next].prev = p->prev;
}

static uint32_t take_page(struct fib_arena *arena)
{
	uint32_t page;

	if (arena->kept) {
		page = arena->kept;
		list_remove(arena, &arena->kept, page);
		arena->n_kept--;
	} else if (arena->dropped) {
		page = arena->dropped;
		list_remove(arena, &arena->dropped, page);
	} else if (arena->n_touched < arena->n_pages) {
		page = arena->n_touched++;
	} else {
		return 0;
	}
	arena->n_used++;
	UNPOISON(page_at(arena, page), FIB_ARENA_PAGE);
	return page;
}

static void drop_pages(struct fib_arena *arena, uint32_t keep)
{
	while (arena->n_kept > keep) {
		uint32_t page = arena->kept;
		list_remove(arena, &arena->kept, page);
		arena->n_kept--;
		madvise(page_at(arena, page), FIB_ARENA_PAGE, MADV_DONTNEED);
		list_push(arena, &arena->dropped, page);
	}
}

static void give_page(struct fib_arena *arena, uint32_t page)
{
	arena->n_used--;
	POISON(page_at(arena, page), FIB_ARENA_PAGE);
	list_push(arena, &arena->kept, page);
	arena->n_kept++;
	if (arena->n_used == 0) {
		/* Nothing left: start over, so that an emptied table is as small as a new one. */
		size_t info = (size_t)arena->n_touched * sizeof(struct fib_arena_page);
		madvise(arena->base, (size_t)arena->n_touched * FIB_ARENA_PAGE, MADV_DONTNEED);
		madvise(arena->pages, info, MADV_DONTNEED);
		arena->n_touched = 1;
		arena->n_kept = arena->kept = arena->dropped = 0;
		return;
	}
	/* A flapping route shouldn't cost a system call and a page fault each time. */
	drop_pages(arena, 4 + arena->n_used / 16);
}

fib_handle fib_arena_page_alloc(struct fib_arena *arena)
{
	return take_page(arena) * UNITS_PER_PAGE;
}

void fib_arena_page_free(struct fib_arena *arena, fib_handle page)
{
	give_page(arena, page / UNITS_PER_PAGE);
}

static unsigned int units_of(size_t bytes)
{
	unsigned int units = (bytes + FIB_ARENA_UNIT - 1) / FIB_ARENA_UNIT;

	assert(units > 0 && units <= FIB_ARENA_MAX_UNITS);
	return units;
}

static uint32_t partial_page(struct fib_arena *arena, unsigned int units, size_t limit)
{
	uint32_t page = arena->partial[units];

	if (page)
		return page;
	if (!arena->kept && fib_arena_bytes(arena) + FIB_ARENA_PAGE > limit)
		return 0;
	page = take_page(arena);
	if (!page)
		return 0;
	arena->pages[page] = (struct fib_arena_page){.units = units, .free_blocks = NO_BLOCK};
	POISON(page_at(arena, page), FIB_ARENA_PAGE);
	list_push(arena, &arena->partial[units], page);
	return page;
}

fib_handle fib_arena_alloc(struct fib_arena *arena, size_t bytes, size_t limit)
{
	unsigned int units = units_of(bytes);
	uint32_t page = partial_page(arena, units, limit);
	if (!page)
		return 0;

	struct fib_arena_page *p = &arena->pages[page];
	unsigned int block;
	if (p->free_blocks != NO_BLOCK) {
		block = p->free_blocks;
		uint16_t *link =
			(uint16_t *)(page_at(arena, page) + (size_t)block * units * FIB_ARENA_UNIT);
		UNPOISON(link, FIB_ARENA_UNIT);
		p->free_blocks = *link;
	} else {
		block = p->fresh++;
	}
	if (++p->used == page_capacity(p))
		list_remove(arena, &arena->partial[units], page);
	fib_handle handle = page * UNITS_PER_PAGE + block * units;
	UNPOISON(fib_arena_at(arena, handle), bytes);
	return handle;
}

void fib_arena_free(struct fib_arena *arena, fib_handle handle, size_t bytes)
{
	unsigned int units = units_of(bytes);
	uint32_t page = handle / UNITS_PER_PAGE;
	struct fib_arena_page *p = &arena->pages[page];

	assert(p->units == units && handle % UNITS_PER_PAGE % units == 0 && p->used > 0);
	*(uint16_t *)fib_arena_at(arena, handle) = p->free_blocks;
	p->free_blocks = handle % UNITS_PER_PAGE / units;
	POISON(fib_arena_at(arena, handle), (size_t)units * FIB_ARENA_UNIT);
	if (p->used-- == page_capacity(p))
		list_push(arena, &arena->partial[units], page);
	if (p->used == 0) {
		list_remove(arena, &arena->partial[units], page);
		give_page(arena, page);
	}
}
