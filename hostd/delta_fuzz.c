/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libFuzzer: the decoder takes any bytes, and hands out whole pages that exist, or refuses. */
#include <stdlib.h>

#include "hostd/bytes.h"
#include "hostd/delta.h"

#define N_PAGES 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check_page(void *ctx, size_t page, const uint8_t *content)
{
	if (page >= N_PAGES)
		abort();
	for (size_t i = 0; content != NULL && i < PAGE_BYTES; i += 64)
		*(uint64_t *)ctx += content[i];
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct delta_decoder *decoder;
	static uint8_t ram[N_PAGES * PAGE_BYTES];
	static uint8_t stored[DELTA_MAX_BATCH];
	uint64_t sum = 0;

	if (decoder == NULL)
		decoder = delta_decoder_create();
	if (decoder == NULL)
		abort();
	delta_decode(decoder, data, size, ram, N_PAGES, check_page, &sum);
	/* Most inputs aren't LZ4: the same again as stored records. */
	if (size + 8 <= sizeof(stored)) {
		put_be32(stored, (uint32_t)size);
		put_be32(stored + 4, 0);
		memcpy(stored + 8, data, size);
		delta_decode(decoder, stored, size + 8, ram, N_PAGES, check_page, &sum);
	}
	return 0;
}
