/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_COMMAND_H
#define EDGEPLEX_CLI_COMMAND_H

/*
 * The one description of every command (commands.c). Parsing, --help, completion and the man page
 * all read it, so none of them can tell something else than the others. Constant data.
 */

#include <stdbool.h>
#include <stddef.h>

#define COMMAND_MAX_ARGUMENTS 4

struct cli;
struct args;

/* What a value is completed from. */
enum names {
	NAMES_NONE,
	NAMES_SITES,
	NAMES_SERVERS,
	NAMES_CUSTOMERS,
	NAMES_PORTS,
	NAMES_PVMS,
	NAMES_CVMS,
	NAMES_OPERATIONS,
	NAMES_FILES,
};

/* How a value becomes a field of the request. */
enum value_type {
	VALUE_TEXT,
	VALUE_NUMBER,  /* a whole number, not negative */
	VALUE_CE,      /* "ADDRESS,ASN[,MAX-PREFIXES]" */
	VALUE_MS,      /* "100ms", "2s", or a whole number of milliseconds: becomes that number */
	VALUE_OR_NONE, /* "none" becomes null: removes the field */
};

/* A positional argument. */
struct argument {
	const char *name; /* in capitals, as help shows it */
	const char *help;
	const char *field;   /* of the request's body (json.h), or NULL */
	const char *choices; /* the only values, separated by blanks; NULL: any */
	enum names names;
	bool optional;
};

struct option {
	const char *name;    /* without the dashes; NULL ends a list */
	const char *value;   /* what stands for the value in help; NULL: a flag */
	const char *help;    /* begins with a small letter, no full stop */
	const char *field;   /* of the request's body, or NULL */
	const char *choices; /* as above */
	enum value_type type;
	enum names names;
	bool required, repeats; /* repeats: the field is a list */
};

struct verb {
	const char *name;    /* "": the noun is a command by itself; NULL ends a list */
	const char *summary; /* one line, an imperative with a small letter, no full stop */
	const char *details; /* more sentences for --help and the man page, or NULL */
	const char *example; /* a command line without "edgeplex", or NULL */
	bool hidden;         /* not in help and completion */
	bool rest;           /* takes whatever follows, unparsed */
	struct argument arguments[COMMAND_MAX_ARGUMENTS]; /* name NULL ends it */
	const struct option *options;                     /* or NULL */
	/* Does it; returns an exit code (exit.h). */
	int (*run)(struct cli *cli, const struct args *args);
};

/* A kind of objects of the API, for the verbs that all kinds have. */
struct resource {
	const char *path;                      /* "/v1/sites" */
	const char *key;                       /* field that names an object: "name", "id" */
	const struct resource_column *columns; /* of `list`; title NULL ends it */
};

struct noun {
	const char *name; /* NULL ends a list */
	const char *summary;
	const struct resource *resource; /* or NULL */
	const struct verb *verbs;
};

extern const struct noun command_nouns[];
extern const struct option command_global_options[];

/* NULL if there is none. */
const struct noun *command_find_noun(const char *name);
const struct verb *command_find_verb(const struct noun *noun, const char *name);
const struct option *command_find_option(const struct option *options, const char *name);

size_t command_count_arguments(const struct verb *verb);

/* Is `value` one of `choices` (separated by blanks)? */
bool command_is_choice(const char *choices, const char *value);

#endif
