/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/progress.h"

#include <stdlib.h>
#include <string.h>

#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/term.h"
#include "controller/cli/text.h"

struct progress {
	FILE *out;
	bool screen, colour;
	size_t columns;
	int n_told;  /* steps that have had their line */
	char *label; /* safe: what the rewritten line says before the time */
	char *line;  /* as it stands on the screen */
};

struct progress *progress_new(FILE *out, bool screen, bool colour, size_t columns)
{
	struct progress *progress = mem_alloc(sizeof(*progress));

	*progress = (struct progress){
		.out = out, .screen = screen, .colour = colour, .columns = columns};
	return progress;
}

static void clear_line(struct progress *progress)
{
	if (progress->line) {
		fputs("\r\033[K", progress->out);
		fflush(progress->out);
	}
	free(progress->line);
	progress->line = NULL;
}

void progress_tick(struct progress *progress, double elapsed_ms)
{
	char duration[32], *line;

	if (!progress->screen || !progress->label)
		return;
	/* Tenths of a second would flicker. */
	if (elapsed_ms < 60000)
		snprintf(duration, sizeof(duration), "%.0f s", elapsed_ms / 1000);
	else
		text_duration(elapsed_ms, duration);
	line = mem_printf("%s  %s", progress->label, duration);
	if (progress->columns > 1)
		line[text_fit(line, progress->columns - 1)] = '\0';
	if (progress->line && strcmp(progress->line, line) == 0) {
		free(line);
		return;
	}
	clear_line(progress);
	fputs(line, progress->out);
	fflush(progress->out);
	progress->line = line;
}

static bool has_ended(const cJSON *step)
{
	const char *state = json_string(step, "state");

	return state && strcmp(state, "pending") != 0 && strcmp(state, "running") != 0;
}

static void tell_step(struct progress *progress, const cJSON *step, int number, int n)
{
	const char *name = json_string(step, "name"), *state = json_string(step, "state");
	const char *detail = json_string(step, "detail");
	double took = json_number(step, "took_ms", -1);
	char duration[32];
	enum paint paint = progress->colour ? term_paint_of_state(state) : PAINT_NONE;

	fprintf(progress->out, "  %d/%d ", number, n);
	text_write_safe(progress->out, name ? name : "step");
	fprintf(progress->out, ": %s", term_on(paint));
	text_write_safe(progress->out, state);
	fputs(term_off(paint), progress->out);
	if (took >= 0)
		fprintf(progress->out, " (%s)", text_duration(took, duration));
	if (detail && *detail) {
		fputs(" ", progress->out);
		text_write_safe(progress->out, detail);
	}
	fputc('\n', progress->out);
	fflush(progress->out);
}

static void tell_ended_steps(struct progress *progress, const cJSON *steps, int n)
{
	for (; progress->n_told < n; progress->n_told++) {
		const cJSON *step = cJSON_GetArrayItem(steps, progress->n_told);

		if (!has_ended(step))
			return;
		tell_step(progress, step, progress->n_told + 1, n);
	}
}

static void set_label(struct progress *progress, const cJSON *operation, int n_ended, int n)
{
	const char *verb = json_string(operation, "verb"), *step = json_string(operation, "step");
	const char *object = json_string(operation, "object");
	double share = json_number(operation, "progress", -1);
	struct mem_stream stream;

	mem_stream_open(&stream);
	text_write_safe(stream.file, verb ? verb : "operation");
	fputc(' ', stream.file);
	text_write_safe(stream.file, object ? object : "");
	if (n > 0)
		fprintf(stream.file, "  %d/%d", n_ended < n ? n_ended + 1 : n, n);
	if (step && *step) {
		fputc(' ', stream.file);
		text_write_safe(stream.file, step);
	}
	if (share >= 0 && share <= 1)
		fprintf(stream.file, "  %.0f %%", share * 100);
	free(progress->label);
	progress->label = mem_text(&stream);
}

void progress_show(struct progress *progress, const cJSON *operation, double elapsed_ms)
{
	int n, n_ended = 0;
	const cJSON *steps = json_array(operation, "steps", &n), *step;

	if (!progress->screen) {
		tell_ended_steps(progress, steps, n);
		return;
	}
	cJSON_ArrayForEach (step, steps)
		n_ended += has_ended(step);
	set_label(progress, operation, n_ended, n);
	progress_tick(progress, elapsed_ms);
}

void progress_note(struct progress *progress, const char *text)
{
	clear_line(progress);
	text_write_safe(progress->out, text);
	fputc('\n', progress->out);
	fflush(progress->out);
}

void progress_free(struct progress *progress)
{
	if (!progress)
		return;
	clear_line(progress);
	free(progress->label);
	free(progress);
}
