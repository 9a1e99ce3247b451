/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/text.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "controller/cli/mem.h"

size_t text_decode(const char *text, uint32_t *character)
{
	const unsigned char *s = (const unsigned char *)text;
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t len;
	uint32_t c;

	if (s[0] < 0x80) {
		*character = s[0];
		return 1;
	}
	if ((s[0] & 0xe0) == 0xc0) {
		len = 2;
		c = s[0] & 0x1f;
	} else if ((s[0] & 0xf0) == 0xe0) {
		len = 3;
		c = s[0] & 0x0f;
	} else if ((s[0] & 0xf8) == 0xf0) {
		len = 4;
		c = s[0] & 0x07;
	} else {
		return 0;
	}
	for (size_t i = 1; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80) /* also stops at the NUL */
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*character = c;
	return len;
}

static int columns_of(uint32_t c)
{
	if (c >= 0x20 && c < 0x7f)
		return 1;
	return c < 0xa0 ? -1 : wcwidth((wchar_t)c);
}

/* Invisible characters take no column; they could hide text or turn its direction. */
static bool is_harmless(uint32_t c)
{
	return columns_of(c) > 0 && c != 0x2028 && c != 0x2029;
}

static void write_escaped(FILE *out, uint32_t c)
{
	if (c == '\n')
		fputs("\\n", out);
	else if (c == '\t')
		fputs("\\t", out);
	else if (c == '\r')
		fputs("\\r", out);
	else if (c < 0x100)
		fprintf(out, "\\x%02x", (unsigned)c);
	else
		fprintf(out, "\\u{%x}", (unsigned)c);
}

void text_write_safe(FILE *out, const char *text)
{
	while (*text) {
		uint32_t c;
		size_t len = text_decode(text, &c);

		if (len == 0) {
			write_escaped(out, (unsigned char)*text);
			len = 1;
		} else if (is_harmless(c)) {
			fwrite(text, 1, len, out);
		} else {
			write_escaped(out, c);
		}
		text += len;
	}
}

char *text_safe(const char *text)
{
	struct mem_stream stream;

	mem_stream_open(&stream);
	text_write_safe(stream.file, text);
	return mem_text(&stream);
}

size_t text_fit(const char *safe, size_t columns)
{
	size_t bytes = 0, used = 0;

	while (safe[bytes]) {
		uint32_t c;
		size_t len = text_decode(safe + bytes, &c);
		int width = len ? columns_of(c) : 1;

		if (width < 0)
			width = 0;
		if (used + (size_t)width > columns)
			break;
		used += (size_t)width;
		bytes += len ? len : 1;
	}
	return bytes;
}

size_t text_width(const char *safe)
{
	size_t used = 0;

	while (*safe) {
		uint32_t c;
		size_t len = text_decode(safe, &c);
		int width = len ? columns_of(c) : 1;

		used += width > 0 ? (size_t)width : 0;
		safe += len ? len : 1;
	}
	return used;
}

void text_write_json(FILE *out, const char *json)
{
	while (*json) {
		uint32_t c;
		size_t len = text_decode(json, &c);

		if (len == 0) {
			fputs("\\ufffd", out); /* JSON is UTF-8; there is no escape for a byte */
			len = 1;
		} else if (c == '\n' || c == '\t' || is_harmless(c)) {
			fwrite(json, 1, len, out);
		} else if (c < 0x10000) {
			fprintf(out, "\\u%04x", (unsigned)c);
		} else {
			fprintf(out, "\\u%04x\\u%04x", 0xd800 + (unsigned)((c - 0x10000) >> 10),
				0xdc00 + (unsigned)((c - 0x10000) & 0x3ff));
		}
		json += len;
	}
}

char *text_duration(double ms, char buf[32])
{
	unsigned long long s;

	if (!(ms >= 0) || ms > 1e15) { /* also a NaN */
		snprintf(buf, 32, "?");
		return buf;
	}
	s = (unsigned long long)(ms / 1000);
	if (ms < 1000)
		snprintf(buf, 32, "%.0f ms", ms);
	else if (ms < 60000)
		snprintf(buf, 32, "%.1f s", ms / 1000);
	else if (s < 3600)
		snprintf(buf, 32, "%llum %llus", s / 60, s % 60);
	else if (s < 86400)
		snprintf(buf, 32, "%lluh %llum", s / 3600, s / 60 % 60);
	else
		snprintf(buf, 32, "%llud %lluh", s / 86400, s / 3600 % 24);
	return buf;
}
