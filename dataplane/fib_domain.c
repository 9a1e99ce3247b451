// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Quiescent-state-based reclamation. A counter stands for time. The writer unlinks, then advances
 * the counter: the new value is the ticket. A reader copies the counter into its `seen` whenever it
 * holds nothing; once `seen` has reached the ticket, the reader can't hold what was unlinked.
 */

#include <assert.h>
#include <errno.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "dataplane/fib.h"

#define CACHE_LINE 64
#define OFFLINE 0u

struct fib_reader {
	/* Written by the reader in every burst: a cache line of its own. */
	alignas(CACHE_LINE) _Atomic uint64_t seen;
	atomic_bool used;
	struct fib_domain *domain;
};

struct fib_domain {
	alignas(CACHE_LINE) _Atomic uint64_t now; /* never OFFLINE */
	unsigned int max_readers;
	struct fib_reader readers[];
};

struct fib_domain *fib_domain_create(unsigned int max_readers)
{
	if (max_readers == 0) {
		errno = EINVAL;
		return NULL;
	}
	struct fib_domain *domain = aligned_alloc(
		CACHE_LINE, sizeof(*domain) + (size_t)max_readers * sizeof(struct fib_reader));
	if (!domain)
		return NULL;
	atomic_init(&domain->now, OFFLINE + 1);
	domain->max_readers = max_readers;
	for (unsigned int i = 0; i < max_readers; i++) {
		struct fib_reader *reader = &domain->readers[i];
		atomic_init(&reader->seen, OFFLINE);
		atomic_init(&reader->used, false);
		reader->domain = domain;
	}
	return domain;
}

void fib_domain_destroy(struct fib_domain *domain)
{
	free(domain);
}

struct fib_reader *fib_reader_register(struct fib_domain *domain)
{
	for (unsigned int i = 0; i < domain->max_readers; i++) {
		struct fib_reader *reader = &domain->readers[i];
		bool free = false;
		if (atomic_compare_exchange_strong(&reader->used, &free, true))
			return reader;
	}
	errno = ENOSPC;
	return NULL;
}

void fib_reader_unregister(struct fib_reader *reader)
{
	if (!reader)
		return;
	assert(atomic_load(&reader->seen) == OFFLINE);
	atomic_store(&reader->used, false);
}

void fib_reader_online(struct fib_reader *reader)
{
	_Atomic uint64_t *now = &reader->domain->now;

	atomic_store_explicit(&reader->seen, atomic_load_explicit(now, memory_order_acquire),
		memory_order_relaxed);
	/*
	 * Changing nothing, this has a place in the order of the writer's tickets. Before a ticket:
	 * the writer sees that this reader is online. After it: this reader sees what was unlinked.
	 * (A plain store could be overtaken by the loads of the look-ups that follow.)
	 */
	atomic_fetch_add_explicit(now, 0, memory_order_acq_rel);
}

void fib_reader_quiescent(struct fib_reader *reader)
{
	/* Acquire: later look-ups stay behind it. Release: earlier ones stay before the store. */
	uint64_t now = atomic_load_explicit(&reader->domain->now, memory_order_acquire);

	atomic_store_explicit(&reader->seen, now, memory_order_release);
}

void fib_reader_offline(struct fib_reader *reader)
{
	atomic_store_explicit(&reader->seen, OFFLINE, memory_order_release);
}

uint64_t fib_domain_ticket(struct fib_domain *domain)
{
	return atomic_fetch_add_explicit(&domain->now, 1, memory_order_acq_rel) + 1;
}

bool fib_domain_passed(struct fib_domain *domain, uint64_t ticket)
{
	for (unsigned int i = 0; i < domain->max_readers; i++) {
		uint64_t seen =
			atomic_load_explicit(&domain->readers[i].seen, memory_order_acquire);
		if (seen != OFFLINE && seen < ticket)
			return false;
	}
	return true;
}
