/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/args.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/text.h"

#define NAME_MAX_LEN 40 /* longer words are like nothing that we have */
#define MAX_NAMES 64

/* ---- the nearest right word ---------------------------------------------------------------- */

static size_t min3(size_t a, size_t b, size_t c)
{
	size_t least = a < b ? a : b;

	return least < c ? least : c;
}

/* Optimal string alignment: insertions, deletions, substitutions, transpositions of neighbours. */
static size_t distance(const char *a, const char *b)
{
	size_t rows[3][NAME_MAX_LEN + 1];
	size_t *before = rows[0], *last = rows[1], *now = rows[2];
	size_t n_a = strlen(a), n_b = strlen(b);

	if (n_a > NAME_MAX_LEN || n_b > NAME_MAX_LEN)
		return SIZE_MAX;
	for (size_t j = 0; j <= n_b; j++) {
		before[j] = 0;
		last[j] = j;
	}
	for (size_t i = 1; i <= n_a; i++) {
		size_t *oldest = before;

		now[0] = i;
		for (size_t j = 1; j <= n_b; j++) {
			now[j] = min3(
				last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				before[j - 2] + 1 < now[j])
				now[j] = before[j - 2] + 1;
		}
		before = last;
		last = now;
		now = oldest;
	}
	return last[n_b];
}

const char *args_nearest(const char *name, const char *const *names, size_t n)
{
	size_t len = strlen(name), best = SIZE_MAX;
	const char *nearest = NULL;

	for (size_t i = 0; i < n; i++) {
		size_t d = distance(name, names[i]);

		if (len >= 2 && strncmp(name, names[i], len) == 0)
			d = 1; /* an abbreviation */
		if (d < best) {
			best = d;
			nearest = names[i];
		}
	}
	return best <= (len < 4 ? 1 : len / 3 + 1) ? nearest : NULL;
}

/* ---- telling what is wrong ----------------------------------------------------------------- */

static void write_path(FILE *out, const struct args *args)
{
	fputs("edgeplex", out);
	if (args->noun)
		fprintf(out, " %s", args->noun->name);
	if (args->verb && *args->verb->name)
		fprintf(out, " %s", args->verb->name);
}

static void write_help_hint(FILE *err, const struct args *args)
{
	fputs("  fix: see ", err);
	write_path(err, args);
	fputs(" --help\n", err);
}

/* `kind` is "command", "option", …; `names` are those that would be right there. */
static int unknown(FILE *err, const struct args *args, const char *kind, const char *name,
	const char *dashes, const char *const *names, size_t n)
{
	const char *nearest = args_nearest(name, names, n);

	fputs("error: ", err);
	write_path(err, args);
	fprintf(err, ": unknown %s \"%s", kind, dashes);
	text_write_safe(err, name);
	fputs("\"", err);
	if (nearest) {
		fprintf(err, "; did you mean \"%s%s\"?\n", dashes, nearest);
	} else {
		fputs("; there is", err);
		for (size_t i = 0; i < n; i++)
			fprintf(err, "%s %s%s", i ? "," : "", dashes, names[i]);
		fputc('\n', err);
	}
	write_help_hint(err, args);
	return CLI_USAGE;
}

static int unknown_noun(FILE *err, const struct args *args, const char *name)
{
	const char *names[MAX_NAMES];
	size_t n = 0;

	for (const struct noun *noun = command_nouns; noun->name && n < MAX_NAMES; noun++) {
		if (!noun->verbs->hidden)
			names[n++] = noun->name;
	}
	return unknown(err, args, "command", name, "", names, n);
}

static int unknown_verb(FILE *err, const struct args *args, const char *name)
{
	const char *names[MAX_NAMES];
	size_t n = 0;

	for (const struct verb *verb = args->noun->verbs; verb->name && n < MAX_NAMES; verb++) {
		if (!verb->hidden)
			names[n++] = verb->name;
	}
	return unknown(err, args, "verb", name, "", names, n);
}

static size_t add_options(const struct option *options, const char **names, size_t n)
{
	for (; options && options->name && n < MAX_NAMES; options++)
		names[n++] = options->name;
	return n;
}

static int unknown_option(FILE *err, const struct args *args, const char *name)
{
	const char *names[MAX_NAMES];
	size_t n = add_options(args->verb ? args->verb->options : NULL, names, 0);

	n = add_options(command_global_options, names, n);
	return unknown(err, args, "option", name, "--", names, n);
}

__attribute__((format(printf, 3, 4))) static int wrong(
	FILE *err, const struct args *args, const char *fmt, ...)
{
	va_list list;
	struct mem_stream stream;
	char *text;

	mem_stream_open(&stream);
	va_start(list, fmt);
	vfprintf(stream.file, fmt, list);
	va_end(list);
	text = mem_text(&stream);
	fputs("error: ", err);
	write_path(err, args);
	fputs(": ", err);
	text_write_safe(err, text);
	fputc('\n', err);
	write_help_hint(err, args);
	free(text);
	return CLI_USAGE;
}

/* ---- values -------------------------------------------------------------------------------- */

/* A whole number of at most 10 digits, from `text` up to `end`. */
static bool read_number(const char *text, const char *end, double *number)
{
	double n = 0;

	if (text == end || end - text > 10)
		return false;
	for (; text < end; text++) {
		if (!isdigit((unsigned char)*text))
			return false;
		n = n * 10 + (*text - '0');
	}
	*number = n;
	return true;
}

/* NULL if it isn't "ADDRESS,ASN[,MAX-PREFIXES]". */
static cJSON *read_ce(const char *text)
{
	const char *asn = strchr(text, ','), *max, *end = text + strlen(text);
	double number, max_prefixes = 0;
	char *address;
	cJSON *ce;

	if (!asn || asn == text)
		return NULL;
	address = mem_printf("%.*s", (int)(asn - text), text);
	asn++;
	max = strchr(asn, ',');
	if (!read_number(asn, max ? max : end, &number) ||
		(max && !read_number(max + 1, end, &max_prefixes))) {
		free(address);
		return NULL;
	}
	ce = mem_check(cJSON_CreateObject());
	json_put(ce, "address", cJSON_CreateString(address));
	json_put(ce, "asn", cJSON_CreateNumber(number));
	if (max)
		json_put(ce, "max_prefixes", cJSON_CreateNumber(max_prefixes));
	free(address);
	return ce;
}

/* NULL if it isn't "100ms", "2s" or "100". */
static cJSON *read_ms(const char *text)
{
	size_t len = strspn(text, "0123456789");
	const char *unit = text + len;
	double number;

	if (strcmp(unit, "") != 0 && strcmp(unit, "ms") != 0 && strcmp(unit, "s") != 0)
		return NULL;
	if (!read_number(text, unit, &number))
		return NULL;
	return mem_check(cJSON_CreateNumber(strcmp(unit, "s") == 0 ? number * 1000 : number));
}

/* The value as the API takes it; NULL if it is malformed. */
static cJSON *read_value(enum value_type type, const char *text)
{
	double number;

	switch (type) {
	case VALUE_NUMBER:
		if (!read_number(text, text + strlen(text), &number))
			return NULL;
		return mem_check(cJSON_CreateNumber(number));
	case VALUE_CE:
		return read_ce(text);
	case VALUE_MS:
		return read_ms(text);
	case VALUE_OR_NONE:
		if (strcmp(text, "none") == 0)
			return mem_check(cJSON_CreateNull());
		break;
	case VALUE_TEXT:
		break;
	}
	return mem_check(cJSON_CreateString(text));
}

/* ---- reading ------------------------------------------------------------------------------- */

static int take_option(struct args *args, const struct option *option, const char *value, FILE *err)
{
	cJSON *parsed;

	if (command_find_option(command_global_options, option->name) == option) {
		if (strcmp(option->name, "help") == 0)
			args->help = true;
		else if (strcmp(option->name, "version") == 0)
			args->version = true;
		else if (strcmp(option->name, "json") == 0)
			args->json = true;
		else if (strcmp(option->name, "no-color") == 0)
			args->no_colour = true;
		else
			args->socket = value;
		return CLI_OK;
	}
	if (!option->repeats && args_value(args, option->name))
		return wrong(err, args, "--%s is given twice", option->name);
	if (option->choices && !command_is_choice(option->choices, value))
		return wrong(err, args, "--%s \"%s\" is not one of: %s", option->name, value,
			option->choices);
	parsed = read_value(option->type, value);
	if (!parsed)
		return wrong(err, args, "--%s \"%s\" is not %s", option->name, value,
			option->type == VALUE_NUMBER ? "a whole number"
			: option->type == VALUE_MS   ? "a time like 100ms or 2s"
						     : option->value);
	cJSON_Delete(parsed);
	args->values[args->n_values++] = (struct args_value){option, value};
	return CLI_OK;
}

/* Reads the option at argv[*i], and moves *i to its last word. */
static int read_option(struct args *args, int argc, char **argv, int *i, FILE *err)
{
	const char *word = argv[*i] + 2, *equals = strchr(word, '='), *value = "";
	char name[NAME_MAX_LEN + 1];
	size_t len = equals ? (size_t)(equals - word) : strlen(word);
	const struct option *option = NULL;

	snprintf(name, sizeof(name), "%.*s", (int)(len < NAME_MAX_LEN ? len : NAME_MAX_LEN), word);
	if (args->verb)
		option = command_find_option(args->verb->options, name);
	if (!option)
		option = command_find_option(command_global_options, name);
	if (!option)
		return unknown_option(err, args, name);
	if (!option->value && equals)
		return wrong(err, args, "--%s takes no value", name);
	if (option->value && equals) {
		value = equals + 1;
	} else if (option->value) {
		if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
			return wrong(err, args, "--%s lacks its value: --%s %s", name, name,
				option->value);
		value = argv[++*i];
	}
	return take_option(args, option, value, err);
}

static int read_word(struct args *args, const char *word, FILE *err)
{
	const struct argument *argument;

	if (!args->noun) {
		args->noun = command_find_noun(word);
		if (!args->noun)
			return unknown_noun(err, args, word);
		if (!*args->noun->verbs->name)
			args->verb = args->noun->verbs;
		return CLI_OK;
	}
	if (!args->verb) {
		args->verb = command_find_verb(args->noun, word);
		return args->verb ? CLI_OK : unknown_verb(err, args, word);
	}
	if (args->n_arguments == command_count_arguments(args->verb))
		return wrong(err, args, "\"%s\" is one argument too many", word);
	argument = &args->verb->arguments[args->n_arguments];
	if (argument->choices && !command_is_choice(argument->choices, word))
		return wrong(err, args, "%s \"%s\" is not one of: %s", argument->name, word,
			argument->choices);
	args->arguments[args->n_arguments++] = word;
	return CLI_OK;
}

/* Is everything there that must be? */
static int check_complete(const struct args *args, FILE *err)
{
	struct mem_stream missing;
	size_t n = 0, n_arguments;
	char *text;
	int code = CLI_OK;

	if (!args->noun)
		return wrong(err, args, "a command is missing, like \"edgeplex status\"");
	if (!args->verb) {
		mem_stream_open(&missing);
		for (const struct verb *verb = args->noun->verbs; verb->name; verb++)
			fprintf(missing.file, "%s%s", n++ ? ", " : "", verb->name);
		text = mem_text(&missing);
		code = wrong(err, args, "a verb is missing: %s", text);
		free(text);
		return code;
	}
	n_arguments = command_count_arguments(args->verb);
	mem_stream_open(&missing);
	for (size_t i = args->n_arguments; i < n_arguments; i++) {
		const struct argument *argument = &args->verb->arguments[i];

		if (!argument->optional)
			fprintf(missing.file, "%s%s", n++ ? ", " : "", argument->name);
	}
	for (const struct option *o = args->verb->options; o && o->name; o++) {
		if (o->required && !args_value(args, o->name))
			fprintf(missing.file, "%s--%s %s", n++ ? ", " : "", o->name, o->value);
	}
	text = mem_text(&missing);
	if (n > 0)
		code = wrong(err, args, "%s missing: %s",
			n == 1 ? "an argument is" : "arguments are", text);
	free(text);
	return code;
}

int args_parse(int argc, char **argv, struct args *args, FILE *err)
{
	bool options_ended = false;
	int i = 1;

	*args = (struct args){.values = mem_alloc((size_t)argc * sizeof(*args->values))};
	if (argc > 1 && strcmp(argv[1], "help") == 0) {
		args->help = true;
		i = 2;
	}
	for (; i < argc; i++) {
		int code;

		if (args->verb && args->verb->rest) {
			args->rest = argv + i;
			args->n_rest = (size_t)(argc - i);
			break;
		}
		if (!options_ended && strcmp(argv[i], "--") == 0) {
			options_ended = true;
			continue;
		}
		if (!options_ended && strcmp(argv[i], "-h") == 0) {
			args->help = true;
			continue;
		}
		if (!options_ended && strncmp(argv[i], "--", 2) == 0)
			code = read_option(args, argc, argv, &i, err);
		else if (!options_ended && argv[i][0] == '-' && argv[i][1] != '\0')
			code = wrong(err, args,
				"unknown option \"%s\"; options begin with two dashes", argv[i]);
		else
			code = read_word(args, argv[i], err);
		if (code != CLI_OK)
			return code;
	}
	if (args->help || (args->version && !args->noun))
		return CLI_OK;
	return check_complete(args, err);
}

void args_free(struct args *args)
{
	free(args->values);
	*args = (struct args){0};
}

const char *args_value(const struct args *args, const char *option)
{
	for (size_t i = args->n_values; i > 0; i--) {
		if (strcmp(args->values[i - 1].option->name, option) == 0)
			return args->values[i - 1].value;
	}
	return NULL;
}

bool args_flag(const struct args *args, const char *option)
{
	return args_value(args, option) != NULL;
}

/* ---- the request's body -------------------------------------------------------------------- */

static void put_field(cJSON *body, const struct option *option, cJSON *value)
{
	cJSON *list;

	if (!option->repeats) {
		json_put(body, option->field, value);
		return;
	}
	list = (cJSON *)json_at(body, option->field);
	if (!list) {
		list = mem_check(cJSON_CreateArray());
		json_put(body, option->field, list);
	}
	/* "none": the list without it. */
	if (cJSON_IsNull(value))
		cJSON_Delete(value);
	else
		cJSON_AddItemToArray(list, value);
}

cJSON *args_body(const struct args *args)
{
	cJSON *body = mem_check(cJSON_CreateObject());

	for (size_t i = 0; i < args->n_arguments; i++) {
		const struct argument *argument = &args->verb->arguments[i];

		if (argument->field)
			json_put(body, argument->field, cJSON_CreateString(args->arguments[i]));
	}
	for (size_t i = 0; i < args->n_values; i++) {
		const struct option *option = args->values[i].option;

		if (option->field)
			put_field(body, option, read_value(option->type, args->values[i].value));
	}
	return body;
}

/* Does the pointer "/core/address" or "/addresses/0" belong to the field "core/address"? */
static bool points_into(const char *pointer, const char *field)
{
	size_t len = strlen(field);

	return pointer[0] == '/' && strncmp(pointer + 1, field, len) == 0 &&
	       (pointer[1 + len] == '\0' || pointer[1 + len] == '/');
}

char *args_origin(const struct args *args, const char *pointer)
{
	if (!args->verb)
		return NULL;
	for (size_t i = 0; i < command_count_arguments(args->verb); i++) {
		const struct argument *argument = &args->verb->arguments[i];

		if (argument->field && points_into(pointer, argument->field))
			return mem_strdup(argument->name);
	}
	for (const struct option *o = args->verb->options; o && o->name; o++) {
		if (o->field && points_into(pointer, o->field))
			return mem_printf("--%s", o->name);
	}
	return NULL;
}
