// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A tree bitmap (Eatherton, Varghese, Dittia, 2004) with strides of six bits, behind a directly
 * indexed table when there are many routes.
 *
 * Level i of the tree holds the prefixes of lengths 1+6i .. 6+6i, so that the lengths which are
 * common (/24, /48) are the last of their level: a node then holds many neighbours, and there is no
 * level below. A node is one block: two bitmaps, the handles of its children, the ids of its
 * prefixes. It never changes, but for the two kinds of slots that one atomic store can change (a
 * child's handle, a prefix's id); any other update makes a new node and stores its handle in the
 * parent. So an update touches one node, whatever the size of the table, and no reader sees half
 * of it. The prefix of length 0 stands beside the tree.
 *
 * The direct table holds, for every value of the first 1+6i bits, the node of level i and the id of
 * the longest prefix that is shorter: what a walk through the levels above would find. It can be
 * made from the tree at any time, and every update makes anew the entries it concerns.
 */

#include "dataplane/fib.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "dataplane/fib_arena.h"

#define STRIDE 6
#define MAX_LEVELS 22
#define MAX_NODE_SLOTS 127u /* 64 children, 63 prefixes */
#define DEFAULT_MAX_BYTES ((size_t)256 << 20)
#define LARGEST_MAX_BYTES \
	((size_t)4 << 30) /* handles of 32 bits reach further than four times it */
#define BULK_LANES 32u
#define PAGE 4096u

/* An address, its first bit on top. IPv4 uses the upper 32 bits. */
typedef unsigned __int128 addr_bits;

struct node {
	uint64_t prefixes;        /* see NODE_BIT(): a longer prefix has a lower bit */
	uint64_t children;        /* bit v: a child for the six bits v */
	_Atomic uint32_t slots[]; /* children's handles in order, then prefixes' ids in order */
};

static_assert(sizeof(struct node) + MAX_NODE_SLOTS * sizeof(uint32_t) <=
		      FIB_ARENA_MAX_UNITS * FIB_ARENA_UNIT,
	"a full node must fit in a block");

/* Upper half: handle of the node of `level`, or 0. Lower half: ~id, so that 0 is "nothing". */
typedef uint64_t direct_entry;

struct direct {
	_Atomic direct_entry *entries;
	unsigned int level;
	unsigned int steps;  /* from node to node, to take in any case */
	size_t map_bytes;    /* of addresses */
	uint64_t *touched;   /* pages that are in use, by bit; behind the entries */
	size_t bytes;        /* in use */
	uint64_t ticket;     /* when retired */
	struct direct *next; /* retired earlier */
};

/* Blocks wait for the readers in a queue of pages. */
#define RETIRED_PER_PAGE 255u
struct retired_page {
	fib_handle next;
	struct {
		uint64_t ticket;
		fib_handle node;
	} items[RETIRED_PER_PAGE];
};

static_assert(sizeof(struct retired_page) <= FIB_ARENA_PAGE, "it is allocated as a page");

struct fib {
	/* What look-ups read. */
	const uint8_t *base;           /* of the arena */
	struct direct *_Atomic direct; /* never NULL */
	_Atomic uint32_t default_id;   /* of the prefix of length 0 */
	unsigned int addr_len;         /* bits */
	struct direct least;           /* the direct table of a small table: of level 0 */
	_Atomic direct_entry least_entries[2];

	/* What only the writer uses: in other cache lines. */
	struct fib_arena arena __attribute__((aligned(64)));
	_Atomic fib_handle top[2]; /* the nodes of level 0 */
	struct fib_config config;
	_Atomic size_t count;
	_Atomic size_t memory;
	size_t direct_bytes;       /* retired ones included */
	struct direct *direct_old; /* retired, newest first */
	size_t direct_retry;       /* no memory for a larger one: try again from this count on */
	fib_handle queue_head, queue_tail;
	unsigned int queue_first, queue_end; /* first item in the head page, end in the tail page */
	size_t queue_len;
};

/* The number of routes from which on a direct table of that level pays; see docs/notes/fib.md. */
struct direct_step {
	size_t routes;
	unsigned int level;
};
static const struct direct_step steps_v4[] = {{256, 2}, {25000, 3}, {SIZE_MAX, 0}};
/* Real IPv6 prefixes begin in few ways, so that most of this table's pages are never touched. */
static const struct direct_step steps_v6[] = {{256, 3}, {SIZE_MAX, 0}};

/* ---- bits --------------------------------------------------------------------------------- */

/*
 * The bit in node.prefixes of the prefix that is `r` bits (r < 6) longer than the node's start:
 * those that begin the six bits `v`. Longer prefixes have lower bits, as the lowest bit of a word
 * is the one that is found without counting.
 */
#define NODE_BIT(r, v) (63 - (1u << (r)) - ((v) >> (STRIDE - (r))))

/* For six bits v: the bits of the prefixes that v begins with. */
#define UP(r, v) (1ull << NODE_BIT(r, v))
#define COVER(v) (UP(0, v) | UP(1, v) | UP(2, v) | UP(3, v) | UP(4, v) | UP(5, v))
#define COVER4(v) COVER(v), COVER((v) + 1), COVER((v) + 2), COVER((v) + 3)
#define COVER16(v) COVER4(v), COVER4((v) + 4), COVER4((v) + 8), COVER4((v) + 12)
static const uint64_t covering[64]
	__attribute__((aligned(64))) = {COVER16(0u), COVER16(16u), COVER16(32u), COVER16(48u)};

static unsigned int popcount(uint64_t bits)
{
	return (unsigned int)__builtin_popcountll(bits);
}

static uint64_t below(unsigned int bit)
{
	return (1ull << bit) - 1;
}

static unsigned int level_start(unsigned int level)
{
	return 1 + STRIDE * level;
}

static unsigned int level_of(unsigned int len)
{
	return (len - 1) / STRIDE;
}

/* The six bits of `addr` that choose a child at `level`. */
static unsigned int chunk(addr_bits addr, unsigned int level)
{
	return (unsigned int)((addr << level_start(level)) >> (128 - STRIDE));
}

static addr_bits mask(unsigned int len)
{
	return len == 0 ? 0 : ~(addr_bits)0 << (128 - len);
}

static addr_bits load_addr(const struct fib *fib, const void *addr)
{
	if (fib->addr_len == 32) {
		uint32_t word;
		memcpy(&word, addr, sizeof(word));
		return (addr_bits)__builtin_bswap32(word) << 96;
	}
	uint64_t words[2];
	memcpy(words, addr, sizeof(words));
	return (addr_bits)__builtin_bswap64(words[0]) << 64 | __builtin_bswap64(words[1]);
}

static void store_addr(addr_bits addr, uint8_t bytes[16])
{
	for (int i = 0; i < 16; i++)
		bytes[i] = (uint8_t)(addr >> (120 - 8 * i));
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "load_addr() swaps bytes");

/* ---- nodes -------------------------------------------------------------------------------- */

static struct node *node_at(const struct fib *fib, fib_handle handle)
{
	return fib_arena_at(&fib->arena, handle);
}

static _Atomic uint32_t *child_slot(struct node *node, unsigned int v)
{
	return &node->slots[popcount(node->children & below(v))];
}

static _Atomic uint32_t *prefix_slot(struct node *node, unsigned int bit)
{
	return &node->slots[popcount(node->children) + popcount(node->prefixes & below(bit))];
}

/* The slot of the longest prefix in `node` that holds an address with the six bits `v`, or NULL. */
static _Atomic uint32_t *longest_slot(struct node *node, unsigned int v)
{
	uint64_t match = node->prefixes & covering[v];

	return match ? prefix_slot(node, (unsigned int)__builtin_ctzll(match)) : NULL;
}

/* The bit in node.prefixes of `addr`/`len`, which belongs to `level`. */
static unsigned int prefix_bit(addr_bits addr, unsigned int len, unsigned int level)
{
	unsigned int r = len - level_start(level);

	return NODE_BIT(r, chunk(addr, level));
}

static uint32_t slot_get(_Atomic uint32_t *slot)
{
	return atomic_load_explicit(slot, memory_order_acquire);
}

/* For slots that no reader sees yet, or that only the writer may change. */
static uint32_t slot_peek(_Atomic uint32_t *slot)
{
	return atomic_load_explicit(slot, memory_order_relaxed);
}

static void slot_init(_Atomic uint32_t *slot, uint32_t value)
{
	atomic_store_explicit(slot, value, memory_order_relaxed);
}

static void slot_publish(_Atomic uint32_t *slot, uint32_t value)
{
	atomic_store_explicit(slot, value, memory_order_release);
}

static size_t node_bytes(uint64_t prefixes, uint64_t children)
{
	return sizeof(struct node) + (popcount(prefixes) + popcount(children)) * sizeof(uint32_t);
}

/*
 * Removals use memory beyond the limit: a full table must be able to shrink, and what they take
 * comes back as soon as the readers allow. The reservation is made for it.
 */
enum urgency { MAY_FAIL, BEYOND_LIMIT };

static fib_handle node_alloc(
	struct fib *fib, uint64_t prefixes, uint64_t children, enum urgency urgency)
{
	size_t bytes = node_bytes(prefixes, children);
	size_t limit = 2 * fib->config.max_bytes;

	if (urgency == MAY_FAIL) {
		limit = fib->config.max_bytes > fib->direct_bytes
				? fib->config.max_bytes - fib->direct_bytes
				: 0;
		if (fib->config.may_allocate && !fib->config.may_allocate(fib->config.ctx, bytes))
			return 0;
	}
	fib_handle handle = fib_arena_alloc(&fib->arena, bytes, limit);
	if (handle) {
		struct node *node = node_at(fib, handle);
		node->prefixes = prefixes;
		node->children = children;
	}
	return handle;
}

static void node_free(struct fib *fib, fib_handle handle)
{
	const struct node *node = node_at(fib, handle);

	fib_arena_free(&fib->arena, handle, node_bytes(node->prefixes, node->children));
}

static void copy_slots(_Atomic uint32_t *to, _Atomic uint32_t *from, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		slot_init(&to[i], slot_peek(&from[i]));
}

/* A copy of `old` with one more slot, at index `at`, of `value`. Returns 0 without memory. */
static fib_handle node_grow(struct fib *fib, struct node *old, uint64_t add_prefix,
	uint64_t add_child, unsigned int at, uint32_t value)
{
	unsigned int n = popcount(old->children) + popcount(old->prefixes);
	fib_handle handle =
		node_alloc(fib, old->prefixes | add_prefix, old->children | add_child, MAY_FAIL);

	if (handle) {
		struct node *node = node_at(fib, handle);
		copy_slots(node->slots, old->slots, at);
		slot_init(&node->slots[at], value);
		copy_slots(node->slots + at + 1, old->slots + at, n - at);
	}
	return handle;
}

/* A copy of `old` without the slot at index `at`. Returns 0 without memory. */
static fib_handle node_shrink(struct fib *fib, struct node *old, uint64_t drop_prefix,
	uint64_t drop_child, unsigned int at)
{
	unsigned int n = popcount(old->children) + popcount(old->prefixes);
	fib_handle handle = node_alloc(
		fib, old->prefixes & ~drop_prefix, old->children & ~drop_child, BEYOND_LIMIT);

	if (handle) {
		struct node *node = node_at(fib, handle);
		copy_slots(node->slots, old->slots, at);
		copy_slots(node->slots + at, old->slots + at + 1, n - at - 1);
	}
	return handle;
}

/* ---- what waits for the readers ------------------------------------------------------------- */

static void update_memory(struct fib *fib)
{
	atomic_store_explicit(&fib->memory,
		sizeof(*fib) + fib_arena_bytes(&fib->arena) + fib->direct_bytes,
		memory_order_relaxed);
}

static void queue_push(struct fib *fib, uint64_t ticket, fib_handle node)
{
	if (fib->queue_len == 0 || fib->queue_end == RETIRED_PER_PAGE) {
		fib_handle page = fib_arena_page_alloc(&fib->arena);
		/* Nodes get half of the reservation, and an item is smaller than a node. */
		assert(page);
		((struct retired_page *)fib_arena_at(&fib->arena, page))->next = 0;
		if (fib->queue_len == 0) {
			fib->queue_head = page;
			fib->queue_first = 0;
		} else {
			struct retired_page *tail = fib_arena_at(&fib->arena, fib->queue_tail);
			tail->next = page;
		}
		fib->queue_tail = page;
		fib->queue_end = 0;
	}
	struct retired_page *tail = fib_arena_at(&fib->arena, fib->queue_tail);
	tail->items[fib->queue_end].ticket = ticket;
	tail->items[fib->queue_end].node = node;
	fib->queue_end++;
	fib->queue_len++;
}

static void queue_pop(struct fib *fib)
{
	struct retired_page *head = fib_arena_at(&fib->arena, fib->queue_head);

	fib->queue_first++;
	fib->queue_len--;
	if (fib->queue_len == 0 || fib->queue_first == RETIRED_PER_PAGE) {
		fib_handle next = head->next;
		fib_arena_page_free(&fib->arena, fib->queue_head);
		fib->queue_head = next;
		fib->queue_first = 0;
	}
}

static void reclaim_nodes(struct fib *fib)
{
	uint64_t passed = 0; /* the last ticket known to have passed */

	while (fib->queue_len > 0) {
		const struct retired_page *head = fib_arena_at(&fib->arena, fib->queue_head);
		uint64_t ticket = head->items[fib->queue_first].ticket;
		if (ticket > passed) {
			if (!fib_domain_passed(fib->config.domain, ticket))
				return;
			passed = ticket;
		}
		node_free(fib, head->items[fib->queue_first].node);
		queue_pop(fib);
	}
}

static void direct_free(struct fib *fib, struct direct *direct)
{
	fib->direct_bytes -= direct->bytes;
	munmap((void *)direct->entries, direct->map_bytes);
}

static void reclaim_direct(struct fib *fib)
{
	struct direct **link = &fib->direct_old;

	while (*link) {
		struct direct *direct = *link;
		if (fib_domain_passed(fib->config.domain, direct->ticket)) {
			*link = direct->next;
			direct_free(fib, direct);
		} else {
			link = &direct->next;
		}
	}
}

size_t fib_reclaim(struct fib *fib)
{
	size_t waiting = 0;

	reclaim_nodes(fib);
	reclaim_direct(fib);
	for (const struct direct *direct = fib->direct_old; direct; direct = direct->next)
		waiting++;
	update_memory(fib);
	return waiting + fib->queue_len;
}

/* The nodes have been unlinked from the tree. */
static void retire_nodes(struct fib *fib, const fib_handle nodes[], unsigned int n)
{
	struct fib_domain *domain = fib->config.domain;
	uint64_t ticket = domain && n > 0 ? fib_domain_ticket(domain) : 0;
	bool free_now = !domain || fib_domain_passed(domain, ticket);

	for (unsigned int i = 0; i < n; i++) {
		if (free_now)
			node_free(fib, nodes[i]);
		else
			queue_push(fib, ticket, nodes[i]);
	}
}

static void direct_retire(struct fib *fib, struct direct *direct)
{
	if (!fib->config.domain) {
		direct_free(fib, direct);
		return;
	}
	direct->ticket = fib_domain_ticket(fib->config.domain);
	direct->next = fib->direct_old;
	fib->direct_old = direct;
}

/* ---- the direct table ------------------------------------------------------------------------ */

static struct direct *direct_get(const struct fib *fib)
{
	return atomic_load_explicit(&fib->direct, memory_order_acquire);
}

static void direct_set(
	struct fib *fib, struct direct *direct, size_t index, fib_handle node, uint32_t id)
{
	direct_entry entry = (direct_entry)node << 32 | (uint32_t)~id;
	_Atomic direct_entry *slot = &direct->entries[index];

	/* Not storing what is there already leaves untouched pages without memory. */
	if (atomic_load_explicit(slot, memory_order_relaxed) == entry)
		return;
	atomic_store_explicit(slot, entry, memory_order_release);
	if (!direct->touched)
		return;
	size_t page = index * sizeof(entry) / PAGE;
	if (!(direct->touched[page / 64] >> page % 64 & 1)) {
		direct->touched[page / 64] |= 1ull << page % 64;
		direct->bytes += PAGE;
		fib->direct_bytes += PAGE;
	}
}

/* Was anything ever stored in the page of this entry? */
static bool direct_used(const struct direct *direct, size_t index)
{
	size_t page = index * sizeof(direct_entry) / PAGE;

	return direct->touched[page / 64] >> page % 64 & 1;
}

/*
 * Makes the entries from `first` on anew, which share all levels above the direct table's: at most
 * 64, from one node.
 */
static void direct_fill_group(struct fib *fib, struct direct *direct, size_t first, size_t n)
{
	if (direct->level == 0) {
		for (size_t i = first; i < first + n; i++)
			direct_set(fib, direct, i, slot_peek(&fib->top[i]), FIB_NO_ROUTE);
		return;
	}
	addr_bits addr = (addr_bits)first << (128 - level_start(direct->level));
	uint32_t id = FIB_NO_ROUTE;
	struct node *node = NULL;
	fib_handle handle = slot_peek(&fib->top[addr >> 127]);

	for (unsigned int level = 0; handle; level++) {
		node = node_at(fib, handle);
		if (level == direct->level - 1)
			break;
		unsigned int v = chunk(addr, level);
		_Atomic uint32_t *longest = longest_slot(node, v);
		if (longest)
			id = slot_peek(longest);
		handle = node->children >> v & 1 ? slot_peek(child_slot(node, v)) : 0;
	}
	if (!handle && id == FIB_NO_ROUTE && !direct_used(direct, first))
		return;
	unsigned int v = first % 64;
	for (size_t i = 0; i < n; i++, v++) {
		uint32_t entry_id = id;
		fib_handle child = 0;
		if (handle) {
			_Atomic uint32_t *longest = longest_slot(node, v);
			if (longest)
				entry_id = slot_peek(longest);
			if (node->children >> v & 1)
				child = slot_peek(child_slot(node, v));
		}
		direct_set(fib, direct, first + i, child, entry_id);
	}
}

static void direct_fill(struct fib *fib, struct direct *direct, size_t first, size_t n)
{
	while (n > 0) {
		size_t group = 64 - first % 64;
		if (group > n)
			group = n;
		direct_fill_group(fib, direct, first, group);
		first += group;
		n -= group;
	}
}

/* `addr`/`len` was added, removed or has another id. */
static void direct_update(struct fib *fib, addr_bits addr, unsigned int len)
{
	struct direct *direct = direct_get(fib);
	unsigned int start = level_start(direct->level);
	size_t first = (size_t)((addr & mask(len)) >> (128 - start));
	direct_fill(fib, direct, first, len < start ? (size_t)1 << (start - len) : 1);
}

/* The nodes that most look-ups have to go through: up to those of /24 and of /48. */
static unsigned int steps_from(const struct fib *fib, unsigned int level)
{
	return level_of(fib->addr_len == 32 ? 24 : 48) + 1 - level;
}

/* NULL without memory. */
static struct direct *direct_create(struct fib *fib, unsigned int level)
{
	size_t n = (size_t)1 << level_start(level);
	size_t entries_bytes = n * sizeof(direct_entry); /* whole pages */
	size_t n_pages = entries_bytes / PAGE;
	size_t meta_bytes = sizeof(struct direct) + (n_pages + 63) / 64 * sizeof(uint64_t);
	size_t taken = fib_arena_bytes(&fib->arena) + fib->direct_bytes;

	if (taken > fib->config.max_bytes || entries_bytes + PAGE > fib->config.max_bytes - taken)
		return NULL;
	if (fib->config.may_allocate && !fib->config.may_allocate(fib->config.ctx, entries_bytes))
		return NULL;
	uint8_t *map = mmap(NULL, entries_bytes + PAGE, PROT_READ | PROT_WRITE,
		// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return NULL;
	assert(meta_bytes <= PAGE);
	struct direct *direct = (struct direct *)(map + entries_bytes);
	*direct = (struct direct){
		.entries = (_Atomic direct_entry *)map,
		.level = level,
		.steps = steps_from(fib, level),
		.map_bytes = entries_bytes + PAGE,
		.touched = (uint64_t *)(direct + 1),
		.bytes = PAGE,
	};
	fib->direct_bytes += direct->bytes;
	direct_fill(fib, direct, 0, n);
	return direct;
}

/*
 * Gives the table the direct table that its size deserves. One that can't be had is no failure:
 * look-ups are only slower.
 */
static void direct_adapt(struct fib *fib)
{
	size_t count = fib_count(fib);
	struct direct *old = direct_get(fib);
	unsigned int have = old->level, want = 0;

	const struct direct_step *s = fib->addr_len == 32 ? steps_v4 : steps_v6;
	for (; s->level > 0; s++) {
		/* It is kept until the table has shrunk to half, lest it come and go. */
		if (count >= (have >= s->level ? s->routes / 2 : s->routes))
			want = s->level;
	}
	if (want == have || (want > have && count < fib->direct_retry))
		return;
	struct direct *direct = want > 0 ? direct_create(fib, want) : NULL;
	fib->direct_retry = direct || want == 0 ? 0 : count + count / 4;
	if (!direct) {
		if (want > have)
			return;
		direct = &fib->least;
		direct_fill(fib, direct, 0, 2);
	}
	atomic_store_explicit(&fib->direct, direct, memory_order_release);
	if (old != &fib->least)
		direct_retire(fib, old);
}

/* ---- the table ------------------------------------------------------------------------------- */

struct fib *fib_create(int family, const struct fib_config *config)
{
	if (family != AF_INET && family != AF_INET6) {
		errno = EAFNOSUPPORT;
		return NULL;
	}
	struct fib *fib = aligned_alloc(_Alignof(struct fib), sizeof(*fib));
	if (!fib)
		return NULL;
	memset(fib, 0, sizeof(*fib));
	if (config)
		fib->config = *config;
	if (fib->config.max_bytes == 0)
		fib->config.max_bytes = DEFAULT_MAX_BYTES;
	if (fib->config.max_bytes > LARGEST_MAX_BYTES)
		fib->config.max_bytes = LARGEST_MAX_BYTES;
	/* Once for the limit, once for removals beyond it, and as much for the queue. */
	int error = fib_arena_init(&fib->arena, 4 * fib->config.max_bytes);
	if (error) {
		free(fib);
		errno = error;
		return NULL;
	}
	fib->addr_len = family == AF_INET ? 32 : 128;
	fib->base = fib->arena.base;
	slot_init(&fib->default_id, FIB_NO_ROUTE);
	fib->least.entries = fib->least_entries;
	fib->least.steps = steps_from(fib, 0);
	atomic_init(&fib->direct, &fib->least);
	update_memory(fib);
	return fib;
}

void fib_destroy(struct fib *fib)
{
	if (!fib)
		return;
	for (struct direct *direct = fib->direct_old; direct;) {
		struct direct *next = direct->next;
		direct_free(fib, direct);
		direct = next;
	}
	if (direct_get(fib) != &fib->least)
		direct_free(fib, direct_get(fib));
	fib_arena_fini(&fib->arena);
	free(fib);
}

size_t fib_count(const struct fib *fib)
{
	return atomic_load_explicit(&fib->count, memory_order_relaxed);
}

size_t fib_memory(const struct fib *fib)
{
	return atomic_load_explicit(&fib->memory, memory_order_relaxed);
}

static void add_count(struct fib *fib, int n)
{
	size_t count = atomic_load_explicit(&fib->count, memory_order_relaxed);

	atomic_store_explicit(&fib->count, count + (size_t)n, memory_order_relaxed);
}

static fib_handle top_get(const struct fib *fib, unsigned int bit)
{
	return atomic_load_explicit(&fib->top[bit], memory_order_acquire);
}

static uint32_t default_get(const struct fib *fib)
{
	return atomic_load_explicit(&fib->default_id, memory_order_acquire);
}

/* The way from the top to the level of a prefix, as far as it exists. */
struct path {
	unsigned int level;   /* of the prefix */
	unsigned int n_nodes; /* found: level + 1 if the prefix's own node exists */
	fib_handle nodes[MAX_LEVELS];
	_Atomic uint32_t *slots[MAX_LEVELS + 1]; /* where nodes[i] hangs; NULL: no slot yet */
};

static void find_path(struct fib *fib, addr_bits addr, unsigned int len, struct path *path)
{
	path->level = level_of(len);
	path->n_nodes = 0;
	path->slots[0] = &fib->top[addr >> 127];
	for (unsigned int level = 0; level <= path->level; level++) {
		if (!path->slots[level])
			return;
		fib_handle handle = slot_peek(path->slots[level]);
		if (!handle)
			return;
		path->nodes[level] = handle;
		path->n_nodes = level + 1;
		struct node *node = node_at(fib, handle);
		unsigned int v = chunk(addr, level);
		path->slots[level + 1] = node->children >> v & 1 ? child_slot(node, v) : NULL;
	}
}

/* Where the id of the prefix stands at the end of its path, or NULL if it isn't in the table. */
static _Atomic uint32_t *path_prefix_slot(
	struct fib *fib, addr_bits addr, unsigned int len, const struct path *path)
{
	if (path->n_nodes <= path->level)
		return NULL;
	struct node *node = node_at(fib, path->nodes[path->level]);
	unsigned int bit = prefix_bit(addr, len, path->level);
	return node->prefixes >> bit & 1 ? prefix_slot(node, bit) : NULL;
}

/* Frees nodes that nobody has seen, each of which has at most one child. */
static void branch_free(struct fib *fib, fib_handle branch)
{
	while (branch) {
		struct node *node = node_at(fib, branch);
		fib_handle child = node->children ? slot_peek(&node->slots[0]) : 0;
		node_free(fib, branch);
		branch = child;
	}
}

/* Nodes from level `from` down, which lead to this one prefix. Returns 0 without memory. */
static fib_handle branch_create(
	struct fib *fib, addr_bits addr, unsigned int len, unsigned int from, uint32_t id)
{
	unsigned int level = level_of(len);
	fib_handle branch = node_alloc(fib, 1ull << prefix_bit(addr, len, level), 0, MAY_FAIL);

	if (!branch)
		return 0;
	slot_init(&node_at(fib, branch)->slots[0], id);
	while (level > from) {
		level--;
		fib_handle parent = node_alloc(fib, 0, 1ull << chunk(addr, level), MAY_FAIL);
		if (!parent) {
			branch_free(fib, branch);
			return 0;
		}
		slot_init(&node_at(fib, parent)->slots[0], branch);
		branch = parent;
	}
	return branch;
}

/* Adds a prefix that isn't there. Returns 0 or ENOMEM. */
static int add_prefix(
	struct fib *fib, addr_bits addr, unsigned int len, uint32_t id, const struct path *path)
{
	bool own_node = path->n_nodes == path->level + 1;
	fib_handle branch = 0, grown;

	if (!own_node) {
		branch = branch_create(fib, addr, len, path->n_nodes, id);
		if (!branch)
			return ENOMEM;
		if (path->n_nodes == 0) {
			slot_publish(path->slots[0], branch);
			return 0;
		}
	}
	unsigned int last = path->n_nodes - 1;
	struct node *node = node_at(fib, path->nodes[last]);
	if (own_node) {
		unsigned int bit = prefix_bit(addr, len, last);
		unsigned int at = (unsigned int)(prefix_slot(node, bit) - node->slots);
		grown = node_grow(fib, node, 1ull << bit, 0, at, id);
	} else {
		unsigned int v = chunk(addr, last);
		unsigned int at = (unsigned int)(child_slot(node, v) - node->slots);
		grown = node_grow(fib, node, 0, 1ull << v, at, branch);
	}
	if (!grown) {
		branch_free(fib, branch);
		return ENOMEM;
	}
	slot_publish(path->slots[last], grown);
	return 0;
}

int fib_insert(struct fib *fib, const void *addr, unsigned int len, uint32_t id, uint32_t *old)
{
	if (len > fib->addr_len || id == FIB_NO_ROUTE)
		return EINVAL;

	addr_bits bits = load_addr(fib, addr) & mask(len);
	uint32_t old_id = FIB_NO_ROUTE;
	if (len == 0) {
		old_id = slot_peek(&fib->default_id);
		slot_publish(&fib->default_id, id);
	} else {
		struct path path;
		find_path(fib, bits, len, &path);
		_Atomic uint32_t *slot = path_prefix_slot(fib, bits, len, &path);
		if (slot) {
			old_id = slot_peek(slot);
			slot_publish(slot, id);
			direct_update(fib, bits, len);
		} else {
			int error = add_prefix(fib, bits, len, id, &path);
			if (error) {
				/* What waits for readers may be the memory that lacks. */
				fib_reclaim(fib);
				return error;
			}
			direct_update(fib, bits, len);
			if (path.n_nodes > 0)
				retire_nodes(fib, &path.nodes[path.n_nodes - 1], 1);
		}
	}
	if (old_id == FIB_NO_ROUTE) {
		add_count(fib, 1);
		direct_adapt(fib);
	}
	fib_reclaim(fib);
	if (old)
		*old = old_id;
	return 0;
}

/* Takes away a prefix that is there, and the nodes that hold nothing without it. 0 or ENOMEM. */
static int drop_prefix(struct fib *fib, addr_bits addr, unsigned int len, struct path *path)
{
	unsigned int level = path->level;
	struct node *node = node_at(fib, path->nodes[level]);
	unsigned int n_slots = popcount(node->prefixes) + popcount(node->children);
	uint64_t drop_prefix = 1ull << prefix_bit(addr, len, level), drop_child = 0;
	_Atomic uint32_t *slot = prefix_slot(node, prefix_bit(addr, len, level));

	while (n_slots == 1 && level > 0) {
		slot = path->slots[level];
		level--;
		node = node_at(fib, path->nodes[level]);
		n_slots = popcount(node->prefixes) + popcount(node->children);
		drop_prefix = 0;
		drop_child = 1ull << chunk(addr, level);
	}
	fib_handle rest = 0;
	if (n_slots > 1) {
		unsigned int at = (unsigned int)(slot - node->slots);
		rest = node_shrink(fib, node, drop_prefix, drop_child, at);
		if (!rest)
			return ENOMEM;
	}
	slot_publish(path->slots[level], rest);
	direct_update(fib, addr, len);
	retire_nodes(fib, &path->nodes[level], path->n_nodes - level);
	return 0;
}

int fib_remove(struct fib *fib, const void *addr, unsigned int len, uint32_t *old)
{
	if (len > fib->addr_len)
		return EINVAL;

	addr_bits bits = load_addr(fib, addr) & mask(len);
	uint32_t old_id;
	if (len == 0) {
		old_id = slot_peek(&fib->default_id);
		if (old_id == FIB_NO_ROUTE)
			return ENOENT;
		slot_publish(&fib->default_id, FIB_NO_ROUTE);
	} else {
		struct path path;
		find_path(fib, bits, len, &path);
		_Atomic uint32_t *slot = path_prefix_slot(fib, bits, len, &path);
		if (!slot)
			return ENOENT;
		old_id = slot_peek(slot);
		int error = drop_prefix(fib, bits, len, &path);
		if (error) {
			fib_reclaim(fib);
			return error;
		}
	}
	add_count(fib, -1);
	direct_adapt(fib);
	fib_reclaim(fib);
	if (old)
		*old = old_id;
	return 0;
}

int fib_get(const struct fib *fib, const void *addr, unsigned int len, uint32_t *id)
{
	if (len > fib->addr_len)
		return EINVAL;

	addr_bits bits = load_addr(fib, addr) & mask(len);
	uint32_t found = FIB_NO_ROUTE;
	if (len == 0) {
		found = default_get(fib);
	} else {
		fib_handle handle = top_get(fib, bits >> 127);
		unsigned int level = 0;
		while (handle && level < level_of(len)) {
			struct node *node = node_at(fib, handle);
			unsigned int v = chunk(bits, level++);
			handle = node->children >> v & 1 ? slot_get(child_slot(node, v)) : 0;
		}
		if (handle) {
			struct node *node = node_at(fib, handle);
			unsigned int bit = prefix_bit(bits, len, level);
			if (node->prefixes >> bit & 1)
				found = slot_get(prefix_slot(node, bit));
		}
	}
	if (found == FIB_NO_ROUTE)
		return ENOENT;
	*id = found;
	return 0;
}

/* ---- look-up --------------------------------------------------------------------------------- */

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* What of an address is still to be matched, on top. IPv4 leaves `lo` alone. */
struct key {
	uint64_t hi, lo;
};

/* `v6` is a constant wherever these are used, so that each family gets its own code. */
static ALWAYS_INLINE struct key key_load(const void *addr, bool v6)
{
	struct key key = {0, 0};

	if (v6) {
		memcpy(&key, addr, sizeof(key));
		key.hi = __builtin_bswap64(key.hi);
		key.lo = __builtin_bswap64(key.lo);
	} else {
		uint32_t word;
		memcpy(&word, addr, sizeof(word));
		key.hi = (uint64_t)__builtin_bswap32(word) << 32;
	}
	return key;
}

/* Takes the first `n` bits (0 < n < 64) off. */
static ALWAYS_INLINE unsigned int key_take(struct key *key, unsigned int n, bool v6)
{
	unsigned int bits = (unsigned int)(key->hi >> (64 - n));

	key->hi <<= n;
	if (v6) {
		key->hi |= key->lo >> (64 - n);
		key->lo <<= n;
	}
	return bits;
}

static ALWAYS_INLINE const _Atomic direct_entry *direct_at(
	const struct direct *direct, const struct key *key)
{
	return &direct->entries[key->hi >> (64 - level_start(direct->level))];
}

/*
 * One node for a look-up that goes on with the six bits `v`: returns the child's handle or 0, and
 * sets `*longest` to the slot of the longest match if there is one. Handle 0 is a node too, one
 * without prefixes or children, as page 0 of the arena is all zeros. No branches: whether there is
 * a match or a child is as good as random, and a wrong guess costs more than all the rest.
 */
static ALWAYS_INLINE fib_handle step(
	const uint8_t *base, fib_handle handle, unsigned int v, const _Atomic uint32_t **longest)
{
	const struct node *node = (const struct node *)(base + (size_t)handle * FIB_ARENA_UNIT);
	uint64_t match = node->prefixes & covering[v];
	unsigned int n_children = popcount(node->children);
	unsigned int rank = popcount(node->prefixes & ((match & -match) - 1));
	const _Atomic uint32_t *slot = &node->slots[n_children + rank];
	uintptr_t found = -(uintptr_t)(match != 0);

	*longest = (const _Atomic uint32_t *)(((uintptr_t)slot & found) |
					      ((uintptr_t)*longest & ~found));

	/* Without a child the first slot is read, which every node has, for nothing. */
	uint32_t child = -(uint32_t)(node->children >> v & 1);
	unsigned int at = popcount(node->children & below(v)) & child;
	return atomic_load_explicit(&node->slots[at], memory_order_acquire) & child;
}

static ALWAYS_INLINE uint32_t lookup_one(const struct fib *fib, const void *addr, bool v6)
{
	const struct direct *direct = direct_get(fib);
	const uint8_t *base = fib->base;
	struct key key = key_load(addr, v6);
	direct_entry entry = atomic_load_explicit(direct_at(direct, &key), memory_order_acquire);
	const _Atomic uint32_t *longest = NULL;

	key_take(&key, level_start(direct->level), v6);
	fib_handle handle = (fib_handle)(entry >> 32);
	for (unsigned int i = 0; i < direct->steps; i++)
		handle = step(base, handle, key_take(&key, STRIDE, v6), &longest);
	while (handle)
		handle = step(base, handle, key_take(&key, STRIDE, v6), &longest);
	uint32_t id =
		longest ? atomic_load_explicit(longest, memory_order_acquire) : ~(uint32_t)entry;
	return id != FIB_NO_ROUTE ? id : default_get(fib);
}

uint32_t fib_lookup(const struct fib *fib, const void *addr)
{
	return fib->addr_len == 32 ? lookup_one(fib, addr, false) : lookup_one(fib, addr, true);
}

/* All lanes take a step in turn, and fetch what they need for their next. */
static ALWAYS_INLINE void lookup_lanes(
	const struct fib *fib, const void *const addrs[], uint32_t ids[], unsigned int n, bool v6)
{
	const struct direct *direct = direct_get(fib);
	const uint8_t *base = fib->base;
	struct key keys[BULK_LANES];
	fib_handle handles[BULK_LANES];
	const _Atomic uint32_t *longest[BULK_LANES];
	uint8_t deep[BULK_LANES];
	unsigned int n_deep = 0;

	for (unsigned int i = 0; i < n; i++) {
		keys[i] = key_load(addrs[i], v6);
		__builtin_prefetch((const void *)direct_at(direct, &keys[i]));
	}
	for (unsigned int i = 0; i < n; i++) {
		direct_entry entry =
			atomic_load_explicit(direct_at(direct, &keys[i]), memory_order_acquire);
		key_take(&keys[i], level_start(direct->level), v6);
		handles[i] = (fib_handle)(entry >> 32);
		__builtin_prefetch(base + (size_t)handles[i] * FIB_ARENA_UNIT);
		ids[i] = ~(uint32_t)entry;
		longest[i] = NULL;
	}
	for (unsigned int s = 0; s < direct->steps; s++) {
		for (unsigned int i = 0; i < n; i++) {
			handles[i] =
				step(base, handles[i], key_take(&keys[i], STRIDE, v6), &longest[i]);
			__builtin_prefetch(base + (size_t)handles[i] * FIB_ARENA_UNIT);
		}
	}
	for (unsigned int i = 0; i < n; i++) {
		deep[n_deep] = (uint8_t)i;
		n_deep += handles[i] != 0;
	}
	while (n_deep > 0) {
		unsigned int still = 0;
		for (unsigned int j = 0; j < n_deep; j++) {
			unsigned int i = deep[j];
			handles[i] =
				step(base, handles[i], key_take(&keys[i], STRIDE, v6), &longest[i]);
			__builtin_prefetch(base + (size_t)handles[i] * FIB_ARENA_UNIT);
			deep[still] = (uint8_t)i;
			still += handles[i] != 0;
		}
		n_deep = still;
	}
	for (unsigned int i = 0; i < n; i++) {
		if (longest[i])
			ids[i] = atomic_load_explicit(longest[i], memory_order_acquire);
		if (ids[i] == FIB_NO_ROUTE)
			ids[i] = default_get(fib);
	}
}

void fib_lookup_bulk(
	const struct fib *fib, const void *const addrs[], uint32_t ids[], unsigned int n)
{
	while (n > 0) {
		unsigned int lanes = n < BULK_LANES ? n : BULK_LANES;
		if (fib->addr_len == 32)
			lookup_lanes(fib, addrs, ids, lanes, false);
		else
			lookup_lanes(fib, addrs, ids, lanes, true);
		addrs += lanes;
		ids += lanes;
		n -= lanes;
	}
}

/* ---- walk ------------------------------------------------------------------------------------ */

struct walk {
	const struct fib *fib;
	addr_bits after;
	unsigned int after_len;
	fib_walk_cb cb;
	void *ctx;
};

/* Returns false to stop. */
static bool walk_prefix(struct walk *walk, addr_bits addr, unsigned int len, uint32_t id)
{
	uint8_t bytes[16];

	if (addr < walk->after || (addr == walk->after && len <= walk->after_len))
		return true;
	store_addr(addr, bytes);
	return walk->cb(walk->ctx, bytes, len, id);
}

/* The values v at which a prefix of the node begins. */
static uint64_t prefix_starts(uint64_t prefixes)
{
	uint64_t starts = 0;

	for (; prefixes; prefixes &= prefixes - 1) {
		unsigned int heap = 63 - (unsigned int)__builtin_ctzll(prefixes); /* 2^r + value */
		unsigned int r = 31 - (unsigned int)__builtin_clz(heap);
		starts |= 1ull << ((heap - (1u << r)) << (STRIDE - r));
	}
	return starts;
}

/* The node of `level` for the addresses that begin as `addr` does. Returns false to stop. */
static bool walk_node(struct walk *walk, fib_handle handle, addr_bits addr, unsigned int level)
{
	struct node *node = node_at(walk->fib, handle);
	unsigned int start = level_start(level);
	uint64_t todo = node->children | prefix_starts(node->prefixes);

	for (; todo; todo &= todo - 1) {
		unsigned int v = (unsigned int)__builtin_ctzll(todo);
		addr_bits at = addr | ((addr_bits)v << (128 - STRIDE)) >> start;
		for (unsigned int r = 0; r < STRIDE; r++) {
			if (v & below(STRIDE - r))
				continue;
			unsigned int bit = NODE_BIT(r, v);
			if (!(node->prefixes >> bit & 1))
				continue;
			if (!walk_prefix(walk, at, start + r, slot_peek(prefix_slot(node, bit))))
				return false;
		}
		if (!(node->children >> v & 1) || (at | ~mask(start + STRIDE)) < walk->after)
			continue;
		if (!walk_node(walk, slot_peek(child_slot(node, v)), at, level + 1))
			return false;
	}
	return true;
}

int fib_walk(const struct fib *fib, const void *addr, unsigned int len, fib_walk_cb cb, void *ctx)
{
	struct walk walk = {.fib = fib, .cb = cb, .ctx = ctx};

	if (addr) {
		if (len > fib->addr_len)
			return EINVAL;
		walk.after = load_addr(fib, addr) & mask(len);
		walk.after_len = len;
	} else if (default_get(fib) != FIB_NO_ROUTE) {
		uint8_t zero[16] = {0};
		if (!cb(ctx, zero, 0, default_get(fib)))
			return 0;
	}
	for (unsigned int top = 0; top < 2; top++) {
		fib_handle handle = top_get(fib, top);
		addr_bits first = (addr_bits)top << 127;
		if (handle && (first | ~mask(1)) >= walk.after &&
			!walk_node(&walk, handle, first, 0))
			break;
	}
	return 0;
}
