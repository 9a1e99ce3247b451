/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/capture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define KEEP_PAGES                                                                     \
	4096 /* of memory that an unusual epoch took is given back what is beyond this \
	      */

struct entry {
	uint32_t page;
	bool known; /* `before` is what the standby has */
};

struct capture {
	size_t n_pages, n;
	uint32_t *slots; /* of each page: its entry + 1; 0: none */
	struct entry *entries;
	uint8_t *now, *before; /* of each entry */
};

static uint8_t *reserve(size_t n_pages)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
	void *area = mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (area == MAP_FAILED)
		return NULL;
	// cppcheck-suppress memleak ; the caller's
	return area;
}

struct capture *capture_create(size_t n_pages)
{
	struct capture *capture = calloc(1, sizeof(*capture));

	if (capture == NULL)
		return NULL;
	capture->n_pages = n_pages;
	capture->slots = calloc(n_pages, sizeof(*capture->slots));
	capture->entries = calloc(n_pages, sizeof(*capture->entries));
	capture->now = reserve(n_pages);
	capture->before = reserve(n_pages);
	if (capture->slots != NULL && capture->entries != NULL && capture->now != NULL &&
		capture->before != NULL)
		return capture;
	capture_destroy(capture);
	return NULL;
}

void capture_destroy(struct capture *capture)
{
	if (capture == NULL)
		return;
	if (capture->now != NULL)
		munmap(capture->now, capture->n_pages * PAGE_BYTES);
	if (capture->before != NULL)
		munmap(capture->before, capture->n_pages * PAGE_BYTES);
	free(capture->slots);
	free(capture->entries);
	free(capture);
}

static void take_page(struct capture *capture, struct dirty *dirty, size_t page)
{
	bool fresh = capture->slots[page] == 0;
	size_t slot = fresh ? capture->n : capture->slots[page] - 1;
	struct entry *entry = &capture->entries[slot];
	const uint8_t *before = dirty_take(dirty, page, capture->now + slot * PAGE_BYTES);

	if (!fresh)
		return; /* the standby still has what it had then */
	entry->page = (uint32_t)page;
	entry->known = before != NULL;
	if (before != NULL)
		memcpy(capture->before + slot * PAGE_BYTES, before, PAGE_BYTES);
	capture->slots[page] = (uint32_t)++capture->n;
}

int capture_take(struct capture *capture, struct dirty *dirty, size_t *n)
{
	const uint64_t *set;
	int error = dirty_scan(dirty, &set, n);

	if (error != 0)
		return error;
	for (size_t p = page_set_next(set, 0, capture->n_pages); p < capture->n_pages;
		p = page_set_next(set, p + 1, capture->n_pages))
		take_page(capture, dirty, p);
	return 0;
}

size_t capture_count(const struct capture *capture)
{
	return capture->n;
}

size_t capture_page(
	const struct capture *capture, size_t i, const uint8_t **now, const uint8_t **before)
{
	const struct entry *entry = &capture->entries[i];

	*now = capture->now + i * PAGE_BYTES;
	*before = entry->known ? capture->before + i * PAGE_BYTES : NULL;
	return entry->page;
}

void capture_clear(struct capture *capture)
{
	for (size_t i = 0; i < capture->n; i++)
		capture->slots[capture->entries[i].page] = 0;
	if (capture->n > KEEP_PAGES) {
		size_t from = (size_t)KEEP_PAGES * PAGE_BYTES;
		size_t length = (capture->n - KEEP_PAGES) * PAGE_BYTES;

		madvise(capture->now + from, length, MADV_DONTNEED);
		madvise(capture->before + from, length, MADV_DONTNEED);
	}
	capture->n = 0;
}
