/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bgp/bgp_cfg.h"
#include "common/log.h"

static void free_line(struct cfg_line *line)
{
	free(line->context);
	free(line->text);
	free(line->undo);
	free(line->owner);
}

void cfg_free(struct cfg *cfg)
{
	for (size_t i = 0; i < cfg->n; i++)
		free_line(&cfg->lines[i]);
	free(cfg->lines);
	memset(cfg, 0, sizeof(*cfg));
}

/* Takes the strings of `line`. */
static bool append(struct cfg *cfg, struct cfg_line *line)
{
	if (cfg->n == cfg->size) {
		size_t size = cfg->size ? cfg->size * 2 : 64;
		struct cfg_line *lines = realloc(cfg->lines, size * sizeof(*lines));

		if (!lines)
			return false;
		cfg->lines = lines;
		cfg->size = size;
	}
	cfg->lines[cfg->n++] = *line;
	return true;
}

/* FNV-1a. */
static uint64_t hash_of(const char *a, const char *b)
{
	uint64_t hash = 14695981039346656037u;

	for (; *a; a++)
		hash = (hash ^ (unsigned char)*a) * 1099511628211u;
	hash *= 1099511628211u;
	for (; *b; b++)
		hash = (hash ^ (unsigned char)*b) * 1099511628211u;
	return hash;
}

void cfg_add(struct cfg *cfg, const char *context, const char *owner, const char *undo,
	const char *fmt, ...)
{
	struct cfg_line line = {.context = strdup(context)};
	bool failed = !line.context;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&line.text, fmt, args) < 0) {
		line.text = NULL;
		failed = true;
	}
	va_end(args);
	if (undo)
		failed |= !(line.undo = strdup(undo));
	else if (line.text && asprintf(&line.undo, "no %s", line.text) < 0) {
		line.undo = NULL;
		failed = true;
	}
	if (owner)
		failed |= !(line.owner = strdup(owner));
	if (!failed && line.text && line.undo) {
		line.line_hash = hash_of(line.context, line.text);
		line.setting_hash = hash_of(line.context, line.undo);
	}
	if (failed || !append(cfg, &line)) {
		free_line(&line);
		cfg->failed = true;
	}
}

static bool same_line(const struct cfg_line *a, const struct cfg_line *b)
{
	return a->line_hash == b->line_hash && !strcmp(a->text, b->text) &&
	       !strcmp(a->context, b->context);
}

static bool same_setting(const struct cfg_line *a, const struct cfg_line *b)
{
	return a->setting_hash == b->setting_hash && !strcmp(a->undo, b->undo) &&
	       !strcmp(a->context, b->context);
}

/* Does `line` go when `head` goes? */
static bool belongs_to(const struct cfg_line *line, const struct cfg_line *head)
{
	size_t n = strlen(head->text);

	if (line == head)
		return false;
	if (line->owner && !strcmp(line->owner, head->text))
		return true;
	return !*head->context && !strncmp(line->context, head->text, n) &&
	       (line->context[n] == '\0' || line->context[n] == '\n');
}

static void remove_line(struct cfg *cfg, size_t at)
{
	free_line(&cfg->lines[at]);
	cfg->n--;
	for (; at < cfg->n; at++)
		cfg->lines[at] = cfg->lines[at + 1];
}

static bool wanted_in(const struct cfg *wanted, const struct cfg_line *line)
{
	for (size_t i = 0; i < wanted->n; i++)
		if (same_line(&wanted->lines[i], line) || same_setting(&wanted->lines[i], line))
			return true;
	return false;
}

/* Takes `at` and everything that belongs to it out of the list. Returns how many were before `at`.
 */
static size_t remove_with_belongings(struct cfg *cfg, size_t at)
{
	struct cfg_line head = cfg->lines[at];
	size_t before = 0;

	for (size_t i = cfg->n; i-- > 0;) {
		if (i == at || !belongs_to(&cfg->lines[i], &head))
			continue;
		remove_line(cfg, i);
		if (i < at) {
			at--;
			before++;
		}
	}
	remove_line(cfg, at);
	return before;
}

static bool goes_with_another(const struct cfg *running, const struct cfg *wanted, size_t at)
{
	for (size_t i = 0; i < running->n; i++)
		if (belongs_to(&running->lines[at], &running->lines[i]) &&
			!wanted_in(wanted, &running->lines[i]))
			return true;
	return false;
}

static int take_back(struct cfg *running, const struct cfg *wanted, cfg_executor execute, void *ctx,
	char *why, size_t why_size)
{
	for (size_t i = running->n; i-- > 0;) {
		struct cfg_line *line = &running->lines[i];

		if (wanted_in(wanted, line) || goes_with_another(running, wanted, i))
			continue;
		if (execute(ctx, line->context, line->undo, why, why_size))
			return -1;
		i -= remove_with_belongings(running, i);
	}
	return 0;
}

static int enter(struct cfg *running, struct cfg_line *line, cfg_executor execute, void *ctx,
	char *why, size_t why_size)
{
	size_t at;

	for (at = 0; at < running->n; at++) {
		if (same_line(&running->lines[at], line))
			return 0;
		if (same_setting(&running->lines[at], line))
			break;
	}
	if (execute(ctx, line->context, line->text, why, why_size))
		return -1;
	if (at < running->n) {
		/* The old line is freed with the list that the new one came from. */
		struct cfg_line old = running->lines[at];

		running->lines[at] = *line;
		*line = old;
		return 0;
	}
	if (!append(running, line)) {
		execute(ctx, line->context, line->undo, why, why_size);
		snprintf(why, why_size, "out of memory");
		return -1;
	}
	memset(line, 0, sizeof(*line));
	return 0;
}

static int go(struct cfg *running, struct cfg *wanted, cfg_executor execute, void *ctx, char *why,
	size_t why_size)
{
	if (take_back(running, wanted, execute, ctx, why, why_size))
		return -1;
	for (size_t i = 0; i < wanted->n; i++)
		if (enter(running, &wanted->lines[i], execute, ctx, why, why_size))
			return -1;
	return 0;
}

static bool copy(const struct cfg *from, struct cfg *to)
{
	for (size_t i = 0; i < from->n; i++)
		cfg_add(to, from->lines[i].context, from->lines[i].owner, from->lines[i].undo, "%s",
			from->lines[i].text);
	return !to->failed;
}

int cfg_change(struct cfg *running, struct cfg *wanted, cfg_executor execute, void *ctx, char *why,
	size_t why_size)
{
	struct cfg former = {0};
	char ignored[256];
	int result = -1;

	if (wanted->failed || !copy(running, &former))
		snprintf(why, why_size, "out of memory");
	else if (go(running, wanted, execute, ctx, why, why_size)) {
		if (go(running, &former, execute, ctx, ignored, sizeof(ignored)))
			log_error("couldn't restore the former BGP configuration: %s", ignored);
	} else
		result = 0;
	cfg_free(&former);
	cfg_free(wanted);
	return result;
}
