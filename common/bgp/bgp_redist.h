/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_REDIST_H
#define EDGEPLEX_BGP_REDIST_H

/* Subnets of our own that bgpd originates. */

#include <stddef.h>

#include "common/prefix.h"

/*
 * From now on bgpd originates just these prefixes (without host bits), until the next call. Call it
 * again after the instance was created anew. The array is copied.
 */
void bgp_redist_set(const struct ep_prefix *prefixes, size_t n);

#endif
