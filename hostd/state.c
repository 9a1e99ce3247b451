/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/state.h"

#include <assert.h>
#include <errno.h>
#include <lz4.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hostd/bytes.h"

#define HEADER 8 /* u32 bytes of the part, u32 bytes of its LZ4 block (0: stored as it is) */

struct state_history {
	uint8_t *seen; /* the last byte that came in each place; 0 where none has */
	size_t size;
	uint8_t difference[STATE_PART];
	uint8_t payload[HEADER + STATE_PART];
};

struct state_history *state_create(void)
{
	return calloc(1, sizeof(struct state_history));
}

void state_destroy(struct state_history *history)
{
	if (history == NULL)
		return;
	free(history->seen);
	free(history);
}

/* Returns whether there is room for `size` bytes of state. */
static bool make_room(struct state_history *history, size_t size)
{
	uint8_t *seen;

	if (size <= history->size)
		return true;
	size = (size + STATE_PART - 1) / STATE_PART * STATE_PART;
	seen = realloc(history->seen, size);
	if (seen == NULL)
		return false;
	memset(seen + history->size, 0, size - history->size);
	history->seen = seen;
	history->size = size;
	return true;
}

size_t state_encode(struct state_history *history, size_t offset, const uint8_t *part, size_t n,
	const uint8_t **payload)
{
	int packed;
	uint8_t *seen;

	assert(n > 0 && n <= STATE_PART);
	if (offset > STATE_MAX || n > STATE_MAX - offset || !make_room(history, offset + n))
		return 0;
	seen = history->seen + offset;
	for (size_t i = 0; i < n; i++)
		history->difference[i] = seen[i] ^ part[i];
	memcpy(seen, part, n);
	packed = LZ4_compress_default((const char *)history->difference,
		(char *)history->payload + HEADER, (int)n, (int)n - 1);
	if (packed <= 0) {
		packed = 0;
		memcpy(history->payload + HEADER, history->difference, n);
	}
	put_be32(history->payload, (uint32_t)n);
	put_be32(history->payload + 4, (uint32_t)packed);
	*payload = history->payload;
	return HEADER + (packed > 0 ? (size_t)packed : n);
}

int state_decode(struct state_history *history, size_t offset, const uint8_t *payload,
	size_t length, const uint8_t **part, size_t *n)
{
	uint32_t bytes, packed;
	uint8_t *seen;

	if (length <= HEADER)
		return EBADMSG;
	bytes = get_be32(payload);
	packed = get_be32(payload + 4);
	if (bytes == 0 || bytes > STATE_PART || offset > STATE_MAX || bytes > STATE_MAX - offset ||
		length - HEADER != (packed > 0 ? packed : bytes))
		return EBADMSG;
	if (!make_room(history, offset + bytes))
		return ENOMEM;
	if (packed == 0)
		memcpy(history->difference, payload + HEADER, bytes);
	else if (LZ4_decompress_safe((const char *)payload + HEADER, (char *)history->difference,
			 (int)packed, (int)bytes) != (int)bytes)
		return EBADMSG;
	seen = history->seen + offset;
	for (size_t i = 0; i < bytes; i++)
		seen[i] ^= history->difference[i];
	*part = seen;
	*n = bytes;
	return 0;
}
