/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PLACEMENT_H
#define EDGEPLEX_PLACEMENT_H

/*
 * Which server a VM goes to, and why. A server that is barred, drained, unreachable or full can't
 * have it. Of those that can, the one is chosen that keeps it best apart from what it must not fail
 * together with: from being on the same server first, from sharing a risk then; the graver kind
 * counts before the others. Among equals the least loaded risk group wins, then the least loaded
 * server, then the one with more memory left, then the first of the list. Pure; thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controller/model.h"
#include "controller/problem.h"

struct placement_server {
	int64_t id;
	const char *name;
	const char
		*barred; /* why it can't be there at all, such as "it is there now"; NULL: it can */
	bool reachable;
	bool drained;              /* out of service */
	uint64_t memory_kib;       /* that VMs may use together */
	uint64_t used_kib;         /* by other VMs that are placed there, running or not */
	const struct risks *risks; /* NULL: none are known */
};

/* What a VM should not fail together with, the gravest first. */
enum placement_kind {
	PLACEMENT_STANDBY,   /* of the CVM its standby, and the other way round */
	PLACEMENT_FAILED,    /* where it was when it failed: more than the server may have failed */
	PLACEMENT_SPARE,     /* one that may stand in for it: it is enough that one is apart */
	PLACEMENT_POOL,      /* of a spare: the pool's other spares */
	PLACEMENT_STOOD_FOR, /* of a spare: what it may stand in for */
	PLACEMENT_CUSTOMER,  /* another port of the same customer at the site */
	PLACEMENT_VOID, /* a void copy, whose memory isn't free yet; shared risks don't matter */
	PLACEMENT_KINDS
};

struct placement_other {
	enum placement_kind kind;
	int64_t server_id; /* one that isn't among those to choose from is ignored */
	char name[64];     /* for people: "port/green-b", "the standby" */
};

struct placement_request {
	uint64_t need_kib;
	const char *wanted;                   /* server that the operator asked for; "": any */
	const char *site;                     /* for messages */
	const struct placement_other *others; /* to keep away from */
	size_t n_others;
};

enum placement_bar {
	PLACEMENT_POSSIBLE,
	PLACEMENT_BARRED,
	PLACEMENT_DRAINED,
	PLACEMENT_UNREACHABLE,
	PLACEMENT_FULL,
};

/* What speaks for and against a server. */
struct placement_verdict {
	enum placement_bar bar;
	unsigned same[PLACEMENT_KINDS];   /* how many of the others are there */
	unsigned shared[PLACEMENT_KINDS]; /* how many risks it shares with the rest of them */
	/* Per mille of the memory, with the VM: of its most used risk, and its own. */
	unsigned group_load, load;
	uint64_t left_kib; /* without the VM */
};

/* Judges all servers as places for the VM. `verdicts` has room for `n`. */
void placement_judge(const struct placement_server *servers, size_t n,
	const struct placement_request *request, struct placement_verdict *verdicts);

/* Below 0: `a` is the better place; above 0: `b`; 0: they are equal. Of possible places. */
int placement_compare(const struct placement_verdict *a, const struct placement_verdict *b);

/* The best possible one, whatever is wanted; -1: none is possible. */
int placement_best(const struct placement_verdict *verdicts, size_t n);

/*
 * Chooses: the server that is wanted, else the best. Returns its index, or -1 with `problem` (409
 * exhausted, 409 out-of-service, 503 server-unreachable, 422 on /server).
 */
int placement_choose(const struct placement_server *servers, size_t n,
	const struct placement_request *request, struct problem *problem);

enum placement_say {
	PLACEMENT_FOR,
	PLACEMENT_AGAINST,
	PLACEMENT_UNMET, /* against it, too: a rule that isn't met there */
};

/* Tells one thing; the text is valid during the call. */
typedef void (*placement_tell_fn)(void *ctx, enum placement_say say, const char *text);

/* Tells all that speaks for and against the server `at`. */
void placement_tell(const struct placement_server *servers, size_t n,
	const struct placement_request *request, size_t at, placement_tell_fn tell, void *ctx);

/*
 * Writes why the server `at` and not the server `other` was chosen: "a-right is drained", "it would
 * share rack=r1 with port/green-b at a-right".
 */
void placement_why_not(const struct placement_server *servers, size_t n,
	const struct placement_request *request, size_t at, size_t other, char *text, size_t size);

#endif
