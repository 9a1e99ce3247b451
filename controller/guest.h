/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_GUEST_H
#define EDGEPLEX_GUEST_H

/*
 * The conversation with one VM: JSON-RPC over its virtio-serial channel (docs/protocols.md),
 * reached through the libvirt connection of its server. It opens by itself as soon as the VM runs,
 * and again whenever the stream breaks (VM restarted, libvirtd restarted), until guest_close().
 *
 * A guest that doesn't answer or doesn't even read can't hold anybody: calls end at their time
 * limit and no more than GUEST_UNANSWERED_MAX bytes are sent ahead of its answers.
 */

#include <stdbool.h>
#include <cjson/cJSON.h>

#include "common/jsonrpc.h"
#include "controller/hypervisor.h"

#define GUEST_UNANSWERED_MAX 65536

struct guest;

/*
 * A notification came in. Called on a thread of this module; must not block and must not call
 * hv_*() or guest_*(). `params` is valid during the call.
 */
typedef void (*guest_notify_fn)(void *ctx, const char *method, const cJSON *params);

/*
 * Begins to open the channel of the VM `uuid` on `hv`, and returns at once. `hv` must stay open
 * until guest_close() returned. `on_notify` may be NULL. Returns NULL with errno when resources ran
 * out. Any thread.
 */
struct guest *guest_open(struct hv *hv, const char *uuid, guest_notify_fn on_notify, void *ctx);

/*
 * `on_hang_up` (NULL: nobody any more) is called whenever the channel, having been open, closed:
 * the VM's process has gone, or somebody else has taken the channel, or libvirt is away. As a
 * notification's function it must not block. Any thread.
 */
void guest_on_hang_up(struct guest *guest, void (*on_hang_up)(void *ctx), void *ctx);

/*
 * Calls a method and waits for its answer; the wait includes that for the channel, so a call may be
 * made while the VM still boots. `params` (may be NULL) stays the caller's; `*result` (result may
 * be NULL) becomes the caller's. Several threads may call at a time; answers may come in any order.
 *
 * Returns 0; on failure -1 with `err` (not NULL) filled: the guest's own error, or
 * JSONRPC_UNAVAILABLE when no answer came within `timeout_ms` or the channel broke after the
 * request was sent (it may or may not have been carried out; nothing is sent twice).
 */
int guest_call(struct guest *guest, const char *method, const cJSON *params, int timeout_ms,
	cJSON **result, struct jsonrpc_error *err);

/*
 * Waits until the guest's agent answers `guest.info`: the VM has booted. Returns 0 or ETIMEDOUT
 * with `why` (may be NULL). Any thread.
 */
int guest_wait_ready(struct guest *guest, int timeout_ms, struct why *why);

/* Is the channel open? (The program behind it may still be absent.) Doesn't block. Any thread. */
bool guest_connected(struct guest *guest);

/*
 * Calls that are waiting end with JSONRPC_UNAVAILABLE; waits for them to return. No callback runs
 * any more after it returns. Accepts NULL.
 */
void guest_close(struct guest *guest);

#endif
