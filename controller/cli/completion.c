/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/completion.h"

#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"

#define TIMEOUT_MS 2000 /* somebody waits for the TAB key */
#define MAX_CANDIDATES 1000

static const char script[] =
	"# bash completion of edgeplex; load it with: . <(edgeplex completion bash)\n"
	"_edgeplex()\n"
	"{\n"
	"\tlocal candidates\n"
	"\tmapfile -t candidates < <(\"${COMP_WORDS[0]}\" __complete \"$COMP_CWORD\" "
	"\"${COMP_WORDS[@]}\" 2>/dev/null)\n"
	"\tif [ \"${candidates[0]}\" = __files ]; then\n"
	"\t\tcompopt -o default\n"
	"\t\tCOMPREPLY=()\n"
	"\telse\n"
	"\t\tCOMPREPLY=(\"${candidates[@]}\")\n"
	"\tfi\n"
	"}\n"
	"complete -F _edgeplex edgeplex\n";

int completion_run_bash(struct cli *cli, const struct args *args)
{
	(void)args;
	fputs(script, cli->out);
	return CLI_OK;
}

/* Where on the command line the cursor is. */
struct place {
	const struct noun *noun;
	const struct verb *verb;
	size_t n_arguments;
	const struct option *value_of; /* option whose value comes next */
	const char *socket;
};

static const struct option *find_option(const struct place *place, const char *word)
{
	const struct option *option = NULL;

	if (strncmp(word, "--", 2) != 0)
		return NULL;
	if (place->verb)
		option = command_find_option(place->verb->options, word + 2);
	return option ? option : command_find_option(command_global_options, word + 2);
}

/* Goes one word on. */
static void pass(struct place *place, const char *word)
{
	if (place->value_of) {
		if (strcmp(word, "=") == 0)
			return;
		if (strcmp(place->value_of->name, "socket") == 0)
			place->socket = word;
		place->value_of = NULL;
	} else if (word[0] == '-') {
		const struct option *option = find_option(place, word);

		if (option && option->value)
			place->value_of = option;
	} else if (!place->noun) {
		place->noun = command_find_noun(word);
		if (place->noun && !*place->noun->verbs->name)
			place->verb = place->noun->verbs;
	} else if (!place->verb) {
		place->verb = command_find_verb(place->noun, word);
	} else {
		place->n_arguments++;
	}
}

static void offer(FILE *out, const char *candidate, const char *dashes, const char *begun)
{
	size_t n = strlen(dashes);

	if (strncmp(begun, dashes, strlen(begun) < n ? strlen(begun) : n) == 0 &&
		(strlen(begun) <= n || strncmp(candidate, begun + n, strlen(begun) - n) == 0))
		fprintf(out, "%s%s\n", dashes, candidate);
}

static void offer_choices(FILE *out, const char *choices, const char *begun)
{
	while (*choices) {
		size_t len = strcspn(choices, " ");
		char *choice = mem_printf("%.*s", (int)len, choices);

		offer(out, choice, "", begun);
		free(choice);
		choices += len + (choices[len] == ' ');
	}
}

/* Only what the shell takes for nothing else: the names come from elsewhere. */
static bool is_plain(const char *name)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-_.";

	return *name && *name != '-' && strspn(name, plain) == strlen(name);
}

static void offer_objects(
	struct client *client, FILE *out, const char *path, const char *key, const char *begun)
{
	struct client_answer answer;
	const cJSON *item;
	int n = 0;

	if (client_request(client, "GET", path, NULL, TIMEOUT_MS, NULL, &answer) != CLIENT_ANSWERED)
		return;
	cJSON_ArrayForEach (item, json_at(answer.body, "items")) {
		char *name = json_text(json_at(item, key));

		if (is_plain(name) && n++ < MAX_CANDIDATES)
			offer(out, name, "", begun);
		free(name);
	}
	cJSON_Delete(answer.body);
}

static void offer_names(
	struct cli *cli, const struct place *place, enum names names, const char *begun)
{
	static const char *const nouns[] = {[NAMES_SITES] = "site",
		[NAMES_SERVERS] = "server",
		[NAMES_CUSTOMERS] = "customer",
		[NAMES_PORTS] = "port",
		[NAMES_PVMS] = "pvm",
		[NAMES_CVMS] = "cvm",
		[NAMES_OPERATIONS] = "operation"};
	const struct noun *noun;
	struct client *client;

	if (names == NAMES_FILES) {
		fputs("__files\n", cli->out);
		return;
	}
	if (names == NAMES_NONE)
		return;
	noun = command_find_noun(nouns[names]);
	client = client_new(place->socket ? place->socket : client_socket(cli->client));
	if (client)
		offer_objects(client, cli->out, noun->resource->path, noun->resource->key, begun);
	client_free(client);
}

static void offer_options(FILE *out, const struct place *place, const char *begun)
{
	for (const struct option *o = place->verb ? place->verb->options : NULL; o && o->name; o++)
		offer(out, o->name, "--", begun);
	for (const struct option *o = command_global_options; o->name; o++)
		offer(out, o->name, "--", begun);
}

static void offer_words(struct cli *cli, const struct place *place, const char *begun)
{
	if (!place->noun) {
		for (const struct noun *noun = command_nouns; noun->name; noun++) {
			if (!noun->verbs->hidden)
				offer(cli->out, noun->name, "", begun);
		}
	} else if (!place->verb) {
		for (const struct verb *verb = place->noun->verbs; verb->name; verb++) {
			if (!verb->hidden)
				offer(cli->out, verb->name, "", begun);
		}
	} else if (place->n_arguments < command_count_arguments(place->verb)) {
		const struct argument *argument = &place->verb->arguments[place->n_arguments];

		if (argument->choices)
			offer_choices(cli->out, argument->choices, begun);
		else
			offer_names(cli, place, argument->names, begun);
	}
}

int completion_run(struct cli *cli, const struct args *args)
{
	size_t index = args->n_rest > 0 ? strtoul(args->rest[0], NULL, 10) : 0;
	struct place place = {0};
	const char *begun = "";

	for (size_t i = 1; i < index && i + 1 < args->n_rest; i++)
		pass(&place, args->rest[i + 1]);
	if (index + 1 < args->n_rest)
		begun = args->rest[index + 1];
	if (place.value_of && strcmp(begun, "=") == 0)
		begun = "";
	if (place.value_of && place.value_of->choices)
		offer_choices(cli->out, place.value_of->choices, begun);
	else if (place.value_of)
		offer_names(cli, &place, place.value_of->names, begun);
	else if (begun[0] == '-')
		offer_options(cli->out, &place, begun);
	else
		offer_words(cli, &place, begun);
	return CLI_OK;
}
