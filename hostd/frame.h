/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_FRAME_H
#define EDGEPLEX_HOSTD_FRAME_H

/*
 * Frames between hostds, as docs/protocols.md ("Between hostds") describes them. The bytes of a
 * frame are a header of FRAME_HEADER bytes, then the payload. Pure functions.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_VERSION 2
#define FRAME_HEADER 32
#define FRAME_MAX_PAYLOAD (1u << 20)
#define UUID_STRLEN 37

enum frame_type {
	FRAME_HELLO = 1, /* source: ticket, size of the memory */
	FRAME_WELCOME,   /* destination: go on */
	FRAME_PAGES,     /* source: a batch (delta.h) */
	FRAME_STATE,     /* source: the next part of the device state */
	FRAME_END,       /* source: counts and checksum of the epoch */
	FRAME_ACK,       /* destination: has the epoch whole */
	FRAME_ASK,       /* destination: may the VM be activated from this epoch? */
	FRAME_GRANT,     /* source: yes; it will never resume the VM by itself again */
	FRAME_DENY,      /* source: no, it has resumed */
	FRAME_ALIVE,     /* both: nothing to say */
	FRAME_DISCARD,   /* both: this copy is void; text says why. The last frame */
	FRAME_TAKEN, /* destination: it runs, as the controller fenced the source. The last frame */
};

struct frame {
	enum frame_type type;
	uint64_t epoch;
	uint8_t uuid[16];
	uint32_t length;        /* of the payload */
	const uint8_t *payload; /* whoever filled the frame says how long it is good */
};

/* Writes the header. */
void frame_put_header(const struct frame *frame, uint8_t header[FRAME_HEADER]);

/* Reads a header; sets all but `payload`. Returns 0 or EBADMSG: the stream is lost. */
int frame_get_header(const uint8_t header[FRAME_HEADER], struct frame *frame);

const char *frame_name(enum frame_type type);

/* The usual text form of a UUID, upper or lower case. Returns 0 or EINVAL. */
int frame_parse_uuid(const char *text, uint8_t uuid[16]);
char *frame_format_uuid(const uint8_t uuid[16], char text[UUID_STRLEN]);

#endif
