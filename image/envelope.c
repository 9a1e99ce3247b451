/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "image/envelope.h"

#include <errno.h>
#include <string.h>

#define NUMBER_MAX 60 /* characters; cJSON takes up to 63 */

struct scanner {
	const char *p, *end;
	unsigned depth;
};

static bool scan_value(struct scanner *s);

static void skip_blanks(struct scanner *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\r' || *s->p == '\n'))
		s->p++;
}

static bool take(struct scanner *s, char c)
{
	if (s->p == s->end || *s->p != c)
		return false;
	s->p++;
	return true;
}

static bool is_digit(const struct scanner *s)
{
	return s->p < s->end && *s->p >= '0' && *s->p <= '9';
}

static bool scan_digits(struct scanner *s)
{
	if (!is_digit(s))
		return false;
	while (is_digit(s))
		s->p++;
	return true;
}

static bool scan_number(struct scanner *s)
{
	const char *start = s->p;

	take(s, '-');
	if (!take(s, '0') && !scan_digits(s))
		return false;
	if (take(s, '.') && !scan_digits(s))
		return false;
	if (take(s, 'e') || take(s, 'E')) {
		if (!take(s, '+'))
			take(s, '-');
		if (!scan_digits(s))
			return false;
	}
	return s->p - start <= NUMBER_MAX;
}

/* Four hexadecimal digits; -1 if they aren't. */
static int scan_hex4(struct scanner *s)
{
	int value = 0;

	if (s->end - s->p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = *s->p++;

		value <<= 4;
		if (c >= '0' && c <= '9')
			value |= c - '0';
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			value |= (c | 0x20) - 'a' + 10;
		else
			return -1;
	}
	return value;
}

/* What follows a backslash. UTF-16 surrogates come in pairs. */
static bool scan_escape(struct scanner *s)
{
	int unit;

	if (s->p == s->end)
		return false;
	if (*s->p != 'u')
		return memchr("\"\\/bfnrt", *s->p++, 8) != NULL;
	s->p++;
	unit = scan_hex4(s);
	if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff))
		return false;
	if (unit < 0xd800 || unit > 0xdbff)
		return true;
	if (!take(s, '\\') || !take(s, 'u'))
		return false;
	unit = scan_hex4(s);
	return unit >= 0xdc00 && unit <= 0xdfff;
}

static bool scan_string(struct scanner *s)
{
	if (!take(s, '"'))
		return false;
	while (s->p < s->end) {
		unsigned char c = (unsigned char)*s->p++;

		if (c == '"')
			return true;
		if (c < 0x20 || (c == '\\' && !scan_escape(s)))
			return false;
	}
	return false;
}

static bool scan_word(struct scanner *s, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0)
		return false;
	s->p += n;
	return true;
}

static bool scan_array(struct scanner *s)
{
	if (!take(s, '['))
		return false;
	skip_blanks(s);
	if (take(s, ']'))
		return true;
	do {
		if (!scan_value(s))
			return false;
	} while (take(s, ','));
	return take(s, ']');
}

/* A member of the outermost object, whose value is `text`. */
static bool note_member(
	struct envelope *env, const char *key, size_t key_len, const char *text, size_t text_len)
{
	if (env->method == NULL && key_len == 6 && memcmp(key, "method", 6) == 0) {
		if (text[0] != '"')
			return false;
		env->method = text + 1;
		env->method_len = text_len - 2;
	} else if (env->id == NULL && key_len == 2 && memcmp(key, "id", 2) == 0) {
		if (strchr("{[tf", text[0]) != NULL)
			return false;
		env->id = text;
		env->id_len = text_len;
	}
	return true;
}

/* With `env`: the outermost object. */
static bool scan_object(struct scanner *s, struct envelope *env)
{
	if (!take(s, '{'))
		return false;
	skip_blanks(s);
	if (take(s, '}'))
		return true;
	do {
		const char *key, *key_end, *value, *value_end;

		skip_blanks(s);
		key = s->p + 1;
		if (!scan_string(s))
			return false;
		key_end = s->p - 1;
		skip_blanks(s);
		if (!take(s, ':'))
			return false;
		skip_blanks(s);
		value = s->p;
		if (!scan_value(s))
			return false;
		value_end = s->p;
		while (value_end > value && strchr(" \t\r\n", value_end[-1]) != NULL)
			value_end--;
		if (env != NULL && !note_member(env, key, (size_t)(key_end - key), value,
					   (size_t)(value_end - value)))
			return false;
	} while (take(s, ','));
	return take(s, '}');
}

/* A value and the blanks around it. */
static bool scan_value(struct scanner *s)
{
	bool ok;

	if (s->depth == ENVELOPE_MAX_DEPTH)
		return false;
	s->depth++;
	skip_blanks(s);
	switch (s->p < s->end ? *s->p : '\0') {
	case '{':
		ok = scan_object(s, NULL);
		break;
	case '[':
		ok = scan_array(s);
		break;
	case '"':
		ok = scan_string(s);
		break;
	case 't':
		ok = scan_word(s, "true");
		break;
	case 'f':
		ok = scan_word(s, "false");
		break;
	case 'n':
		ok = scan_word(s, "null");
		break;
	default:
		ok = scan_number(s);
		break;
	}
	s->depth--;
	skip_blanks(s);
	return ok;
}

int envelope_scan(const char *line, size_t n, struct envelope *env)
{
	struct scanner s = {.p = line, .end = line + n, .depth = 1};

	memset(env, 0, sizeof(*env));
	skip_blanks(&s);
	if (!scan_object(&s, env))
		return EBADMSG;
	skip_blanks(&s);
	return s.p == s.end ? 0 : EBADMSG;
}
