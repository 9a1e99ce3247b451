/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FIB_ORACLE_H
#define EDGEPLEX_FIB_ORACLE_H

/*
 * For tests: what fib.h promises, done the plain way (a hash table of prefixes, asked for every
 * length from the longest on), so that the two have no code or idea in common.
 */

#include <stddef.h>
#include <stdint.h>

#include "dataplane/fib.h"

struct oracle_entry {
	uint8_t addr[16]; /* masked */
	unsigned int len;
	uint32_t id;
	struct oracle_entry *next;
};

struct oracle;

/* Aborts when memory runs out, as every function here. */
struct oracle *oracle_create(unsigned int addr_len);
void oracle_destroy(struct oracle *oracle);

/* As in fib.h, but without errors other than ENOENT. */
void oracle_insert(
	struct oracle *oracle, const void *addr, unsigned int len, uint32_t id, uint32_t *old);
int oracle_remove(struct oracle *oracle, const void *addr, unsigned int len, uint32_t *old);
int oracle_get(const struct oracle *oracle, const void *addr, unsigned int len, uint32_t *id);
uint32_t oracle_lookup(const struct oracle *oracle, const void *addr);
size_t oracle_count(const struct oracle *oracle);

/* All entries in order of (address, length); free() the array. */
struct oracle_entry *oracle_sorted(const struct oracle *oracle);

/* Clears the bits of `from` beyond `len`. `to` gets all 16 bytes. */
void oracle_mask(uint8_t to[16], const void *from, unsigned int addr_len, unsigned int len);

#endif
