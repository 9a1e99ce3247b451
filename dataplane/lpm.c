/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node covers six lengths of prefix: `internal` has one bit for each of the 63 prefixes that can
 * end in it (heap order: the longer, the higher), `external` one for each of its 64 children.
 * Behind them lie the children's indices, then the values, without gaps. The first node is
 * selected by the first bit of the address, so that nodes end at lengths 6, 12, 18, 24, ... 48:
 * where most prefixes are.
 */
#include "dataplane/lpm.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dataplane/epoch.h"

#define STRIDE 6
#define MAX_LEVELS 22
#define MAX_UNITS 66
#define ARENA_BYTES (512ul << 20) /* address space only: pages are taken when used */

typedef unsigned __int128 u128;
typedef _Atomic uint32_t word;

struct node {
	uint64_t internal;
	uint64_t external;
	word words[];
};

struct retired {
	uint64_t stamp;
	uint32_t node;
	uint32_t units;
};

struct lpm {
	word roots[2]; /* by the first bit of the address */
	word default_value;
	unsigned bits;
	size_t count;
	struct epoch *epoch;

	/* Arena: nodes are known by their offset in units of 8 bytes; 0 is none. */
	uint64_t *base;
	uint32_t top;
	size_t used_units;
	uint32_t free_lists[MAX_UNITS + 1];

	/* Ring of nodes that the reader may still be looking at. */
	struct retired *retired;
	size_t retired_first, retired_n, retired_size;
};

/* For each slot, the bits of `internal` whose prefixes hold it. */
static uint64_t ancestors[64];

__attribute__((constructor)) static void fill_ancestors(void)
{
	for (unsigned slot = 0; slot < 64; slot++) {
		for (unsigned len = 0; len < STRIDE; len++)
			ancestors[slot] |= 1ull << ((1u << len) - 1 + (slot >> (STRIDE - len)));
	}
}

static inline unsigned popcount(uint64_t x)
{
	return (unsigned)__builtin_popcountll(x);
}

static inline uint64_t below(unsigned bit)
{
	return (1ull << bit) - 1;
}

static inline struct node *node_at(const struct lpm *lpm, uint32_t index)
{
	return (struct node *)(lpm->base + index);
}

static inline word *child_word(struct node *node, unsigned slot)
{
	return &node->words[popcount(node->external & below(slot))];
}

static inline word *value_word(struct node *node, unsigned bit)
{
	return &node->words[popcount(node->external) + popcount(node->internal & below(bit))];
}

static inline u128 load_key(const struct lpm *lpm, const void *addr)
{
	uint64_t high, low;
	uint32_t v4;

	if (lpm->bits == 32) {
		memcpy(&v4, addr, sizeof(v4));
		return (u128)__builtin_bswap32(v4) << 96;
	}
	memcpy(&high, addr, sizeof(high));
	memcpy(&low, (const char *)addr + sizeof(high), sizeof(low));
	return (u128)__builtin_bswap64(high) << 64 | __builtin_bswap64(low);
}

static void store_key(const struct lpm *lpm, u128 key, uint8_t *addr)
{
	for (unsigned i = 0; i < lpm->bits / 8; i++)
		addr[i] = (uint8_t)(key >> (120 - 8 * i));
}

/* ---- memory ------------------------------------------------------------------------------ */

static uint32_t node_units(uint64_t internal, uint64_t external)
{
	return 2 + (popcount(internal) + popcount(external) + 1) / 2;
}

static void node_free(struct lpm *lpm, uint32_t index, uint32_t units)
{
	lpm->base[index] = lpm->free_lists[units];
	lpm->free_lists[units] = index;
	lpm->used_units -= units;
}

static void reclaim(struct lpm *lpm)
{
	while (lpm->retired_n > 0) {
		struct retired *r = &lpm->retired[lpm->retired_first];

		if (!epoch_passed(lpm->epoch, r->stamp))
			return;
		node_free(lpm, r->node, r->units);
		lpm->retired_first = (lpm->retired_first + 1) % lpm->retired_size;
		lpm->retired_n--;
	}
}

/* Makes room to retire `n` more nodes, so that retiring can't fail half way. */
static bool reserve_retired(struct lpm *lpm, size_t n)
{
	struct retired *ring;
	size_t size = lpm->retired_size ? lpm->retired_size : 256;

	reclaim(lpm);
	if (lpm->retired_n + n <= lpm->retired_size)
		return true;
	while (size < lpm->retired_n + n)
		size *= 2;
	ring = calloc(size, sizeof(*ring));
	if (!ring)
		return false;
	for (size_t i = 0; i < lpm->retired_n; i++)
		ring[i] = lpm->retired[(lpm->retired_first + i) % lpm->retired_size];
	free(lpm->retired);
	lpm->retired = ring;
	lpm->retired_first = 0;
	lpm->retired_size = size;
	return true;
}

static void retire(struct lpm *lpm, uint32_t index)
{
	const struct node *node = node_at(lpm, index);

	assert(lpm->retired_n < lpm->retired_size);
	lpm->retired[(lpm->retired_first + lpm->retired_n) % lpm->retired_size] = (struct retired){
		.stamp = epoch_stamp(lpm->epoch),
		.node = index,
		.units = node_units(node->internal, node->external),
	};
	lpm->retired_n++;
}

static uint32_t node_alloc(struct lpm *lpm, uint64_t internal, uint64_t external)
{
	uint32_t units = node_units(internal, external);
	uint32_t index = lpm->free_lists[units];
	struct node *node;

	if (index != 0) {
		lpm->free_lists[units] = (uint32_t)lpm->base[index];
	} else {
		if (lpm->top + units > ARENA_BYTES / sizeof(uint64_t))
			return 0;
		index = lpm->top;
		lpm->top += units;
	}
	lpm->used_units += units;
	node = node_at(lpm, index);
	node->internal = internal;
	node->external = external;
	return index;
}

struct lpm *lpm_create(unsigned bits, struct epoch *epoch)
{
	struct lpm *lpm = calloc(1, sizeof(*lpm));

	assert(bits == 32 || bits == 128);
	if (!lpm)
		return NULL;
	lpm->base = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (lpm->base == MAP_FAILED) {
		free(lpm);
		return NULL;
	}
	lpm->bits = bits;
	lpm->epoch = epoch;
	lpm->top = 8;
	return lpm;
}

void lpm_destroy(struct lpm *lpm)
{
	if (!lpm)
		return;
	munmap(lpm->base, ARENA_BYTES);
	free(lpm->retired);
	free(lpm);
}

/* ---- lookup ------------------------------------------------------------------------------ */

uint32_t lpm_lookup(const struct lpm *lpm, const void *addr, unsigned *len)
{
	u128 key = load_key(lpm, addr);
	uint32_t index = atomic_load_explicit(&lpm->roots[key >> 127], memory_order_acquire);
	struct node *best = NULL;
	unsigned best_bit = 0, best_depth = 0;
	uint32_t value;

	key <<= 1;
	for (unsigned depth = 1; index != 0; depth += STRIDE, key <<= STRIDE) {
		struct node *node = node_at(lpm, index);
		unsigned slot = (unsigned)(key >> (128 - STRIDE));
		uint64_t hits = node->internal & ancestors[slot];

		if (hits != 0) {
			best = node;
			best_bit = 63 - (unsigned)__builtin_clzll(hits);
			best_depth = depth;
		}
		if (!(node->external >> slot & 1))
			break;
		index = atomic_load_explicit(child_word(node, slot), memory_order_acquire);
	}
	if (!best) {
		if (len)
			*len = 0;
		return atomic_load_explicit(&lpm->default_value, memory_order_acquire);
	}
	value = atomic_load_explicit(value_word(best, best_bit), memory_order_acquire);
	if (len)
		*len = best_depth + 31 - (unsigned)__builtin_clz(best_bit + 1);
	return value;
}

/* ---- update ------------------------------------------------------------------------------ */

/* A writer's way down to the node in which a prefix ends. */
struct path {
	word *links[MAX_LEVELS]; /* where the index of each level's node is stored */
	unsigned slots[MAX_LEVELS];
	unsigned level; /* the level in which the prefix ends */
	unsigned bit;   /* its bit there */
	unsigned depth; /* levels that exist: links[0..depth-1] lead to nodes */
};

static void path_find(struct lpm *lpm, const void *addr, unsigned len, struct path *path)
{
	u128 key = load_key(lpm, addr);
	word *link = &lpm->roots[key >> 127];
	unsigned rel;

	assert(len >= 1 && len <= lpm->bits);
	path->level = (len - 1) / STRIDE;
	path->depth = 0;
	rel = (len - 1) % STRIDE;
	key <<= 1;
	for (unsigned i = 0; i <= path->level; i++, key <<= STRIDE) {
		path->slots[i] = (unsigned)(key >> (128 - STRIDE));
		path->links[i] = link;
		if (link && atomic_load_explicit(link, memory_order_relaxed) != 0) {
			struct node *node = node_at(lpm, *link);

			path->depth = i + 1;
			link = node->external >> path->slots[i] & 1
				       ? child_word(node, path->slots[i])
				       : NULL;
		} else {
			link = NULL;
		}
	}
	path->bit = (1u << rel) - 1 + (path->slots[path->level] >> (STRIDE - rel));
}

/*
 * A copy of `old` (0: an empty node) with the given bitmaps. Words of `old` that the bitmaps keep
 * are copied; the others are for the caller to set. Returns 0 when memory ran out.
 */
static uint32_t node_copy(struct lpm *lpm, uint32_t old, uint64_t internal, uint64_t external)
{
	uint32_t index = node_alloc(lpm, internal, external);
	struct node *from, *to;
	uint64_t keep;

	if (index == 0 || old == 0)
		return index;
	from = node_at(lpm, old);
	to = node_at(lpm, index);
	for (keep = from->external & external; keep != 0; keep &= keep - 1) {
		unsigned slot = (unsigned)__builtin_ctzll(keep);

		*child_word(to, slot) = *child_word(from, slot);
	}
	for (keep = from->internal & internal; keep != 0; keep &= keep - 1) {
		unsigned bit = (unsigned)__builtin_ctzll(keep);

		*value_word(to, bit) = *value_word(from, bit);
	}
	return index;
}

static void publish(struct lpm *lpm, word *link, uint32_t index)
{
	uint32_t old = *link;

	atomic_store_explicit(link, index, memory_order_release);
	if (old != 0)
		retire(lpm, old);
}

static void free_unpublished(struct lpm *lpm, uint32_t index)
{
	const struct node *node;

	if (index == 0)
		return;
	node = node_at(lpm, index);
	node_free(lpm, index, node_units(node->internal, node->external));
}

/* The nodes that are missing below the existing part of the path, with the value at their end. */
static uint32_t build_chain(struct lpm *lpm, const struct path *path, unsigned from, uint32_t value)
{
	uint32_t index = node_copy(lpm, 0, 1ull << path->bit, 0);

	if (index == 0)
		return 0;
	*value_word(node_at(lpm, index), path->bit) = value;
	for (unsigned level = path->level; level > from; level--) {
		uint32_t parent = node_copy(lpm, 0, 0, 1ull << path->slots[level - 1]);

		if (parent == 0) {
			while (index != 0) {
				struct node *node = node_at(lpm, index);
				uint32_t child = node->external ? node->words[0] : 0;

				free_unpublished(lpm, index);
				index = child;
			}
			return 0;
		}
		*child_word(node_at(lpm, parent), path->slots[level - 1]) = index;
		index = parent;
	}
	return index;
}

int lpm_insert(struct lpm *lpm, const void *addr, unsigned len, uint32_t value, uint32_t *old)
{
	struct path path;
	struct node *node;
	uint32_t index, chain;

	assert(value != 0);
	*old = 0;
	if (len == 0) {
		*old = atomic_exchange(&lpm->default_value, value);
		lpm->count += *old == 0;
		return 0;
	}
	if (!reserve_retired(lpm, 1))
		return ENOMEM;
	path_find(lpm, addr, len, &path);
	if (path.depth == path.level + 1) {
		node = node_at(lpm, *path.links[path.level]);
		if (node->internal >> path.bit & 1) {
			*old = atomic_exchange(value_word(node, path.bit), value);
			return 0;
		}
		index = node_copy(lpm, *path.links[path.level], node->internal | 1ull << path.bit,
			node->external);
		if (index == 0)
			return ENOMEM;
		*value_word(node_at(lpm, index), path.bit) = value;
		publish(lpm, path.links[path.level], index);
	} else if (path.depth == 0) {
		chain = build_chain(lpm, &path, 0, value);
		if (chain == 0)
			return ENOMEM;
		publish(lpm, path.links[0], chain);
	} else {
		unsigned last = path.depth - 1;

		chain = build_chain(lpm, &path, path.depth, value);
		if (chain == 0)
			return ENOMEM;
		node = node_at(lpm, *path.links[last]);
		index = node_copy(lpm, *path.links[last], node->internal,
			node->external | 1ull << path.slots[last]);
		if (index == 0) {
			free_unpublished(lpm, chain);
			return ENOMEM;
		}
		*child_word(node_at(lpm, index), path.slots[last]) = chain;
		publish(lpm, path.links[last], index);
	}
	lpm->count++;
	return 0;
}

uint32_t lpm_get(const struct lpm *lpm, const void *addr, unsigned len)
{
	struct path path;
	struct node *node;

	if (len == 0)
		return lpm->default_value;
	path_find((struct lpm *)lpm, addr, len, &path);
	if (path.depth != path.level + 1)
		return 0;
	node = node_at(lpm, *path.links[path.level]);
	return node->internal >> path.bit & 1 ? *value_word(node, path.bit) : 0;
}

int lpm_delete(struct lpm *lpm, const void *addr, unsigned len, uint32_t *old)
{
	struct path path;
	struct node *node;
	uint64_t internal, external;
	unsigned level, cut;
	uint32_t index = 0;
	uint32_t doomed[MAX_LEVELS];

	*old = 0;
	if (len == 0) {
		*old = atomic_exchange(&lpm->default_value, 0);
		lpm->count -= *old != 0;
		return 0;
	}
	if (!reserve_retired(lpm, MAX_LEVELS))
		return ENOMEM;
	path_find(lpm, addr, len, &path);
	if (path.depth != path.level + 1)
		return 0;
	level = path.level;
	node = node_at(lpm, *path.links[level]);
	if (!(node->internal >> path.bit & 1))
		return 0;
	*old = *value_word(node, path.bit);
	internal = node->internal & ~(1ull << path.bit);
	external = node->external;
	/* A node that holds nothing any more goes, and its parent's reference with it. */
	for (cut = 0; internal == 0 && external == 0 && level > 0; cut++) {
		doomed[cut] = *path.links[level];
		level--;
		node = node_at(lpm, *path.links[level]);
		internal = node->internal;
		external = node->external & ~(1ull << path.slots[level]);
	}
	if (internal != 0 || external != 0) {
		index = node_copy(lpm, *path.links[level], internal, external);
		if (index == 0) {
			*old = 0;
			return ENOMEM;
		}
	}
	publish(lpm, path.links[level], index);
	for (unsigned i = 0; i < cut; i++)
		retire(lpm, doomed[i]);
	lpm->count--;
	return 0;
}

/* ---- walk -------------------------------------------------------------------------------- */

struct walk {
	struct lpm *lpm;
	lpm_visitor visit;
	void *ctx;
	bool from_start;
	u128 after; /* with !from_start: begin behind this prefix */
	unsigned after_len;
};

static u128 host_bits(unsigned len)
{
	return len >= 128 ? 0 : len == 0 ? ~(u128)0 : ((u128)1 << (128 - len)) - 1;
}

static bool walk_visit(struct walk *walk, u128 key, unsigned len, word *value)
{
	uint8_t addr[16];
	uint32_t before = *value, after = before;
	bool go_on;

	if (!walk->from_start &&
		(key < walk->after || (key == walk->after && len <= walk->after_len)))
		return true;
	store_key(walk->lpm, key, addr);
	go_on = walk->visit(walk->ctx, addr, len, &after);
	if (after != before)
		atomic_store_explicit(value, after, memory_order_release);
	return go_on;
}

static bool walk_node(struct walk *walk, uint32_t index, u128 key, unsigned depth);

/* Visits what begins with the `rel` bits `prefix` in this node: shorter first, then by address. */
static bool walk_part(struct walk *walk, struct node *node, u128 key, unsigned depth, unsigned rel,
	unsigned prefix)
{
	unsigned bit = (1u << rel) - 1 + prefix;
	u128 here = key;

	if (rel > 0)
		here |= (u128)prefix << (128 - depth - rel);
	if (!walk->from_start && (here | host_bits(depth + rel)) < walk->after)
		return true;
	if (rel == STRIDE) {
		if (!(node->external >> prefix & 1))
			return true;
		return walk_node(walk, *child_word(node, prefix), here, depth + STRIDE);
	}
	if (node->internal >> bit & 1 &&
		!walk_visit(walk, here, depth + rel, value_word(node, bit)))
		return false;
	/* Bits of an address end before the strides do. */
	if (depth + rel >= walk->lpm->bits)
		return true;
	return walk_part(walk, node, key, depth, rel + 1, prefix << 1) &&
	       walk_part(walk, node, key, depth, rel + 1, prefix << 1 | 1);
}

static bool walk_node(struct walk *walk, uint32_t index, u128 key, unsigned depth)
{
	return walk_part(walk, node_at(walk->lpm, index), key, depth, 0, 0);
}

void lpm_walk(struct lpm *lpm, const void *addr, unsigned len, lpm_visitor visit, void *ctx)
{
	struct walk walk = {.lpm = lpm, .visit = visit, .ctx = ctx, .from_start = !addr};

	if (addr) {
		walk.after = load_key(lpm, addr) & ~host_bits(len);
		walk.after_len = len;
	}
	if (lpm->default_value != 0 && !walk_visit(&walk, 0, 0, &lpm->default_value))
		return;
	for (unsigned i = 0; i < 2; i++) {
		if (lpm->roots[i] != 0 && !walk_node(&walk, lpm->roots[i], (u128)i << 127, 1))
			return;
	}
}

size_t lpm_count(const struct lpm *lpm)
{
	return lpm->count;
}

void lpm_memory(const struct lpm *lpm, size_t *used, size_t *taken)
{
	*used = lpm->used_units * sizeof(uint64_t);
	*taken = lpm->top * sizeof(uint64_t) + lpm->retired_size * sizeof(struct retired);
}
