// SPDX-License-Identifier: GPL-2.0-or-later
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dataplane/fib.h"
#include "dataplane/fib_oracle.h"

/* xorshift64*: the same run every time. */
struct rng {
	uint64_t state;
};

static uint32_t rnd(struct rng *rng)
{
	rng->state ^= rng->state >> 12;
	rng->state ^= rng->state << 25;
	rng->state ^= rng->state >> 27;
	return (uint32_t)(rng->state * 0x2545f4914f6cdd1dull >> 32);
}

static void rnd_addr(struct rng *rng, uint8_t addr[16])
{
	for (int i = 0; i < 16; i += 4) {
		uint32_t word = rnd(rng);
		memcpy(addr + i, &word, 4);
	}
}

/* "10.0.0.0/8"; returns the length. */
static unsigned int parse(const char *text, uint8_t addr[16])
{
	char buf[64];
	unsigned int len = strchr(text, ':') ? 128 : 32;

	assert_true(snprintf(buf, sizeof(buf), "%s", text) < (int)sizeof(buf));
	char *slash = strchr(buf, '/');
	if (slash) {
		*slash = '\0';
		len = (unsigned int)strtoul(slash + 1, NULL, 10);
	}
	assert_int_equal(inet_pton(strchr(buf, ':') ? AF_INET6 : AF_INET, buf, addr), 1);
	return len;
}

static void add(struct fib *fib, const char *prefix, uint32_t id)
{
	uint8_t addr[16];
	unsigned int len = parse(prefix, addr);

	assert_int_equal(fib_insert(fib, addr, len, id, NULL), 0);
}

static int del(struct fib *fib, const char *prefix)
{
	uint8_t addr[16];
	unsigned int len = parse(prefix, addr);

	return fib_remove(fib, addr, len, NULL);
}

static uint32_t look(const struct fib *fib, const char *text)
{
	uint8_t addr[16];
	const void *addrs[] = {addr};
	uint32_t id;

	parse(text, addr);
	fib_lookup_bulk(fib, addrs, &id, 1);
	assert_int_equal(id, fib_lookup(fib, addr));
	return id;
}

static void test_longest_prefix_wins(void **state)
{
	(void)state;
	struct fib *fib = fib_create(AF_INET, NULL);

	assert_non_null(fib);
	assert_int_equal(look(fib, "10.1.2.3"), FIB_NO_ROUTE);
	add(fib, "0.0.0.0/0", 0);
	add(fib, "128.0.0.0/1", 1);
	add(fib, "10.0.0.0/8", 8);
	add(fib, "10.1.2.0/24", 24);
	add(fib, "10.1.2.3/32", 32);
	add(fib, "10.1.2.2/31", 31);
	add(fib, "255.255.255.255/32", 99);
	assert_int_equal(look(fib, "9.255.255.255"), 0);
	assert_int_equal(look(fib, "10.0.0.0"), 8);
	assert_int_equal(look(fib, "10.1.1.255"), 8);
	assert_int_equal(look(fib, "10.1.2.0"), 24);
	assert_int_equal(look(fib, "10.1.2.2"), 31);
	assert_int_equal(look(fib, "10.1.2.3"), 32);
	assert_int_equal(look(fib, "10.1.3.0"), 8);
	assert_int_equal(look(fib, "11.0.0.0"), 0);
	assert_int_equal(look(fib, "128.0.0.0"), 1);
	assert_int_equal(look(fib, "255.255.255.254"), 1);
	assert_int_equal(look(fib, "255.255.255.255"), 99);
	assert_int_equal(fib_count(fib), 7);
	assert_int_equal(del(fib, "10.1.2.2/31"), 0);
	assert_int_equal(look(fib, "10.1.2.2"), 24);
	assert_int_equal(del(fib, "0.0.0.0/0"), 0);
	assert_int_equal(look(fib, "11.0.0.0"), FIB_NO_ROUTE);
	fib_destroy(fib);

	fib = fib_create(AF_INET6, NULL);
	add(fib, "::/0", 0);
	add(fib, "2000::/3", 3);
	add(fib, "2001:db8::/32", 32);
	add(fib, "2001:db8::/128", 128);
	add(fib, "2001:db8::2/127", 127);
	assert_int_equal(look(fib, "::1"), 0);
	assert_int_equal(look(fib, "2001:db7:ffff::1"), 3);
	assert_int_equal(look(fib, "2001:db8::"), 128);
	assert_int_equal(look(fib, "2001:db8::1"), 32);
	assert_int_equal(look(fib, "2001:db8::3"), 127);
	assert_int_equal(look(fib, "2001:db8::4"), 32);
	fib_destroy(fib);
}

static void test_results_and_refusals(void **state)
{
	(void)state;
	struct fib *fib = fib_create(AF_INET, NULL);
	const uint8_t addr[4] = {10, 1, 2, 3};
	uint32_t id = 77;

	assert_int_equal(fib_insert(fib, addr, 33, 1, &id), EINVAL);
	assert_int_equal(fib_insert(fib, addr, 32, FIB_NO_ROUTE, &id), EINVAL);
	assert_int_equal(fib_remove(fib, addr, 33, &id), EINVAL);
	assert_int_equal(fib_get(fib, addr, 33, &id), EINVAL);
	assert_int_equal(fib_remove(fib, addr, 24, &id), ENOENT);
	assert_int_equal(fib_remove(fib, addr, 0, &id), ENOENT);
	assert_int_equal(fib_get(fib, addr, 24, &id), ENOENT);
	assert_int_equal(fib_get(fib, addr, 0, &id), ENOENT);
	assert_int_equal(id, 77);
	assert_int_equal(fib_count(fib), 0);

	/* Bits beyond the length don't count. */
	for (unsigned int len = 0; len <= 24; len += 24) {
		assert_int_equal(fib_insert(fib, addr, len, 5, &id), 0);
		assert_int_equal(id, FIB_NO_ROUTE);
		assert_int_equal(fib_insert(fib, (uint8_t[]){10, 1, 2, 99}, len, 6, &id), 0);
		assert_int_equal(id, 5);
		assert_int_equal(fib_get(fib, (uint8_t[]){10, 1, 2, 0}, len, &id), 0);
		assert_int_equal(id, 6);
		assert_int_equal(fib_count(fib), 1);
		assert_int_equal(fib_get(fib, addr, 23, &id), ENOENT);
		assert_int_equal(fib_get(fib, addr, 25, &id), ENOENT);
		assert_int_equal(fib_remove(fib, addr, 23, &id), ENOENT);
		assert_int_equal(fib_remove(fib, addr, len, &id), 0);
		assert_int_equal(id, 6);
		assert_int_equal(fib_count(fib), 0);
	}
	fib_destroy(fib);
	fib_destroy(NULL);
	fib_domain_destroy(NULL);
	fib_reader_unregister(NULL);
	assert_null(fib_create(AF_UNIX, NULL));
	assert_int_equal(errno, EAFNOSUPPORT);
	assert_null(fib_domain_create(0));
	assert_int_equal(errno, EINVAL);
}

/* ---- against the oracle ---------------------------------------------------------------------- */

/* Prefixes that hurt in different ways. */
enum shape {
	UNIFORM, /* any address, any length */
	NESTED,  /* all lengths of a few addresses */
	DENSE,   /* adjacent, in few nodes */
	EDGES,   /* around the ends of levels, and of the address space */
	N_SHAPES,
};

struct pair {
	struct fib *fib;
	struct oracle *oracle;
	unsigned int addr_len;
	enum shape shape;
	struct rng rng;
};

static struct pair *pair_create(int family, enum shape shape, const struct fib_config *config)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	assert_non_null(pair);
	pair->addr_len = family == AF_INET ? 32 : 128;
	pair->fib = fib_create(family, config);
	assert_non_null(pair->fib);
	pair->oracle = oracle_create(pair->addr_len);
	pair->shape = shape;
	pair->rng.state = 0x9e3779b97f4a7c15ull + (uint64_t)family * N_SHAPES + shape;
	return pair;
}

static void pair_destroy(struct pair *pair)
{
	fib_destroy(pair->fib);
	oracle_destroy(pair->oracle);
	free(pair);
}

static unsigned int rnd_prefix(struct pair *pair, uint8_t addr[16])
{
	static const unsigned int edge_lens[] = {0, 1, 6, 7, 12, 13, 18, 19, 24, 25, 30, 31, 32};
	struct rng *rng = &pair->rng;
	unsigned int bytes = pair->addr_len / 8;

	rnd_addr(rng, addr);
	switch (pair->shape) {
	case NESTED: {
		struct rng fixed = {.state = 12345 + rnd(rng) % 3};
		rnd_addr(&fixed, addr);
		break;
	}
	case DENSE:
		memset(addr, 0x5a, bytes - 2);
		addr[bytes - 2] &= 3;
		return pair->addr_len - rnd(rng) % 14;
	case EDGES: {
		unsigned int len = edge_lens[rnd(rng) % 13];
		if (rnd(rng) % 4 > 0)
			memset(addr, rnd(rng) % 2 ? 0xff : 0, bytes);
		addr[rnd(rng) % bytes] ^= (uint8_t)(1u << rnd(rng) % 8);
		return pair->addr_len == 32 || rnd(rng) % 2 ? len : pair->addr_len - len;
	}
	default:
		break;
	}
	return rnd(rng) % (pair->addr_len + 1);
}

/* Adds `by` (1 or -1) to an address, round the end. */
static void addr_add(uint8_t addr[16], unsigned int addr_len, int by)
{
	for (int i = (int)addr_len / 8 - 1; i >= 0; i--) {
		addr[i] = (uint8_t)(addr[i] + by);
		if (addr[i] != (by > 0 ? 0 : 0xff))
			return;
	}
}

#define PROBES 5

/* Looks up first and last address of a prefix, their neighbours, and a random one. */
static void check_around(struct pair *pair, const uint8_t addr[16], unsigned int len)
{
	uint8_t probes[PROBES][16];
	const void *addrs[PROBES];
	uint32_t ids[PROBES];

	oracle_mask(probes[0], addr, pair->addr_len, len);
	memcpy(probes[1], probes[0], 16);
	for (unsigned int bit = len; bit < pair->addr_len; bit++)
		probes[1][bit / 8] |= (uint8_t)(0x80 >> bit % 8);
	memcpy(probes[2], probes[0], 16);
	addr_add(probes[2], pair->addr_len, -1);
	memcpy(probes[3], probes[1], 16);
	addr_add(probes[3], pair->addr_len, 1);
	rnd_addr(&pair->rng, probes[4]);
	for (unsigned int i = 0; i < PROBES; i++)
		addrs[i] = probes[i];
	fib_lookup_bulk(pair->fib, addrs, ids, PROBES);
	for (unsigned int i = 0; i < PROBES; i++) {
		uint32_t want = oracle_lookup(pair->oracle, probes[i]);
		assert_int_equal(fib_lookup(pair->fib, probes[i]), want);
		assert_int_equal(ids[i], want);
	}
}

static void pair_insert(struct pair *pair, const uint8_t addr[16], unsigned int len, uint32_t id)
{
	uint32_t old, want;

	assert_int_equal(fib_insert(pair->fib, addr, len, id, &old), 0);
	oracle_insert(pair->oracle, addr, len, id, &want);
	assert_int_equal(old, want);
}

static void pair_remove(struct pair *pair, const uint8_t addr[16], unsigned int len)
{
	uint32_t old = 0, want = 0;

	assert_int_equal(fib_remove(pair->fib, addr, len, &old),
		oracle_remove(pair->oracle, addr, len, &want));
	assert_int_equal(old, want);
}

struct walk_check {
	const struct oracle_entry *want;
	size_t at, n;
	size_t stop_after; /* entries until the page is full */
	struct oracle_entry last;
};

static bool check_entry(void *ctx, const uint8_t *addr, unsigned int len, uint32_t id)
{
	struct walk_check *check = ctx;

	assert_true(check->at < check->n);
	const struct oracle_entry *want = &check->want[check->at];
	assert_memory_equal(addr, want->addr, 16);
	assert_int_equal(len, want->len);
	assert_int_equal(id, want->id);
	check->last = *want;
	check->at++;
	return --check->stop_after > 0;
}

/* Walks the whole table, `page` prefixes at a time. */
static void check_walk(const struct pair *pair, size_t page)
{
	struct oracle_entry *sorted = oracle_sorted(pair->oracle);
	struct walk_check check = {.want = sorted, .n = oracle_count(pair->oracle)};
	size_t before;

	assert_int_equal(fib_count(pair->fib), check.n);
	do {
		before = check.at;
		check.stop_after = page;
		assert_int_equal(fib_walk(pair->fib, before > 0 ? check.last.addr : NULL,
					 check.last.len, check_entry, &check),
			0);
	} while (check.at > before);
	assert_int_equal(check.at, check.n);
	free(sorted);
}

/* What can be asked has the same answer in both. */
static void check_all(struct pair *pair)
{
	struct oracle_entry *sorted = oracle_sorted(pair->oracle);

	for (size_t i = 0; i < oracle_count(pair->oracle); i++) {
		uint32_t id;
		assert_int_equal(fib_get(pair->fib, sorted[i].addr, sorted[i].len, &id), 0);
		assert_int_equal(id, sorted[i].id);
		check_around(pair, sorted[i].addr, sorted[i].len);
	}
	free(sorted);
	check_walk(pair, SIZE_MAX);
}

static void churn(struct pair *pair, unsigned int steps, unsigned int removals_in_8)
{
	for (unsigned int i = 0; i < steps; i++) {
		uint8_t addr[16];
		unsigned int len = rnd_prefix(pair, addr);
		if (rnd(&pair->rng) % 8 < removals_in_8)
			pair_remove(pair, addr, len);
		else
			pair_insert(pair, addr, len, rnd(&pair->rng) % FIB_NO_ROUTE);
		check_around(pair, addr, len);
	}
}

static void empty(struct pair *pair)
{
	struct oracle_entry *sorted = oracle_sorted(pair->oracle);
	size_t n = oracle_count(pair->oracle);

	for (size_t i = 0; i < n; i++)
		pair_remove(pair, sorted[i].addr, sorted[i].len);
	free(sorted);
	assert_int_equal(fib_count(pair->fib), 0);
}

static void against_oracle(int family)
{
	for (enum shape shape = UNIFORM; shape < N_SHAPES; shape++) {
		struct pair *pair = pair_create(family, shape, NULL);
		size_t fresh = fib_memory(pair->fib);
		churn(pair, 6000, 2);
		check_all(pair);
		churn(pair, 6000, 6);
		check_all(pair);
		check_walk(pair, 1);
		check_walk(pair, 7);
		empty(pair);
		check_all(pair);
		assert_int_equal(fib_memory(pair->fib), fresh);
		pair_destroy(pair);
	}
}

static void test_oracle_ipv4(void **state)
{
	(void)state;
	against_oracle(AF_INET);
}

static void test_oracle_ipv6(void **state)
{
	(void)state;
	against_oracle(AF_INET6);
}

/* Enough routes for each size of the direct table, and short prefixes over them. */
static void large(int family)
{
	struct pair *pair = pair_create(family, UNIFORM, NULL);
	unsigned int top = family == AF_INET ? 24 : 48;
	size_t fresh = fib_memory(pair->fib);

	for (uint32_t i = 0; i < 60000; i++) {
		uint8_t addr[16];
		rnd_addr(&pair->rng, addr);
		addr[0] &= 0x1f;
		pair_insert(pair, addr, top - rnd(&pair->rng) % 9, i);
		check_around(pair, addr, top);
		if (i % 1000 == 0) {
			unsigned int len = rnd(&pair->rng) % 20;
			pair_insert(pair, addr, len, i);
			check_around(pair, addr, len);
			rnd_addr(&pair->rng, addr);
			len = rnd(&pair->rng) % 20;
			pair_remove(pair, addr, len);
			check_around(pair, addr, len);
		}
	}
	check_all(pair);
	check_walk(pair, 1000);
	struct oracle_entry *sorted = oracle_sorted(pair->oracle);
	size_t n = oracle_count(pair->oracle);
	/* In an order that has nothing to do with addresses: n is no multiple of the step. */
	size_t step = n % 7919 ? 7919 : 7907;
	for (size_t i = 0, at = 0; i < n; i++, at = (at + step) % n) {
		pair_remove(pair, sorted[at].addr, sorted[at].len);
		check_around(pair, sorted[at].addr, sorted[at].len);
		if (i == n - 1500)
			check_all(pair);
	}
	free(sorted);
	assert_int_equal(fib_count(pair->fib), 0);
	assert_int_equal(fib_memory(pair->fib), fresh);
	pair_destroy(pair);
}

static void test_large_ipv4(void **state)
{
	(void)state;
	large(AF_INET);
}

static void test_large_ipv6(void **state)
{
	(void)state;
	large(AF_INET6);
}

static void test_bulk_of_any_size(void **state)
{
	(void)state;
	struct pair *pair = pair_create(AF_INET, UNIFORM, NULL);
	enum { MOST = 131 };
	uint8_t probes[MOST][16];
	const void *addrs[MOST];
	uint32_t ids[MOST + 1];

	churn(pair, 3000, 0);
	for (unsigned int n = 0; n <= MOST; n++) {
		for (unsigned int i = 0; i < n; i++) {
			rnd_addr(&pair->rng, probes[i]);
			addrs[i] = probes[i];
		}
		ids[n] = 4711;
		fib_lookup_bulk(pair->fib, addrs, ids, n);
		assert_int_equal(ids[n], 4711);
		for (unsigned int i = 0; i < n; i++)
			assert_int_equal(ids[i], oracle_lookup(pair->oracle, probes[i]));
	}
	pair_destroy(pair);
}

static bool count_entry(void *ctx, const uint8_t *addr, unsigned int len, uint32_t id)
{
	(void)addr, (void)len, (void)id;
	++*(size_t *)ctx;
	return true;
}

static void test_walk_begins_between_prefixes(void **state)
{
	(void)state;
	struct fib *fib = fib_create(AF_INET, NULL);
	static const struct {
		const char *after;
		size_t rest;
	} cases[] = {{"0.0.0.0/0", 4}, {"10.0.0.0/7", 4}, {"10.0.0.0/8", 3}, {"10.0.0.0/15", 3},
		{"10.0.0.0/16", 2}, {"10.0.0.1/32", 2}, {"10.1.0.0/15", 3}, {"10.1.0.0/16", 1},
		{"192.0.2.0/23", 1}, {"192.0.2.0/24", 0}, {"255.255.255.255/32", 0}};

	add(fib, "0.0.0.0/0", 1);
	add(fib, "10.0.0.0/8", 2);
	add(fib, "10.0.0.0/16", 3);
	add(fib, "10.1.0.0/16", 4);
	add(fib, "192.0.2.0/24", 5);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t addr[16];
		unsigned int len = parse(cases[i].after, addr);
		size_t n = 0;
		assert_int_equal(fib_walk(fib, addr, len, count_entry, &n), 0);
		assert_int_equal(n, cases[i].rest);
	}
	size_t n = 0;
	assert_int_equal(fib_walk(fib, (uint8_t[]){1, 2, 3, 4}, 33, count_entry, &n), EINVAL);
	assert_int_equal(fib_walk(fib, NULL, 0, count_entry, &n), 0);
	assert_int_equal(n, 5);
	fib_destroy(fib);
}

/* ---- memory ---------------------------------------------------------------------------------- */

struct failing {
	unsigned int countdown; /* allocations that succeed */
	unsigned int refused;
};

static bool fail_later(void *ctx, size_t bytes)
{
	struct failing *failing = ctx;

	(void)bytes;
	if (failing->countdown == 0) {
		failing->refused++;
		return false;
	}
	failing->countdown--;
	return true;
}

static void failures(int family)
{
	struct failing failing = {0};
	struct fib_config config = {.may_allocate = fail_later, .ctx = &failing};

	for (enum shape shape = UNIFORM; shape < N_SHAPES; shape++) {
		struct pair *pair = pair_create(family, shape, &config);
		size_t fresh = fib_memory(pair->fib);
		unsigned int errors = 0;
		for (unsigned int i = 0; i < 3000; i++) {
			uint8_t addr[16];
			unsigned int len = rnd_prefix(pair, addr);
			uint32_t old = 4711, want;
			int error;
			/* Fails at its first allocation, its second, and so on. */
			for (unsigned int allowed = 0;; allowed++) {
				failing.countdown = allowed;
				error = fib_insert(pair->fib, addr, len, i, &old);
				if (!error)
					break;
				assert_int_equal(error, ENOMEM);
				assert_int_equal(old, 4711);
				assert_int_equal(fib_count(pair->fib), oracle_count(pair->oracle));
				check_around(pair, addr, len);
				errors++;
			}
			oracle_insert(pair->oracle, addr, len, i, &want);
			assert_int_equal(old, want);
			check_around(pair, addr, len);
		}
		assert_true(errors > 0);
		assert_true(failing.refused >= errors);
		check_all(pair);
		failing.countdown = 0;
		empty(pair); /* needs nobody's leave */
		assert_int_equal(fib_memory(pair->fib), fresh);
		pair_destroy(pair);
	}
}

static void test_allocation_failure(void **state)
{
	(void)state;
	failures(AF_INET);
	failures(AF_INET6);
}

static void test_limit(void **state)
{
	(void)state;
	struct fib_config config = {.max_bytes = 200 << 10};
	struct pair *pair = pair_create(AF_INET6, UNIFORM, &config);
	unsigned int refused = 0;

	for (unsigned int i = 0; refused < 100; i++) {
		uint8_t addr[16];
		uint32_t old;
		unsigned int len = rnd_prefix(pair, addr);
		int error = fib_insert(pair->fib, addr, len, i, &old);
		if (error) {
			assert_int_equal(error, ENOMEM);
			refused++;
		} else {
			oracle_insert(pair->oracle, addr, len, i, &old);
		}
		assert_true(fib_memory(pair->fib) <= config.max_bytes + 4096);
	}
	assert_true(oracle_count(pair->oracle) > 100);
	check_all(pair);
	empty(pair);
	churn(pair, 100, 4);
	pair_destroy(pair);
}

static void test_table_sizes(void **state)
{
	(void)state;
	struct pair *pair = pair_create(AF_INET, UNIFORM, NULL);

	assert_true(fib_memory(pair->fib) <= 8 << 10);
	for (uint32_t i = 0; i < 10000; i++) {
		uint8_t addr[16];
		rnd_addr(&pair->rng, addr);
		pair_insert(pair, addr, 24, i);
	}
	assert_true(fib_memory(pair->fib) <= 2 << 20);
	pair_destroy(pair);
}

/* ---- readers beside the writer ----------------------------------------------------------------
 */

static void test_reader_holds_memory(void **state)
{
	(void)state;
	struct fib_config config = {.domain = fib_domain_create(2)};
	struct fib *fib = fib_create(AF_INET, &config);
	struct fib_reader *a = fib_reader_register(config.domain);
	struct fib_reader *b = fib_reader_register(config.domain);

	assert_non_null(a);
	assert_non_null(b);
	assert_null(fib_reader_register(config.domain));
	assert_int_equal(errno, ENOSPC);

	/* Offline readers hold nothing. */
	size_t fresh = fib_memory(fib);
	add(fib, "10.0.0.0/8", 1);
	assert_int_equal(del(fib, "10.0.0.0/8"), 0);
	assert_int_equal(fib_reclaim(fib), 0);

	fib_reader_online(a);
	fib_reader_online(b);
	add(fib, "10.0.0.0/8", 1);
	add(fib, "10.0.0.0/9", 2);
	assert_int_equal(fib_reclaim(fib), 1);
	fib_reader_quiescent(a);
	assert_int_equal(fib_reclaim(fib), 1);
	uint64_t ticket = fib_domain_ticket(config.domain);
	fib_reader_quiescent(b);
	assert_int_equal(fib_reclaim(fib), 0);
	assert_false(fib_domain_passed(config.domain, ticket));
	fib_reader_offline(a);
	assert_true(fib_domain_passed(config.domain, ticket));

	/* More than a page of the queue, and in order. */
	for (uint32_t i = 0; i < 2000; i++) {
		add(fib, "10.128.0.0/9", i);
		assert_int_equal(del(fib, "10.128.0.0/9"), 0);
	}
	assert_int_equal(fib_reclaim(fib), 4000);
	assert_int_equal(del(fib, "10.0.0.0/8"), 0);
	assert_int_equal(del(fib, "10.0.0.0/9"), 0);
	assert_true(fib_memory(fib) > fresh);
	fib_reader_quiescent(b);
	assert_int_equal(fib_reclaim(fib), 0);
	assert_int_equal(fib_memory(fib), fresh);
	fib_reader_offline(b);
	fib_reader_unregister(a);
	fib_reader_unregister(b);
	fib_destroy(fib);
	fib_domain_destroy(config.domain);
}

#define STABLE 64u      /* prefixes that are always there */
#define STABLE_ID 1000u /* and up */
#define COVER_ID 1u     /* of the prefix over all; other ids come and go */
#define CHURN_ID 5000u

struct shared {
	int family;
	struct fib *fib;
	struct fib_domain *domain;
	atomic_bool stop;
	atomic_uint bad;   /* answers that no state of the table allows */
	atomic_uint ready; /* readers that have begun */
};

/* The i-th stable prefix: 20.i.128.0/20, 2014:0i80::/28 or so; 0x14 leads in both families. */
static void stable_addr(unsigned int i, uint8_t addr[16])
{
	memset(addr, 0, 16);
	addr[0] = 0x14;
	addr[1] = (uint8_t)i;
	addr[2] = 0x80;
}

static void *reader_main(void *arg)
{
	struct shared *shared = arg;
	struct fib_reader *reader = fib_reader_register(shared->domain);
	struct rng rng = {.state = (uintptr_t)reader | 1};
	uint8_t probes[2 * STABLE][16];
	const void *addrs[2 * STABLE];
	uint32_t ids[2 * STABLE];

	fib_reader_online(reader);
	atomic_fetch_add(&shared->ready, 1);
	for (unsigned int round = 1; !atomic_load(&shared->stop); round++) {
		for (unsigned int i = 0; i < STABLE; i++) {
			/* Only shorter prefixes come and go over these. */
			stable_addr(i, probes[i]);
			probes[i][2] |= rnd(&rng) & 0xf;
			probes[i][3] = (uint8_t)rnd(&rng);
			/* Only longer ones under the cover come and go over those. */
			rnd_addr(&rng, probes[STABLE + i]);
			probes[STABLE + i][0] = 0x14;
			probes[STABLE + i][1] |= 0x80;
		}
		for (unsigned int i = 0; i < 2 * STABLE; i++)
			addrs[i] = probes[i];
		if (round % 2) {
			fib_lookup_bulk(shared->fib, addrs, ids, 2 * STABLE);
		} else {
			for (unsigned int i = 0; i < 2 * STABLE; i++)
				ids[i] = fib_lookup(shared->fib, addrs[i]);
		}
		for (unsigned int i = 0; i < STABLE; i++) {
			uint32_t id = ids[STABLE + i], exact = 0;
			if (ids[i] != STABLE_ID + i || (id != COVER_ID && id < CHURN_ID) ||
				id == FIB_NO_ROUTE)
				atomic_fetch_add(&shared->bad, 1);
			if (fib_get(shared->fib, addrs[i], 20, &exact) != 0 ||
				exact != STABLE_ID + i)
				atomic_fetch_add(&shared->bad, 1);
		}
		fib_reader_quiescent(reader);
		if (round % 16 == 0) {
			fib_reader_offline(reader);
			sched_yield();
			fib_reader_online(reader);
		}
	}
	fib_reader_offline(reader);
	fib_reader_unregister(reader);
	return NULL;
}

/* Up and down through the sizes of the direct table. */
static void churn_beside_readers(struct shared *shared, struct rng *rng)
{
	enum { MOST = 6000 };
	static struct {
		uint8_t addr[16];
		unsigned int len;
	} in[MOST];

	for (unsigned int turn = 0; turn < 6; turn++) {
		unsigned int n = 0;
		while (n < MOST) {
			rnd_addr(rng, in[n].addr);
			in[n].addr[0] = 0x14;
			if (rnd(rng) % 2) {
				/* Over and beside the stable ones, never within. */
				in[n].addr[1] &= STABLE - 1;
				in[n].len = 9 + rnd(rng) % 11;
			} else {
				in[n].addr[1] |= 0x80;
				in[n].len = 9 + rnd(rng) % 24;
			}
			uint32_t id = CHURN_ID + rnd(rng) % 100000;
			assert_int_equal(
				fib_insert(shared->fib, in[n].addr, in[n].len, id, NULL), 0);
			n++;
			if (rnd(rng) % 3 == 0) {
				n--;
				fib_remove(shared->fib, in[n].addr, in[n].len, NULL);
			}
		}
		while (n-- > 0)
			fib_remove(shared->fib, in[n].addr, in[n].len, NULL);
		assert_int_equal(fib_count(shared->fib), STABLE + 1);
	}
}

static void beside_readers(int family)
{
	enum { READERS = 3 };
	struct shared shared = {.family = family, .domain = fib_domain_create(READERS)};
	struct fib_config config = {.domain = shared.domain};
	struct rng rng = {.state = 42};
	pthread_t threads[READERS];
	uint8_t addr[16];

	shared.fib = fib_create(family, &config);
	assert_non_null(shared.fib);
	size_t fresh = fib_memory(shared.fib);
	stable_addr(0, addr);
	assert_int_equal(fib_insert(shared.fib, addr, 8, COVER_ID, NULL), 0);
	for (unsigned int i = 0; i < STABLE; i++) {
		stable_addr(i, addr);
		assert_int_equal(fib_insert(shared.fib, addr, 20, STABLE_ID + i, NULL), 0);
	}
	for (unsigned int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader_main, &shared), 0);
	while (atomic_load(&shared.ready) < READERS)
		sched_yield();
	churn_beside_readers(&shared, &rng);
	atomic_store(&shared.stop, true);
	for (unsigned int i = 0; i < READERS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(atomic_load(&shared.bad), 0);

	stable_addr(0, addr);
	assert_int_equal(fib_remove(shared.fib, addr, 8, NULL), 0);
	for (unsigned int i = 0; i < STABLE; i++) {
		stable_addr(i, addr);
		assert_int_equal(fib_remove(shared.fib, addr, 20, NULL), 0);
	}
	assert_int_equal(fib_reclaim(shared.fib), 0);
	assert_int_equal(fib_memory(shared.fib), fresh);
	fib_destroy(shared.fib);
	fib_domain_destroy(shared.domain);
}

static void test_readers_ipv4(void **state)
{
	(void)state;
	beside_readers(AF_INET);
}

static void test_readers_ipv6(void **state)
{
	(void)state;
	beside_readers(AF_INET6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_longest_prefix_wins),
		cmocka_unit_test(test_results_and_refusals),
		cmocka_unit_test(test_oracle_ipv4),
		cmocka_unit_test(test_oracle_ipv6),
		cmocka_unit_test(test_large_ipv4),
		cmocka_unit_test(test_large_ipv6),
		cmocka_unit_test(test_bulk_of_any_size),
		cmocka_unit_test(test_walk_begins_between_prefixes),
		cmocka_unit_test(test_allocation_failure),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_table_sizes),
		cmocka_unit_test(test_reader_holds_memory),
		cmocka_unit_test(test_readers_ipv4),
		cmocka_unit_test(test_readers_ipv6),
	};
	return cmocka_run_group_tests_name("fib", tests, NULL, NULL);
}
