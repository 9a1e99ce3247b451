/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FIB_H
#define EDGEPLEX_FIB_H

/*
 * Longest-prefix match: an IPv4 or IPv6 address → a 32-bit id (the index of a next-hop object,
 * say).
 *
 * Readers are lock-free and never wait: any number up to the domain's maximum. There is one writer
 * at a time (the caller sees to that). Every update is atomic: a lookup beside it sees the prefix
 * as it was before or as it is afterwards, and a prefix that is not touched is never missed. A
 * lookup beside *several* updates is no snapshot: it may see the second without the first.
 *
 * What an update takes out of the table is freed when every reader of the domain has been seen
 * quiescent after it. Needs no EAL. See docs/notes/fib.md for the structure and for measurements.
 *
 * Addresses are in network byte order: 4 bytes for AF_INET, 16 for AF_INET6, of any alignment.
 * Functions that return int return 0 or a positive errno.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FIB_NO_ROUTE UINT32_MAX

/* ---- quiescence: one domain serves all tables that the same readers use --------------------- */

struct fib_domain;
struct fib_reader;

/* Returns NULL with errno (EINVAL: `max_readers` is 0; ENOMEM). */
struct fib_domain *fib_domain_create(unsigned int max_readers);

/* Destroy the domain's tables and unregister its readers first. Accepts NULL. */
void fib_domain_destroy(struct fib_domain *domain);

/*
 * Gives the calling thread its reader, offline. Any thread, any time.
 * Returns NULL with errno ENOSPC when `max_readers` are registered.
 */
struct fib_reader *fib_reader_register(struct fib_domain *domain);

/* The reader must be offline. Accepts NULL. */
void fib_reader_unregister(struct fib_reader *reader);

/*
 * A reader looks up only between online and offline. It says quiescent between bursts (one load
 * and one store): from then on it holds nothing that it found before, no id either. It goes offline
 * before it sleeps: a reader that sleeps online keeps all memory from being freed.
 */
void fib_reader_online(struct fib_reader *reader);
void fib_reader_quiescent(struct fib_reader *reader);
void fib_reader_offline(struct fib_reader *reader);

/*
 * For what the caller itself hands to readers (next-hop objects): take a ticket after the object
 * was unlinked; when fib_domain_passed() says true for it, no reader holds the object any more.
 * Writer only; never waits.
 */
uint64_t fib_domain_ticket(struct fib_domain *domain);
bool fib_domain_passed(struct fib_domain *domain, uint64_t ticket);

/* ---- a table -------------------------------------------------------------------------------- */

struct fib;

struct fib_config {
	struct fib_domain *domain; /* whose readers look up here; NULL: nobody beside the writer */
	size_t max_bytes; /* of memory; inserts fail beyond it; 0: 256 MiB; at most 4 GiB */

	/* For tests: asked before every allocation of an insert; false makes it fail. NULL: never
	 * asked. */
	bool (*may_allocate)(void *ctx, size_t bytes);
	void *ctx;
};

/*
 * `family` is AF_INET or AF_INET6; `config` may be NULL (all defaults) and is copied. An empty
 * table takes a few KiB. Returns NULL with errno (EAFNOSUPPORT, ENOMEM).
 */
struct fib *fib_create(int family, const struct fib_config *config);

/* Nobody may look up any more. Accepts NULL. */
void fib_destroy(struct fib *fib);

/*
 * Adds `addr`/`len` or replaces its id. Bits of `addr` beyond `len` are ignored. `*old` (may be
 * NULL) becomes the id that was replaced, or FIB_NO_ROUTE.
 * Returns 0, EINVAL (`len` too long, or `id` is FIB_NO_ROUTE) or ENOMEM; on error nothing changed.
 * Writer only.
 */
int fib_insert(struct fib *fib, const void *addr, unsigned int len, uint32_t id, uint32_t *old);

/*
 * Removes `addr`/`len`; `*old` (may be NULL) becomes its id. Not bound by `max_bytes`, so a full
 * table can shrink: ENOMEM only when a reader that never is quiescent holds as much again.
 * Returns 0, EINVAL, ENOENT or ENOMEM; on error nothing changed. Writer only.
 */
int fib_remove(struct fib *fib, const void *addr, unsigned int len, uint32_t *old);

/* Finds exactly `addr`/`len`. Returns 0, EINVAL or ENOENT. Writer, or a reader that is online. */
int fib_get(const struct fib *fib, const void *addr, unsigned int len, uint32_t *id);

/* The id of the longest prefix that holds `addr`, or FIB_NO_ROUTE. Writer, or online reader. */
uint32_t fib_lookup(const struct fib *fib, const void *addr);

/*
 * Looks up `n` addresses, each wherever it lies (in its packet), the memory accesses overlapped:
 * much faster than one by one when the table exceeds the caches. Writer, or online reader.
 */
void fib_lookup_bulk(
	const struct fib *fib, const void *const addrs[], uint32_t ids[], unsigned int n);

/* Gets one prefix (address masked); returns false to stop the walk. May not update the table. */
typedef bool (*fib_walk_cb)(void *ctx, const uint8_t *addr, unsigned int len, uint32_t id);

/*
 * Calls `cb` for every prefix in order of (address, length), beginning after `addr`/`len`, which
 * need not be in the table; from the start if `addr` is NULL. To page: stop in `cb`, and pass the
 * last prefix next time. Returns 0 or EINVAL. Writer only.
 */
int fib_walk(const struct fib *fib, const void *addr, unsigned int len, fib_walk_cb cb, void *ctx);

/* Number of prefixes. Any thread. */
size_t fib_count(const struct fib *fib);

/* Bytes of memory that the table takes now, what waits to be freed included. Any thread. */
size_t fib_memory(const struct fib *fib);

/*
 * Frees what no reader can see any more. Every update does so as well; call this when there are
 * none for long. Returns the number of blocks that still wait. Writer only; never waits.
 */
size_t fib_reclaim(struct fib *fib);

#endif
