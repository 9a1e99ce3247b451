/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_RISKS_H
#define EDGEPLEX_RISKS_H

/*
 * Hidden correlations of a site: parts that are there so that one goes on when the other fails, and
 * that one failure would take together. Pure; thread-safe.
 */

#include <cjson/cJSON.h>

#include "controller/model.h"

enum risk_part_kind { RISK_PART_CVM, RISK_PART_STANDBY, RISK_PART_PVM, RISK_PART_SPARE };

/* A VM of the site, and where it is. */
struct risk_part {
	enum risk_part_kind kind;
	char name[48]; /* "port/green-a", "spare/7", "cvm/a", "standby/a" */
	int64_t server_id;
	const char *customer; /* of a PVM */
};

/*
 * The report on the site's servers and VMs: `groups` (each risk's name and servers), `findings`
 * (each with its kind, parts, what they share, and a sentence), `unknown` (servers of which no risk
 * is known). The caller's.
 */
cJSON *risks_report(
	const struct server *servers, size_t n, const struct risk_part *parts, size_t n_parts);

#endif
