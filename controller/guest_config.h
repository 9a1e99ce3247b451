/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_GUEST_CONFIG_H
#define EDGEPLEX_GUEST_CONFIG_H

/*
 * The documents that PVMs and CVMs are configured with (docs/protocols.md), computed from desired
 * state. Equal state gives equal documents and equal `config_id`s, on every run of every
 * controller: a guest that has the right one already needn't be told. Pure; thread-safe.
 */

#include <stddef.h>
#include <cjson/cJSON.h>

#include "controller/model.h"

#define GUEST_CONFIG_ID_SIZE 17

/* Parameters of pvm.configure; the caller's. `sites`: all that there are. NULL: out of memory. */
cJSON *guest_config_pvm(const struct port *port, const struct site *site, const struct cvm *cvm,
	const struct site *sites, size_t n_sites);

/* Parameters of cvm.configure. `ports`: any; those of this site that are `in_cvm` are taken. */
cJSON *guest_config_cvm(
	const struct cvm *cvm, const struct site *site, const struct port *ports, size_t n_ports);

/* The `config_id` of a document made here. */
void guest_config_id(const cJSON *config, char id[GUEST_CONFIG_ID_SIZE]);

#endif
