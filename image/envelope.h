/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_ENVELOPE_H
#define EDGEPLEX_ENVELOPE_H

/*
 * Looks at a JSON-RPC message without taking it apart: the agent relays messages of up to 4 MiB in
 * a VM with little memory, and must change nothing in them but their id. Needs no memory.
 * Thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>

#define ENVELOPE_MAX_DEPTH 64

/* Parts of the scanned line, not NUL-terminated. NULL: not there. */
struct envelope {
	const char *method; /* without its quotes, escapes as they are */
	size_t method_len;
	const char *id; /* JSON text: a number, a string with its quotes, or null */
	size_t id_len;
};

/*
 * Scans one message. Strict: a JSON object (RFC 8259), nested no deeper than ENVELOPE_MAX_DEPTH,
 * whose "method" is a string and whose "id" a number, a string or null, if present; of several
 * members of the same name the first counts. What passes is accepted by cJSON too.
 * Returns 0 or EBADMSG.
 */
int envelope_scan(const char *line, size_t n, struct envelope *env);

#endif
