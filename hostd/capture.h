/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_CAPTURE_H
#define EDGEPLEX_HOSTD_CAPTURE_H

/*
 * The pages of an epoch, taken while the VM stands still and sent while it runs. An epoch that
 * comes to nothing leaves its pages here for the next one, which then has the newest content of
 * each, and what the standby has of it.
 *
 * An object is to be used from one thread at a time.
 */

#include "hostd/dirty.h"

struct capture;

/* Returns NULL when memory ran out. */
struct capture *capture_create(size_t n_pages);

/* Accepts NULL. */
void capture_destroy(struct capture *capture);

/* Scans, and takes what changed; `*n` is the number of these. Returns 0 or errno as dirty_scan().
 */
int capture_take(struct capture *capture, struct dirty *dirty, size_t *n);

size_t capture_count(const struct capture *capture);

/* The i-th page; `*before` is NULL when it isn't known what the standby has. */
size_t capture_page(
	const struct capture *capture, size_t i, const uint8_t **now, const uint8_t **before);

/* Forgets the pages: the standby has them. */
void capture_clear(struct capture *capture);

#endif
