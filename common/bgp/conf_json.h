/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CONF_JSON_H
#define EDGEPLEX_CONF_JSON_H

/*
 * Reading a configuration from JSON. The first mistake is kept with the JSON pointer of its place
 * and what would be right; after that every call does nothing, so a reader needs no error paths.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "common/bgp/kernel_net.h"
#include "common/jsonrpc.h"
#include "common/prefix.h"

#define CONF_MAX_RTS 32
#define CONF_RT_STRLEN 28
#define CONF_NAME_STRLEN 64

struct conf_reader {
	struct jsonrpc_error *err; /* code 0 until there is a mistake */
	char path[128];            /* where the reader is, as a JSON pointer */
};

/* A mistake at `key` of the present place ("" is the place itself). */
__attribute__((format(printf, 3, 4))) void conf_mistake(
	struct conf_reader *r, const char *key, const char *fmt, ...);
bool conf_failed(const struct conf_reader *r);

/* Enter and leave a member or element. `conf_leave` takes what `conf_enter` returned. */
size_t conf_enter(struct conf_reader *r, const char *key);
size_t conf_enter_index(struct conf_reader *r, size_t index);
void conf_leave(struct conf_reader *r, size_t mark);

/*
 * The member `key` of `object`, if it has the type (an object, an array); NULL if it is missing (a
 * mistake when `required`) or isn't.
 */
const cJSON *conf_object(
	struct conf_reader *r, const cJSON *object, const char *key, bool required);
const cJSON *conf_array(
	struct conf_reader *r, const cJSON *object, const char *key, bool required, size_t max);

/* A string of at most `size` - 1 printable ASCII characters without spaces, quotes or backslashes.
 */
void conf_word(struct conf_reader *r, const cJSON *object, const char *key, bool required,
	char *text, size_t size);
/* A host's name (RFC 1123): letters, digits, - and ., at most CONF_NAME_STRLEN - 1 characters. */
void conf_hostname(struct conf_reader *r, const cJSON *object, const char *key, char *text);
/* Leaves `*value` alone if the member is missing and not required. */
void conf_number(struct conf_reader *r, const cJSON *object, const char *key, bool required,
	uint32_t min, uint32_t max, uint32_t *value);
void conf_bool(struct conf_reader *r, const cJSON *object, const char *key, bool *value);

/* A unicast address of `family` (0: either). */
void conf_address(struct conf_reader *r, const cJSON *object, const char *key, bool required,
	uint8_t family, struct ep_prefix *address);
/* A prefix of `family` (0: either) without host bits. */
void conf_prefix(struct conf_reader *r, const cJSON *object, const char *key, uint8_t family,
	struct ep_prefix *prefix);

/* A unicast MAC address. Returns whether there is one; not to have it is no mistake. */
bool conf_mac(struct conf_reader *r, const cJSON *object, const char *key, struct ep_mac *mac);

/* A route distinguisher or target: ASN:number or address:number. */
void conf_rd(struct conf_reader *r, const cJSON *object, const char *key, char *rd);
struct conf_rts {
	size_t n;
	char rt[CONF_MAX_RTS][CONF_RT_STRLEN];
};
void conf_rts(struct conf_reader *r, const cJSON *object, const char *key, struct conf_rts *rts);

/*
 * `interfaces`: of the names in `names` (ending with NULL) only, at most `max`. Addresses of two
 * interfaces may not be in the same subnet. Returns their number.
 */
size_t conf_interfaces(struct conf_reader *r, const cJSON *config, const char *const *names,
	struct kernel_wish *wishes, size_t max);

#endif
