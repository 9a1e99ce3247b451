/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_DELTA_H
#define EDGEPLEX_HOSTD_DELTA_H

/*
 * Pages as they go over the wire: in batches of up to DELTA_BATCH records. A record is a page as
 * it is, the difference (exclusive or) from what the receiver has, or a run of zero pages; the
 * batch as a whole is compressed by LZ4. docs/notes/hostd.md tells why and what else was measured.
 *
 * An object is to be used from one thread at a time.
 */

#include "hostd/page.h"

#define DELTA_BATCH 64
/* No batch is longer, in bytes. */
#define DELTA_MAX_BATCH (8 + DELTA_BATCH * (8 + PAGE_BYTES))

bool delta_is_zero(const uint8_t page[PAGE_BYTES]);

/* ---- encoder ----------------------------------------------------------------------------- */

struct delta_encoder;

/* Returns NULL when memory ran out. */
struct delta_encoder *delta_encoder_create(void);

/* Accepts NULL. */
void delta_encoder_destroy(struct delta_encoder *encoder);

enum delta_added {
	DELTA_ADDED,
	DELTA_UNCHANGED, /* `now` is `before`: nothing needs to be sent */
	DELTA_FULL,      /* not added: take the batch, then add again */
};

/*
 * Adds page number `page` (below 2^32) with content `now`. `before` is what the receiver has, or
 * NULL if that isn't known. A page may be added once per epoch.
 */
enum delta_added delta_add(struct delta_encoder *encoder, size_t page,
	const uint8_t now[PAGE_BYTES], const uint8_t *before);

/*
 * Ends the batch and begins the next. Returns its length and sets `*batch` (the encoder's, good
 * until the next delta_add()); 0 if nothing was added.
 */
size_t delta_take(struct delta_encoder *encoder, const uint8_t **batch);

/* ---- decoder ----------------------------------------------------------------------------- */

struct delta_decoder;

/* Returns NULL when memory ran out. */
struct delta_decoder *delta_decoder_create(void);

/* Accepts NULL. */
void delta_decoder_destroy(struct delta_decoder *decoder);

/*
 * Gets each page of a batch; `content` is NULL for a zero page, and good during the call only.
 * Returns 0 to go on, or errno, which ends delta_decode().
 */
typedef int (*delta_page_fn)(void *ctx, size_t page, const uint8_t *content);

/*
 * Reads a batch of `n` bytes from anyone. `ram` is what differences refer to, of `n_pages` pages.
 * Pages before the faulty one of a bad batch have been handed out.
 * Returns 0, EBADMSG (not a batch, or a page that isn't there), or what `fn` returned.
 */
int delta_decode(struct delta_decoder *decoder, const uint8_t *batch, size_t n, const uint8_t *ram,
	size_t n_pages, delta_page_fn fn, void *ctx);

#endif
