/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_DIRTY_H
#define EDGEPLEX_HOSTD_DIRTY_H

/*
 * Which pages of a VM's memory changed since they were last taken.
 *
 * The memory is a shared file on a tmpfs that QEMU has mapped (memory-backend-file,share=on). Two
 * engines find the changes:
 *
 * - DIRTY_PAGEMAP asks the kernel, by PAGEMAP_SCAN (Linux 6.7), which pages QEMU wrote to. It wants
 *   QEMU started with libedgeplex-wp.so (wp_preload.c), which has the kernel keep that account.
 *   Its cost is that of the changes, not of the memory. It sees what QEMU and the kernel on QEMU's
 *   behalf write (vCPUs, taps), not what another process with a mapping of its own does
 *   (vhost-user): where such a one exists at dirty_open(), the engine is not used.
 * - DIRTY_COMPARE compares all memory with a copy. It needs nothing but that copy's memory, and
 *   reads twice the VM's memory each time.
 *
 * What is promised: take every page of the set that dirty_scan() returned, in any order and while
 * the VM runs, and repeat; when the VM is stopped before the last scan, what was taken last of
 * every page is the VM's memory, exactly. Pages taken from a running VM may be torn, but are then
 * in the next set. A set may hold pages whose content is as before.
 *
 * An object is to be used from one thread at a time.
 */

#include <sys/types.h>

#include "hostd/page.h"

enum dirty_engine {
	DIRTY_AUTO, /* DIRTY_PAGEMAP where it works */
	DIRTY_PAGEMAP,
	DIRTY_COMPARE,
};

struct dirty;

/*
 * Opens the memory in `ram_path`, which process `pid` (QEMU) has mapped; `pid` may be 0 for
 * DIRTY_COMPARE. With `keep_copy` DIRTY_PAGEMAP too keeps a copy of the memory, so that
 * dirty_take() tells what a page held before. The first scan's set has all pages.
 * Returns 0, or errno with `why` (may be NULL) telling what to do: EINVAL (not a whole number of
 * pages, or nothing at all), ENOTSUP (DIRTY_PAGEMAP was asked for and isn't possible), ENOMEM, or
 * what open() and mmap() say.
 */
int dirty_open(const char *ram_path, pid_t pid, enum dirty_engine engine, bool keep_copy,
	struct dirty **dirty, char why[256]);

/* Accepts NULL. */
void dirty_close(struct dirty *dirty);

/* The engine in use, and in one sentence why it is this one. */
enum dirty_engine dirty_engine(const struct dirty *dirty);
const char *dirty_reason(const struct dirty *dirty);
const char *dirty_engine_name(enum dirty_engine engine);

/* Parses "auto", "pagemap", "compare". Returns 0 or EINVAL. */
int dirty_engine_parse(const char *text, enum dirty_engine *engine);

size_t dirty_n_pages(const struct dirty *dirty);

/*
 * Makes `*set` (the object's own, good until the next scan) hold the pages that changed since they
 * were last taken, and `*n` their number. A page of an earlier set that was not taken is in it
 * again. Returns 0 or errno: ESRCH (QEMU is gone), ENOTSUP (QEMU no longer lets it be watched),
 * EIO.
 */
int dirty_scan(struct dirty *dirty, const uint64_t **set, size_t *n);

/*
 * Copies the page as it is now to `now`. Returns what it held when it was last taken (the object's
 * own, good until the next call), or NULL when that isn't known.
 */
const uint8_t *dirty_take(struct dirty *dirty, size_t page, uint8_t now[PAGE_BYTES]);

/*
 * Forgets what was taken: the next set has all pages, and nothing is known of what they held.
 * To be called when the other side may have lost what it was sent.
 */
void dirty_forget(struct dirty *dirty);

#endif
