// SPDX-License-Identifier: GPL-2.0-or-later
/* libFuzzer target: any row of updates leaves the FIB and its oracle with the same answers. */

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dataplane/fib.h"
#include "dataplane/fib_oracle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool true_here)
{
	if (!true_here)
		abort();
}

struct walk {
	const struct oracle_entry *next;
	size_t left;
};

static bool compare(void *ctx, const uint8_t *addr, unsigned int len, uint32_t id)
{
	struct walk *walk = ctx;

	must(walk->left > 0);
	must(memcmp(addr, walk->next->addr, 16) == 0 && len == walk->next->len &&
		id == walk->next->id);
	walk->next++;
	walk->left--;
	return true;
}

/* The first byte is the family; then come updates: what to do, length, four bytes of the address.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	bool v6 = data[0] & 1;
	unsigned int addr_len = v6 ? 128 : 32;
	struct fib *fib = fib_create(v6 ? AF_INET6 : AF_INET, NULL);
	struct oracle *oracle = oracle_create(addr_len);
	size_t fresh = fib_memory(fib);

	for (size_t at = 1; at + 6 <= size; at += 6) {
		uint8_t addr[16] = {0};
		unsigned int len = data[at + 1] % (addr_len + 1);
		uint32_t old = 0, want = 0;
		memcpy(addr, data + at + 2, 4);
		memcpy(addr + 12, data + at + 2, 4);
		if (data[at] & 1) {
			must(fib_remove(fib, addr, len, &old) ==
				oracle_remove(oracle, addr, len, &want));
		} else {
			must(fib_insert(fib, addr, len, (uint32_t)at, &old) == 0);
			oracle_insert(oracle, addr, len, (uint32_t)at, &want);
		}
		must(old == want);
		must(fib_lookup(fib, addr) == oracle_lookup(oracle, addr));
		addr[data[at] / 2 % 16] ^= data[at];
		const void *addrs[] = {addr};
		fib_lookup_bulk(fib, addrs, &old, 1);
		must(old == oracle_lookup(oracle, addr));
	}
	struct oracle_entry *all = oracle_sorted(oracle);
	struct walk walk = {.next = all, .left = oracle_count(oracle)};
	must(fib_walk(fib, NULL, 0, compare, &walk) == 0 && walk.left == 0);
	for (size_t i = 0; i < oracle_count(oracle); i++)
		must(fib_remove(fib, all[i].addr, all[i].len, NULL) == 0);
	must(fib_memory(fib) == fresh);
	free(all);
	oracle_destroy(oracle);
	fib_destroy(fib);
	return 0;
}
