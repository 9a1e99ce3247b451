/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "image/alive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cjson/cJSON.h>

#define MAX_ID 64

struct program {
	unsigned long question; /* that isn't answered; 0: none */
	int64_t asked_ms;
};

struct waiting {
	bool used;
	char id[MAX_ID + 1];
	int64_t due_ms;
	bool known[ALIVE_PROGRAMS];
	char why[ALIVE_PROGRAMS][ALIVE_WHY_SIZE]; /* "": nothing is wrong */
};

struct alive {
	const char *names[ALIVE_PROGRAMS];
	size_t n;
	alive_answer_fn answer;
	void *ctx;
	struct program programs[ALIVE_PROGRAMS];
	struct waiting waiting[ALIVE_WAITING];
};

struct alive *alive_create(const char *const *names, size_t n, alive_answer_fn answer, void *ctx)
{
	struct alive *alive = n <= ALIVE_PROGRAMS ? calloc(1, sizeof(*alive)) : NULL;

	if (alive == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++)
		alive->names[i] = names[i];
	alive->n = n;
	alive->answer = answer;
	alive->ctx = ctx;
	return alive;
}

void alive_destroy(struct alive *alive)
{
	free(alive);
}

static double uptime_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (double)now.tv_sec * 1000 + (double)(now.tv_nsec / 1000000);
}

static void answer(struct alive *alive, struct waiting *w)
{
	cJSON *message = cJSON_CreateObject(), *result;
	char *line;

	w->used = false;
	cJSON_AddStringToObject(message, "jsonrpc", "2.0");
	cJSON_AddRawToObject(message, "id", w->id);
	result = cJSON_AddObjectToObject(message, "result");
	cJSON_AddNumberToObject(result, "uptime_ms", uptime_ms());
	for (size_t i = 0; i < alive->n; i++) {
		cJSON *one = cJSON_AddObjectToObject(result, alive->names[i]);

		cJSON_AddBoolToObject(one, "ok", w->why[i][0] == '\0');
		if (w->why[i][0] != '\0')
			cJSON_AddStringToObject(one, "why", w->why[i]);
	}
	line = cJSON_PrintUnformatted(message);
	cJSON_Delete(message);
	if (line == NULL)
		return; /* no memory: the silence is true */
	alive->answer(alive->ctx, line, strlen(line));
	alive->answer(alive->ctx, "\n", 1);
	free(line);
}

static bool knows_all(const struct alive *alive, const struct waiting *w)
{
	for (size_t i = 0; i < alive->n; i++)
		if (!w->known[i])
			return false;
	return true;
}

bool alive_begin(struct alive *alive, const char *id, int64_t now_ms)
{
	for (size_t i = 0; i < ALIVE_WAITING; i++) {
		struct waiting *w = &alive->waiting[i];

		if (w->used)
			continue;
		*w = (struct waiting){.used = true, .due_ms = now_ms + ALIVE_LIMIT_MS};
		snprintf(w->id, sizeof(w->id), "%s", id);
		return true;
	}
	return false;
}

bool alive_must_ask(const struct alive *alive, size_t program)
{
	return program < alive->n && alive->programs[program].question == 0;
}

void alive_asked(struct alive *alive, size_t program, unsigned long question, int64_t now_ms)
{
	alive->programs[program] = (struct program){.question = question, .asked_ms = now_ms};
}

bool alive_is_asked(const struct alive *alive, size_t program, unsigned long question)
{
	return program < alive->n && question != 0 && alive->programs[program].question == question;
}

void alive_told(struct alive *alive, size_t program, const char *why)
{
	if (program >= alive->n)
		return;
	alive->programs[program] = (struct program){0};
	for (size_t i = 0; i < ALIVE_WAITING; i++) {
		struct waiting *w = &alive->waiting[i];

		if (!w->used || w->known[program])
			continue;
		w->known[program] = true;
		snprintf(w->why[program], ALIVE_WHY_SIZE, "%s", why != NULL ? why : "");
		if (knows_all(alive, w))
			answer(alive, w);
	}
}

int64_t alive_next_ms(const struct alive *alive)
{
	int64_t next = INT64_MAX;

	for (size_t i = 0; i < ALIVE_WAITING; i++)
		if (alive->waiting[i].used && alive->waiting[i].due_ms < next)
			next = alive->waiting[i].due_ms;
	return next;
}

void alive_run(struct alive *alive, int64_t now_ms)
{
	for (size_t i = 0; i < ALIVE_WAITING; i++) {
		struct waiting *w = &alive->waiting[i];

		if (!w->used || w->due_ms > now_ms)
			continue;
		for (size_t k = 0; k < alive->n; k++) {
			const struct program *p = &alive->programs[k];
			int64_t since = p->question != 0 ? p->asked_ms : w->due_ms - ALIVE_LIMIT_MS;

			if (!w->known[k])
				snprintf(w->why[k], ALIVE_WHY_SIZE, "no answer for %lld ms",
					(long long)(now_ms - since));
		}
		answer(alive, w);
	}
}

void alive_forget(struct alive *alive)
{
	memset(alive->waiting, 0, sizeof(alive->waiting));
}
