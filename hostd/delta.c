/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A batch: u32 length of the records, u32 length of their LZ4 block or 0 if they are stored as they
 * are, then that. A record: u32 page, u32 kind << 24 | number of pages (1 unless KIND_ZERO), then
 * PAGE_BYTES unless KIND_ZERO.
 */
#include "hostd/delta.h"

#include <errno.h>
#include <stdlib.h>
#include <lz4.h>

#include "hostd/bytes.h"

#define HEADER 8
#define RECORD 8
#define MAX_PLAIN (DELTA_BATCH * (RECORD + PAGE_BYTES))
#define MAX_RUN 0xffffffu

enum kind { KIND_ZERO, KIND_FULL, KIND_DIFFERENCE };

struct delta_encoder {
	size_t n_records, plain_len;
	uint8_t *last_zero; /* the last record, if it is a run of zero pages */
	uint8_t plain[MAX_PLAIN];
	uint8_t batch[DELTA_MAX_BATCH];
};

struct delta_decoder {
	uint8_t plain[MAX_PLAIN];
	uint8_t content[PAGE_BYTES];
};

struct delta_encoder *delta_encoder_create(void)
{
	return calloc(1, sizeof(struct delta_encoder));
}

void delta_encoder_destroy(struct delta_encoder *encoder)
{
	free(encoder);
}

bool delta_is_zero(const uint8_t page[PAGE_BYTES])
{
	/* All bytes equal the first, which is zero. */
	return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

static bool extend_zero_run(struct delta_encoder *encoder, size_t page)
{
	uint32_t first, count;

	if (encoder->last_zero == NULL)
		return false;
	first = get_be32(encoder->last_zero);
	count = get_be32(encoder->last_zero + 4);
	if (page != (size_t)first + count || count == MAX_RUN)
		return false;
	put_be32(encoder->last_zero + 4, count + 1);
	return true;
}

static uint8_t *add_record(struct delta_encoder *encoder, size_t page, enum kind kind, size_t body)
{
	uint8_t *record = encoder->plain + encoder->plain_len;

	put_be32(record, (uint32_t)page);
	put_be32(record + 4, (uint32_t)kind << 24 | 1);
	encoder->n_records++;
	encoder->plain_len += RECORD + body;
	encoder->last_zero = kind == KIND_ZERO ? record : NULL;
	return record + RECORD;
}

static void difference(uint8_t *to, const uint8_t *a, const uint8_t *b)
{
	for (size_t i = 0; i < PAGE_BYTES; i++)
		to[i] = a[i] ^ b[i];
}

enum delta_added delta_add(struct delta_encoder *encoder, size_t page,
	const uint8_t now[PAGE_BYTES], const uint8_t *before)
{
	if (before != NULL && memcmp(now, before, PAGE_BYTES) == 0)
		return DELTA_UNCHANGED;
	if (delta_is_zero(now)) {
		if (extend_zero_run(encoder, page))
			return DELTA_ADDED;
		if (encoder->n_records == DELTA_BATCH)
			return DELTA_FULL;
		add_record(encoder, page, KIND_ZERO, 0);
		return DELTA_ADDED;
	}
	if (encoder->n_records == DELTA_BATCH)
		return DELTA_FULL;
	if (before != NULL)
		difference(add_record(encoder, page, KIND_DIFFERENCE, PAGE_BYTES), now, before);
	else
		memcpy(add_record(encoder, page, KIND_FULL, PAGE_BYTES), now, PAGE_BYTES);
	return DELTA_ADDED;
}

size_t delta_take(struct delta_encoder *encoder, const uint8_t **batch)
{
	size_t plain_len = encoder->plain_len;
	int packed;

	if (plain_len == 0)
		return 0;
	/* LZ4 gives up, which is fine, when the block wouldn't be smaller. */
	packed = LZ4_compress_default((const char *)encoder->plain, (char *)encoder->batch + HEADER,
		(int)plain_len, (int)plain_len - 1);
	if (packed <= 0) {
		packed = 0;
		memcpy(encoder->batch + HEADER, encoder->plain, plain_len);
	}
	put_be32(encoder->batch, (uint32_t)plain_len);
	put_be32(encoder->batch + 4, (uint32_t)packed);
	encoder->n_records = encoder->plain_len = 0;
	encoder->last_zero = NULL;
	*batch = encoder->batch;
	return HEADER + (packed > 0 ? (size_t)packed : plain_len);
}

struct delta_decoder *delta_decoder_create(void)
{
	return calloc(1, sizeof(struct delta_decoder));
}

void delta_decoder_destroy(struct delta_decoder *decoder)
{
	free(decoder);
}

/* Sets `*plain` to the records of the batch. Returns their length, or 0 if this is no batch. */
static size_t unpack(
	struct delta_decoder *decoder, const uint8_t *batch, size_t n, const uint8_t **plain)
{
	size_t plain_len, packed;

	if (n < HEADER)
		return 0;
	plain_len = get_be32(batch);
	packed = get_be32(batch + 4);
	if (plain_len > MAX_PLAIN || n - HEADER != (packed > 0 ? packed : plain_len))
		return 0;
	if (packed == 0) {
		*plain = batch + HEADER;
		return plain_len;
	}
	if (LZ4_decompress_safe((const char *)batch + HEADER, (char *)decoder->plain, (int)packed,
		    (int)plain_len) != (int)plain_len)
		return 0;
	*plain = decoder->plain;
	return plain_len;
}

int delta_decode(struct delta_decoder *decoder, const uint8_t *batch, size_t n, const uint8_t *ram,
	size_t n_pages, delta_page_fn fn, void *ctx)
{
	const uint8_t *p, *end;
	size_t len = unpack(decoder, batch, n, &p);

	if (len == 0)
		return EBADMSG;
	for (end = p + len; p < end;) {
		size_t page, count;
		uint32_t kind;
		int error = 0;

		if ((size_t)(end - p) < RECORD)
			return EBADMSG;
		page = get_be32(p);
		kind = get_be32(p + 4) >> 24;
		count = get_be32(p + 4) & MAX_RUN;
		p += RECORD;
		if (count == 0 || page >= n_pages || count > n_pages - page)
			return EBADMSG;
		if (kind == KIND_ZERO) {
			for (size_t i = 0; i < count && error == 0; i++)
				error = fn(ctx, page + i, NULL);
			if (error != 0)
				return error;
			continue;
		}
		if (kind > KIND_DIFFERENCE || count != 1 || (size_t)(end - p) < PAGE_BYTES)
			return EBADMSG;
		if (kind == KIND_DIFFERENCE) {
			difference(decoder->content, p, ram + page * PAGE_BYTES);
			error = fn(ctx, page, decoder->content);
		} else {
			error = fn(ctx, page, p);
		}
		if (error != 0)
			return error;
		p += PAGE_BYTES;
	}
	return 0;
}
