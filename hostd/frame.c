/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/frame.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hostd/bytes.h"

#define MAGIC 0x455048u /* "EPH" */

void frame_put_header(const struct frame *frame, uint8_t header[FRAME_HEADER])
{
	put_be32(header, MAGIC << 8 | FRAME_VERSION);
	put_be32(header + 4, (uint32_t)frame->type << 24 | frame->length);
	put_be64(header + 8, frame->epoch);
	memcpy(header + 16, frame->uuid, sizeof(frame->uuid));
}

int frame_get_header(const uint8_t header[FRAME_HEADER], struct frame *frame)
{
	uint32_t type = get_be32(header + 4) >> 24;

	if (get_be32(header) != (MAGIC << 8 | FRAME_VERSION))
		return EBADMSG;
	frame->length = get_be32(header + 4) & 0xffffff;
	if (type < FRAME_HELLO || type > FRAME_TAKEN || frame->length > FRAME_MAX_PAYLOAD)
		return EBADMSG;
	frame->type = (enum frame_type)type;
	frame->epoch = get_be64(header + 8);
	memcpy(frame->uuid, header + 16, sizeof(frame->uuid));
	frame->payload = NULL;
	return 0;
}

const char *frame_name(enum frame_type type)
{
	static const char *const names[] = {
		[FRAME_HELLO] = "HELLO",
		[FRAME_WELCOME] = "WELCOME",
		[FRAME_PAGES] = "PAGES",
		[FRAME_STATE] = "STATE",
		[FRAME_END] = "END",
		[FRAME_ACK] = "ACK",
		[FRAME_ASK] = "ASK",
		[FRAME_GRANT] = "GRANT",
		[FRAME_DENY] = "DENY",
		[FRAME_ALIVE] = "ALIVE",
		[FRAME_DISCARD] = "DISCARD",
		[FRAME_TAKEN] = "TAKEN",
	};

	return names[type];
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int frame_parse_uuid(const char *text, uint8_t uuid[16])
{
	if (strlen(text) != UUID_STRLEN - 1)
		return EINVAL;
	for (int i = 0; i < 16; i++) {
		int high, low;

		if (i == 4 || i == 6 || i == 8 || i == 10) {
			if (*text++ != '-')
				return EINVAL;
		}
		high = hex_digit(text[0]);
		low = high >= 0 ? hex_digit(text[1]) : -1;
		if (low < 0)
			return EINVAL;
		uuid[i] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	return 0;
}

char *frame_format_uuid(const uint8_t uuid[16], char text[UUID_STRLEN])
{
	char *p = text;

	for (int i = 0; i < 16; i++)
		p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
	return text;
}
