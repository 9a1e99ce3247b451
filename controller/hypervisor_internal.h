/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HYPERVISOR_INTERNAL_H
#define EDGEPLEX_HYPERVISOR_INTERNAL_H

/* What guest.c needs of a server's libvirt connection. */

#include <libvirt/libvirt.h>

#include "controller/hypervisor.h"

/*
 * Finds a VM on the present connection; the caller frees it (virDomainFree), which also lets go of
 * the connection. NULL with `*error` (EHOSTUNREACH, ENOENT, EIO) and `why`. Blocks; any thread.
 */
virDomainPtr hv_domain(struct hv *hv, const char *uuid, int *error, struct why *why);

/*
 * Returns when every callback of libvirt's event loop that was running has returned. What was
 * removed from the loop before (a stream's callback) is then never called again. Blocks until the
 * loop comes round, at most HV_KEEPALIVE_MS; not to be called in a callback.
 */
void hv_event_fence(void);

/* The newest libvirt error of this thread, as text. */
const char *hv_libvirt_error(void);

#endif
