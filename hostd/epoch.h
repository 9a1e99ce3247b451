/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_EPOCH_H
#define EDGEPLEX_HOSTD_EPOCH_H

/*
 * Epochs of a VM: what the source sends (struct epoch_sender) and how the destination keeps it
 * (struct stage). Neither knows about connections or QEMU.
 *
 * Epoch 0 is the base: pages of the running VM, in as many passes as it takes, written to the
 * destination's memory as they come. Nothing can be activated from it. Every later epoch is the
 * VM's state at one instant: the pages that changed since the epoch before, and the device state.
 * It is *staged* in a file, and touches the memory only when it is whole (its counts and checksum
 * are right) and the file says so. From then on the destination has that epoch, whatever dies:
 * pages are staged as they are, not as differences, so that writing them to the memory can be
 * repeated after a crash in the middle (stage_reopen()). The file of the epoch before stays until
 * the next is whole; it is what counts when an epoch is cut off.
 *
 * What is not the next thing expected of an honest sender (a frame of another epoch or VM, a page
 * twice in an epoch, a wrong count) is refused; the stage then refuses everything else, and still
 * has its last whole epoch.
 *
 * An object is to be used from one thread at a time.
 */

#include "hostd/frame.h"
#include "hostd/page.h"

/* ---- source ------------------------------------------------------------------------------ */

/* Sends a frame; `frame->uuid` is filled in by the callee. Returns 0 or errno. */
typedef int (*epoch_send_fn)(void *ctx, const struct frame *frame);

struct epoch_sender;

struct epoch_counts {
	uint64_t pages;     /* sent */
	uint64_t unchanged; /* not sent: they were as the destination has them */
	uint64_t state_bytes;
	uint64_t wire_bytes; /* payloads */
};

/* Returns NULL when memory ran out. The first epoch is 0. */
struct epoch_sender *epoch_sender_create(epoch_send_fn send, void *ctx);

/* Accepts NULL. */
void epoch_sender_destroy(struct epoch_sender *sender);

/*
 * Adds a page to the present epoch: once in an epoch, except in epoch 0. `before` is what the
 * destination has, NULL if that isn't known. Returns 0 or what the callback returned.
 */
int epoch_send_page(struct epoch_sender *sender, size_t page, const uint8_t now[PAGE_BYTES],
	const uint8_t *before);

/* Sends the pages that wait for their batch to fill. Returns 0 or what the callback returned. */
int epoch_flush(struct epoch_sender *sender);

/* Adds device state; not in epoch 0. Returns 0 or what the callback returned. */
int epoch_send_state(struct epoch_sender *sender, const void *data, size_t n);

/* Ends the epoch; the next one begins. Returns 0 or what the callback returned. */
int epoch_end(struct epoch_sender *sender);

/* The present epoch, and its counts so far. */
uint64_t epoch_number(const struct epoch_sender *sender);
const struct epoch_counts *epoch_counts(const struct epoch_sender *sender);

/* ---- destination ------------------------------------------------------------------------- */

struct stage;

struct stage_config {
	const char *dir; /* for the staging files: on a tmpfs */
	uint8_t uuid[16];
	const char *ram_path; /* the standby's memory, a file of whole pages */
	const char *qmp_path; /* the standby's QEMU; only kept */
	uint64_t limit;       /* bytes that one epoch may take in its file */
};

enum stage_event {
	STAGE_MORE,  /* the epoch isn't whole yet */
	STAGE_WHOLE, /* it is now: acknowledge it, then call stage_apply() */
};

/*
 * Makes a stage that has nothing yet; removes what an older one left for this VM.
 * Returns 0, or errno with `why` (may be NULL): EINVAL, ENAMETOOLONG, ENOMEM, or what open() says.
 */
int stage_create(const struct stage_config *config, struct stage **stage, char why[256]);

/*
 * Finds again what a stage of this VM had when its process died, and writes it to the memory if
 * that wasn't finished. Takes only `dir`, `uuid` and `limit` from `config`. It takes no frames.
 * Returns 0, ENOENT (there is no whole epoch), or errno as stage_create().
 */
int stage_reopen(const struct stage_config *config, struct stage **stage, char why[256]);

/* Forgets; removes the files too if `remove`. Accepts NULL. */
void stage_destroy(struct stage *stage, bool remove);

/*
 * Takes a frame of type PAGES, STATE or END. Returns 0 with `*event` set, or errno with `why`
 * (static, may be NULL): EPROTO (refused, see above), ENOSPC (over the limit, or the file system
 * or the memory's file system is full), EIO. After an error only stage_apply() and queries work.
 */
int stage_frame(
	struct stage *stage, const struct frame *frame, enum stage_event *event, const char **why);

/* Writes the epoch that became whole to the memory. Returns 0 or errno; may be repeated. */
int stage_apply(struct stage *stage);

/* The last whole epoch; 0: nothing can be activated. */
uint64_t stage_epoch(const struct stage *stage);

/*
 * A descriptor of a new anonymous file that holds the device state of the last whole epoch, at
 * offset 0. The caller's. -1 with errno (ENOENT: there is none).
 */
int stage_state(const struct stage *stage);

const char *stage_ram_path(const struct stage *stage);
const char *stage_qmp_path(const struct stage *stage);
size_t stage_n_pages(const struct stage *stage);

#endif
