// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compares the FIB with those of DPDK, in one run, on the same tables and the same destinations.
 * Every implementation's answers are checked against the first one's. See docs/notes/fib.md.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>
#include <rte_malloc.h>
#include <rte_memory.h>

#include "dataplane/fib.h"

#define SEED 20170701u
#define N_DESTINATIONS (1u << 20)
#define BURST 32u
#define N_NEXT_HOPS 1000u
#define MEASURE_S 0.25  /* at least, per figure */
#define MEASURE_RUNS 3  /* of which the best counts: the machine does other things too */
#define TOO_LONG_S 60.0 /* give up building */

/* ---- tables ---------------------------------------------------------------------------------- */

struct route {
	uint8_t addr[16];
	uint8_t len;
	uint32_t id; /* < N_NEXT_HOPS */
};

struct share {
	unsigned int len, per_mille;
};

/* About what the Internet's tables look like. */
static const struct share shares4[] = {{24, 600}, {23, 100}, {22, 110}, {21, 50}, {20, 45},
	{19, 28}, {18, 15}, {17, 9}, {16, 14}, {15, 3}, {14, 3}, {13, 2}, {12, 2}, {11, 1}, {10, 1},
	{8, 1}, {25, 2}, {26, 2}, {27, 2}, {28, 2}, {29, 2}, {30, 2}, {32, 4}};
static const struct share shares6[] = {{48, 470}, {32, 130}, {44, 85}, {40, 80}, {36, 60}, {46, 40},
	{47, 40}, {29, 30}, {42, 25}, {45, 15}, {28, 5}, {33, 5}, {56, 5}, {64, 5}, {128, 5}};

static uint64_t rng_state;

static uint32_t rnd(void)
{
	rng_state ^= rng_state >> 12;
	rng_state ^= rng_state << 25;
	rng_state ^= rng_state >> 27;
	return (uint32_t)(rng_state * 0x2545f4914f6cdd1dull >> 32);
}

static unsigned int rnd_len(const struct share *shares)
{
	unsigned int at = rnd() % 1000;

	while (at >= shares->per_mille) {
		at -= shares->per_mille;
		shares++;
	}
	return shares->len;
}

enum spread { CLUSTERED, UNIFORM };

static void put32(uint8_t *to, uint32_t word)
{
	word = htonl(word);
	memcpy(to, &word, 4);
}

/*
 * IPv4: UNIFORM draws addresses from all of 1.0.0.0 .. 223.255.255.255. CLUSTERED draws from a few
 * thousand /16s, as allocations are. IPv6: a /32 from the registries' blocks, then a small number
 * in the next 16 bits.
 */
static void rnd_route(int family, enum spread spread, size_t n, struct route *route)
{
	memset(route, 0, sizeof(*route));
	route->id = rnd() % N_NEXT_HOPS;
	if (family == AF_INET) {
		uint32_t addr = ((1 + rnd() % 223) << 24) | (rnd() & 0xffffff);
		if (spread == CLUSTERED) {
			/* One /16 for every 50 routes, always the same ones for the same n. */
			uint32_t block = (uint32_t)(rnd() % (n / 50 + 16)) * 2654435761u;
			addr = ((1 + (block >> 24) % 223) << 24) | (block & 0xff0000) |
			       (addr & 0xffff);
		}
		put32(route->addr, addr);
		route->len = (uint8_t)rnd_len(shares4);
	} else {
		static const uint16_t blocks[] = {0x2001, 0x2400, 0x2403, 0x2600, 0x2607, 0x2800,
			0x2804, 0x2a00, 0x2a02, 0x2c0f};
		uint32_t allocation = (uint32_t)(rnd() % (n / 6 + 16)) * 2654435761u;
		put32(route->addr, (uint32_t)blocks[allocation % 10] << 16 | allocation >> 16);
		put32(route->addr + 4, rnd() >> (rnd() % 8) & 0xffffffff);
		put32(route->addr + 8, rnd());
		put32(route->addr + 12, rnd());
		route->len = (uint8_t)rnd_len(shares6);
	}
	for (unsigned int bit = route->len; bit < 128; bit++)
		route->addr[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
}

static int family_of_bench; /* AF_INET or AF_INET6: what the table now measured holds */

/* `n` different prefixes. */
static struct route *make_routes(size_t n, enum spread spread)
{
	struct route *routes = calloc(n, sizeof(*routes));
	struct fib_config config = {.max_bytes = (size_t)1 << 30};
	struct fib *seen = fib_create(family_of_bench, &config);

	for (size_t i = 0; i < n;) {
		uint32_t old;
		rnd_route(family_of_bench, spread, n, &routes[i]);
		if (fib_insert(seen, routes[i].addr, routes[i].len, 1, &old) != 0)
			abort();
		if (old == FIB_NO_ROUTE)
			i++;
	}
	fib_destroy(seen);
	return routes;
}

/* The same destinations in the form that each implementation takes. */
struct destinations {
	uint32_t host4[N_DESTINATIONS];
	uint8_t net4[N_DESTINATIONS][4];
	uint8_t net6[N_DESTINATIONS][16];
	const void *pointers[N_DESTINATIONS];
};

/* A host behind a route; `zipf`: the i-th route is chosen with a probability in proportion to 1/i.
 */
static void make_destinations(
	struct destinations *to, const struct route *routes, size_t n, bool zipf)
{
	for (size_t i = 0; i < N_DESTINATIONS; i++) {
		size_t at = rnd() % n;
		if (zipf)
			at = (size_t)exp(rnd() / 4294967296.0 * log((double)n));
		const struct route *route = &routes[at < n ? at : n - 1];
		uint8_t addr[16];
		for (int word = 0; word < 16; word += 4)
			put32(addr + word, rnd());
		for (unsigned int bit = 0; bit < route->len; bit++) {
			uint8_t mask = (uint8_t)(0x80 >> bit % 8);
			addr[bit / 8] =
				(uint8_t)((addr[bit / 8] & ~mask) | (route->addr[bit / 8] & mask));
		}
		memcpy(to->net4[i], addr, 4);
		memcpy(&to->host4[i], addr, 4);
		to->host4[i] = ntohl(to->host4[i]);
		memcpy(to->net6[i], addr, 16);
		to->pointers[i] = family_of_bench == AF_INET ? to->net4[i] : to->net6[i];
	}
}

/* ---- implementations ------------------------------------------------------------------------- */

struct table {
	void *impl;
	size_t heap_before;
};

struct impl {
	const char *name;
	int family;
	bool single; /* has a function for one address */
	bool slow_updates;
	/* `scale` (1, 2, 4 ...) grows what must be reserved beforehand. */
	bool (*create)(struct table *table, size_t n_routes, unsigned int scale);
	void (*destroy)(struct table *table);
	int (*insert)(struct table *table, const struct route *route);
	int (*remove)(struct table *table, const struct route *route);
	/* All destinations; returns the sum of the ids. */
	uint64_t (*lookup)(struct table *table, const struct destinations *to);
	uint64_t (*lookup_bulk)(struct table *table, const struct destinations *to);
	size_t (*memory)(struct table *table);
};

static uint64_t sum(const uint32_t ids[BURST])
{
	uint64_t total = 0;

	for (unsigned int i = 0; i < BURST; i++)
		total += ids[i];
	return total;
}

static uint64_t sum64(const uint64_t ids[BURST])
{
	uint64_t total = 0;

	for (unsigned int i = 0; i < BURST; i++)
		total += ids[i];
	return total;
}

static bool our_create(struct table *table, size_t n_routes, unsigned int scale)
{
	struct fib_config config = {.max_bytes = (size_t)1 << 30};

	(void)n_routes, (void)scale;
	table->impl = fib_create(family_of_bench, &config);
	return table->impl;
}

static void our_destroy(struct table *table)
{
	fib_destroy(table->impl);
}

static int our_insert(struct table *table, const struct route *route)
{
	return fib_insert(table->impl, route->addr, route->len, route->id, NULL);
}

static int our_remove(struct table *table, const struct route *route)
{
	return fib_remove(table->impl, route->addr, route->len, NULL);
}

static uint64_t our_lookup(struct table *table, const struct destinations *to)
{
	uint64_t total = 0;

	for (size_t i = 0; i < N_DESTINATIONS; i++)
		total += fib_lookup(table->impl, to->pointers[i]);
	return total;
}

static uint64_t our_lookup_bulk(struct table *table, const struct destinations *to)
{
	uint64_t total = 0;
	uint32_t ids[BURST];

	for (size_t i = 0; i < N_DESTINATIONS; i += BURST) {
		fib_lookup_bulk(table->impl, &to->pointers[i], ids, BURST);
		total += sum(ids);
	}
	return total;
}

static size_t our_memory(struct table *table)
{
	return fib_memory(table->impl);
}

static size_t dpdk_heap(void)
{
	struct rte_malloc_socket_stats stats;
	size_t bytes = 0;

	for (int socket = 0; socket < RTE_MAX_NUMA_NODES; socket++)
		if (rte_malloc_get_socket_stats(socket, &stats) == 0)
			bytes += stats.heap_allocsz_bytes;
	return bytes;
}

static size_t dpdk_memory(struct table *table)
{
	return dpdk_heap() - table->heap_before;
}

static uint32_t host4(const struct route *route)
{
	uint32_t addr;

	memcpy(&addr, route->addr, 4);
	return ntohl(addr);
}

static bool lpm_create(struct table *table, size_t n_routes, unsigned int scale)
{
	struct rte_lpm_config config = {
		.max_rules = (uint32_t)n_routes + 256,
		.number_tbl8s = (uint32_t)(n_routes / 64 * scale + 256),
	};

	table->impl = rte_lpm_create("lpm", SOCKET_ID_ANY, &config);
	return table->impl;
}

static void lpm_destroy(struct table *table)
{
	rte_lpm_free(table->impl);
}

static int lpm_insert(struct table *table, const struct route *route)
{
	return rte_lpm_add(table->impl, host4(route), route->len, route->id);
}

static int lpm_remove(struct table *table, const struct route *route)
{
	return rte_lpm_delete(table->impl, host4(route), route->len);
}

static uint64_t lpm_lookup(struct table *table, const struct destinations *to)
{
	uint64_t total = 0;

	for (size_t i = 0; i < N_DESTINATIONS; i++) {
		uint32_t id = FIB_NO_ROUTE;
		if (rte_lpm_lookup(table->impl, to->host4[i], &id) != 0)
			id = FIB_NO_ROUTE;
		total += id;
	}
	return total;
}

static uint64_t lpm_lookup_bulk(struct table *table, const struct destinations *to)
{
	uint64_t total = 0;
	uint32_t ids[BURST];

	for (size_t i = 0; i < N_DESTINATIONS; i += BURST) {
		rte_lpm_lookup_bulk(table->impl, &to->host4[i], ids, BURST);
		for (unsigned int j = 0; j < BURST; j++)
			total += ids[j] & RTE_LPM_LOOKUP_SUCCESS ? ids[j] & 0xffffff : FIB_NO_ROUTE;
	}
	return total;
}

static bool fib4_create(struct table *table, size_t n_routes, unsigned int scale)
{
	struct rte_fib_conf config = {
		.type = RTE_FIB_DIR24_8,
		.default_nh = FIB_NO_ROUTE >> 1,
		.max_routes = (int)n_routes * 2 + 256,
		.dir24_8 = {.nh_sz = RTE_FIB_DIR24_8_4B,
			.num_tbl8 = (uint32_t)(n_routes / 64 * scale + 256)},
	};

	table->impl = rte_fib_create("fib", SOCKET_ID_ANY, &config);
	return table->impl &&
	       rte_fib_select_lookup(table->impl, RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO) == 0;
}

static bool fib4_create_avx512(struct table *table, size_t n_routes, unsigned int scale)
{
	return fib4_create(table, n_routes, scale) &&
	       rte_fib_select_lookup(table->impl, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512) == 0;
}

static void fib4_destroy(struct table *table)
{
	rte_fib_free(table->impl);
}

static int fib4_insert(struct table *table, const struct route *route)
{
	return rte_fib_add(table->impl, host4(route), route->len, route->id);
}

static int fib4_remove(struct table *table, const struct route *route)
{
	return rte_fib_delete(table->impl, host4(route), route->len);
}

static uint64_t fib4_lookup(struct table *table, const struct destinations *to)
{
	uint64_t total = 0, id;

	for (size_t i = 0; i < N_DESTINATIONS; i++) {
		rte_fib_lookup_bulk(table->impl, (uint32_t *)&to->host4[i], &id, 1);
		total += id;
	}
	return total;
}

static uint64_t fib4_lookup_bulk(struct table *table, const struct destinations *to)
{
	uint64_t total = 0, ids[BURST];

	for (size_t i = 0; i < N_DESTINATIONS; i += BURST) {
		rte_fib_lookup_bulk(table->impl, (uint32_t *)&to->host4[i], ids, BURST);
		total += sum64(ids);
	}
	return total;
}

static bool lpm6_create(struct table *table, size_t n_routes, unsigned int scale)
{
	struct rte_lpm6_config config = {
		.max_rules = (uint32_t)n_routes + 256,
		.number_tbl8s = (uint32_t)(n_routes / 4 * scale + 256),
	};

	table->impl = rte_lpm6_create("lpm6", SOCKET_ID_ANY, &config);
	return table->impl;
}

static void lpm6_destroy(struct table *table)
{
	rte_lpm6_free(table->impl);
}

static int lpm6_insert(struct table *table, const struct route *route)
{
	return rte_lpm6_add(table->impl, route->addr, route->len, route->id);
}

static int lpm6_remove(struct table *table, const struct route *route)
{
	return rte_lpm6_delete(table->impl, route->addr, route->len);
}

static uint64_t lpm6_lookup(struct table *table, const struct destinations *to)
{
	uint64_t total = 0;

	for (size_t i = 0; i < N_DESTINATIONS; i++) {
		uint32_t id;
		if (rte_lpm6_lookup(table->impl, to->net6[i], &id) != 0)
			id = FIB_NO_ROUTE;
		total += id;
	}
	return total;
}

static uint64_t lpm6_lookup_bulk(struct table *table, const struct destinations *to)
{
	uint64_t total = 0;
	int32_t ids[BURST];

	for (size_t i = 0; i < N_DESTINATIONS; i += BURST) {
		rte_lpm6_lookup_bulk_func(table->impl, (uint8_t(*)[16]) & to->net6[i], ids, BURST);
		for (unsigned int j = 0; j < BURST; j++)
			total += (uint32_t)ids[j];
	}
	return total;
}

static bool fib6_create(struct table *table, size_t n_routes, unsigned int scale)
{
	struct rte_fib6_conf config = {
		.type = RTE_FIB6_TRIE,
		.default_nh = FIB_NO_ROUTE >> 1,
		.max_routes = (int)n_routes * 2 + 256,
		.trie = {.nh_sz = RTE_FIB6_TRIE_4B,
			.num_tbl8 = (uint32_t)(n_routes / 4 * scale + 256)},
	};

	table->impl = rte_fib6_create("fib6", SOCKET_ID_ANY, &config);
	return table->impl && rte_fib6_select_lookup(table->impl, RTE_FIB6_LOOKUP_TRIE_SCALAR) == 0;
}

static bool fib6_create_avx512(struct table *table, size_t n_routes, unsigned int scale)
{
	return fib6_create(table, n_routes, scale) &&
	       rte_fib6_select_lookup(table->impl, RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512) == 0;
}

static void fib6_destroy(struct table *table)
{
	rte_fib6_free(table->impl);
}

static int fib6_insert(struct table *table, const struct route *route)
{
	return rte_fib6_add(table->impl, route->addr, route->len, route->id);
}

static int fib6_remove(struct table *table, const struct route *route)
{
	return rte_fib6_delete(table->impl, route->addr, route->len);
}

static uint64_t fib6_lookup(struct table *table, const struct destinations *to)
{
	uint64_t total = 0, id;

	for (size_t i = 0; i < N_DESTINATIONS; i++) {
		rte_fib6_lookup_bulk(table->impl, (uint8_t(*)[16]) & to->net6[i], &id, 1);
		total += id;
	}
	return total;
}

static uint64_t fib6_lookup_bulk(struct table *table, const struct destinations *to)
{
	uint64_t total = 0, ids[BURST];

	for (size_t i = 0; i < N_DESTINATIONS; i += BURST) {
		rte_fib6_lookup_bulk(table->impl, (uint8_t(*)[16]) & to->net6[i], ids, BURST);
		total += sum64(ids);
	}
	return total;
}

static const struct impl impls[] = {
	{"edgeplex", AF_INET, true, false, our_create, our_destroy, our_insert, our_remove,
		our_lookup, our_lookup_bulk, our_memory},
	{"rte_lpm", AF_INET, true, true, lpm_create, lpm_destroy, lpm_insert, lpm_remove,
		lpm_lookup, lpm_lookup_bulk, dpdk_memory},
	{"rte_fib", AF_INET, false, false, fib4_create, fib4_destroy, fib4_insert, fib4_remove,
		fib4_lookup, fib4_lookup_bulk, dpdk_memory},
	{"rte_fib avx512", AF_INET, false, false, fib4_create_avx512, fib4_destroy, fib4_insert,
		fib4_remove, fib4_lookup, fib4_lookup_bulk, dpdk_memory},
	{"edgeplex", AF_INET6, true, false, our_create, our_destroy, our_insert, our_remove,
		our_lookup, our_lookup_bulk, our_memory},
	{"rte_lpm6", AF_INET6, true, false, lpm6_create, lpm6_destroy, lpm6_insert, lpm6_remove,
		lpm6_lookup, lpm6_lookup_bulk, dpdk_memory},
	{"rte_fib6", AF_INET6, false, false, fib6_create, fib6_destroy, fib6_insert, fib6_remove,
		fib6_lookup, fib6_lookup_bulk, dpdk_memory},
	{"rte_fib6 avx512", AF_INET6, false, false, fib6_create_avx512, fib6_destroy, fib6_insert,
		fib6_remove, fib6_lookup, fib6_lookup_bulk, dpdk_memory},
};

/* ---- measuring ------------------------------------------------------------------------------- */

enum figure {
	BUILD_MS,
	MEMORY_MB,
	RANDOM_SINGLE,
	RANDOM_BULK,
	ZIPF_SINGLE,
	ZIPF_BULK,
	FLAPS,
	FLAPS_SHORT,
	N_FIGURES
};

static const struct {
	const char *head;
	bool less_is_better;
} figures[N_FIGURES] = {
	[BUILD_MS] = {"build ms", true},
	[MEMORY_MB] = {"MB", true},
	[RANDOM_SINGLE] = {"random", false},
	[RANDOM_BULK] = {"r. bulk", false},
	[ZIPF_SINGLE] = {"zipf", false},
	[ZIPF_BULK] = {"z. bulk", false},
	[FLAPS] = {"kupd/s", false},
	[FLAPS_SHORT] = {"/8 kupd/s", false},
};

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Millions of look-ups per second. */
static double lookup_rate(uint64_t (*lookup)(struct table *, const struct destinations *),
	struct table *table, const struct destinations *to, uint64_t *total)
{
	double best = 0;

	for (int run = 0; run < MEASURE_RUNS; run++) {
		unsigned int rounds = 0;
		double start = now_s(), took;
		do {
			*total = lookup(table, to);
			rounds++;
			took = now_s() - start;
		} while (took < MEASURE_S);
		double rate = (double)rounds * N_DESTINATIONS / took / 1e6;
		if (rate > best)
			best = rate;
	}
	return best;
}

/* Thousands of updates per second: routes leave and come back. */
static double flap_rate(const struct impl *impl, struct table *table, const struct route *routes,
	size_t n, size_t at_a_time)
{
	double start = now_s(), took;
	size_t updates = 0;

	do {
		for (size_t i = 0; i < at_a_time; i++) {
			const struct route *route = &routes[n == 1 ? 0 : rnd() % n];
			int error = impl->remove(table, route);
			if (!error)
				error = impl->insert(table, route);
			if (error) {
				printf("  %-16s update %zu failed: %s\n", impl->name, updates + 1,
					strerror(-error));
				return NAN;
			}
			updates += 2;
		}
		took = now_s() - start;
	} while (took < MEASURE_S);
	return (double)updates / took / 1e3;
}

/* Returns how many routes it took; -1: it can't be created here. */
static ssize_t build(const struct impl *impl, struct table *table, const struct route *routes,
	size_t n, unsigned int scale, double *took)
{
	table->heap_before = dpdk_heap();
	double start = now_s();
	if (!impl->create(table, n, scale))
		return -1;
	*took = 0;
	for (size_t i = 0; i < n; i++) {
		if (impl->insert(table, &routes[i]) != 0)
			return (ssize_t)i;
		*took = now_s() - start;
		if (*took > TOO_LONG_S)
			return (ssize_t)i;
	}
	return (ssize_t)n;
}

struct expected {
	bool known;
	uint64_t random, zipf;
};

static void check(
	struct expected *expected, const struct impl *impl, uint64_t random, uint64_t zipf)
{
	if (!expected->known)
		*expected = (struct expected){true, random, zipf};
	if (expected->random != random || expected->zipf != zipf) {
		fprintf(stderr, "%s: answers differ from those of the first\n", impl->name);
		exit(1);
	}
}

/* Returns false if there is nothing to compare. */
static bool measure(const struct impl *impl, const struct route *routes, size_t n,
	const struct destinations *random, const struct destinations *zipf,
	struct expected *expected, double result[N_FIGURES])
{
	struct table table = {0};
	double took = 0;
	ssize_t built;

	/* The tables of DPDK are reserved beforehand: as small as will do. */
	for (unsigned int scale = 1;; scale *= 2) {
		built = build(impl, &table, routes, n, scale, &took);
		if (built < 0) {
			printf("  %-16s can't be created here\n", impl->name);
			if (table.impl)
				impl->destroy(&table);
			return false;
		}
		if ((size_t)built == n)
			break;
		impl->destroy(&table);
		if (took > TOO_LONG_S) {
			printf("  %-16s given up: %zd routes after %.0f s\n", impl->name, built,
				took);
			return false;
		}
	}
	result[BUILD_MS] = took * 1e3;
	result[MEMORY_MB] = (double)impl->memory(&table) / 1e6;
	uint64_t sums[4];
	result[RANDOM_SINGLE] = lookup_rate(impl->lookup, &table, random, &sums[0]);
	result[RANDOM_BULK] = lookup_rate(impl->lookup_bulk, &table, random, &sums[1]);
	result[ZIPF_SINGLE] = lookup_rate(impl->lookup, &table, zipf, &sums[2]);
	result[ZIPF_BULK] = lookup_rate(impl->lookup_bulk, &table, zipf, &sums[3]);
	check(expected, impl, sums[0], sums[2]);
	check(expected, impl, sums[1], sums[3]);
	result[FLAPS] = flap_rate(impl, &table, routes, n, impl->slow_updates ? 1 : 16);
	struct route wide = {.addr = {family_of_bench == AF_INET ? 10 : 0x24}, .len = 8, .id = 1};
	for (size_t i = 0; i < n; i++)
		if (routes[i].len == 8 && routes[i].addr[0] == wide.addr[0])
			wide = routes[i];
	impl->insert(&table, &wide);
	result[FLAPS_SHORT] = flap_rate(impl, &table, &wide, 1, 1);
	impl->destroy(&table);
	return true;
}

static void print_row(const char *name, const double values[N_FIGURES], const char *unit)
{
	printf("  %-16s", name);
	for (int i = 0; i < N_FIGURES; i++) {
		char text[24];
		snprintf(text, sizeof(text), "%.*f%s", values[i] < 100 ? 2 : 0, values[i], unit);
		printf(" %10s", text);
	}
	printf("\n");
	fflush(stdout);
}

static void compare(int family, size_t n, enum spread spread)
{
	static struct destinations random, zipf;
	double ours[N_FIGURES], theirs[N_FIGURES], ratio[N_FIGURES];
	struct expected expected = {0};

	family_of_bench = family;
	rng_state = SEED;
	struct route *routes = make_routes(n, spread);
	make_destinations(&random, routes, n, false);
	make_destinations(&zipf, routes, n, true);
	printf("\n%s, %zu routes%s\n  %-16s", family == AF_INET ? "IPv4" : "IPv6", n,
		family == AF_INET6  ? ""
		: spread == UNIFORM ? ", spread evenly"
				    : ", clustered",
		"");
	for (int i = 0; i < N_FIGURES; i++)
		printf(" %10s", figures[i].head);
	printf("\n");
	bool have_ours = false;
	for (size_t i = 0; i < sizeof(impls) / sizeof(impls[0]); i++) {
		if (impls[i].family != family)
			continue;
		double *into = have_ours ? theirs : ours;
		if (!measure(&impls[i], routes, n, &random, &zipf, &expected, into))
			continue;
		print_row(impls[i].name, into, "");
		if (!have_ours) {
			have_ours = true;
			continue;
		}
		for (int f = 0; f < N_FIGURES; f++)
			ratio[f] = figures[f].less_is_better ? theirs[f] / ours[f]
							     : ours[f] / theirs[f];
		print_row("  we are better", ratio, "x");
	}
	free(routes);
}

/* DPDK runs on huge pages where it can choose; here it gets those that the kernel hands out. */
static int use_huge_pages(const struct rte_memseg_list *list, void *arg)
{
	(void)arg;
	madvise(list->base_va, list->len, MADV_HUGEPAGE);
	return 0;
}

int main(int argc, char **argv)
{
	static char *eal_args[] = {"fib_bench", "--no-huge", "--no-pci", "--no-telemetry", "-m",
		"4096", "--no-shconf", "--log-level=3", "--force-max-simd-bitwidth=512", "-l", "0"};
	size_t most = argc > 1 ? strtoul(argv[1], NULL, 10) : 500000;

	if (rte_eal_init(sizeof(eal_args) / sizeof(eal_args[0]), eal_args) < 0) {
		fprintf(stderr, "fib_bench: the EAL can't be initialised: %s\n", strerror(errno));
		return 1;
	}
	rte_memseg_list_walk(use_huge_pages, NULL);
	printf("seed %u; look-ups in millions per second, %u destinations, bursts of %u for bulk;\n"
	       "random: uniform over routes; zipf: s = 1 over routes; the best of %d runs;\n"
	       "kupd/s: thousands of updates per second (a random route leaves and comes back);\n"
	       "\"/8\": the same route of length 8 each time. Ratios above 1: we are better.\n",
		SEED, N_DESTINATIONS, BURST, MEASURE_RUNS);
	for (size_t n = 1000; n <= most; n = n == 100000 ? 500000 : n * 10)
		compare(AF_INET, n, CLUSTERED);
	if (most >= 500000)
		compare(AF_INET, 500000, UNIFORM);
	for (size_t n = 1000; n <= most; n = n == 100000 ? 200000 : n == 200000 ? 500000 : n * 10)
		compare(AF_INET6, n, CLUSTERED);
	return 0;
}
