/* SPDX-License-Identifier: GPL-2.0-or-later */

/* For cppcheck, which doesn't read the libraries' headers: the macros without which it sees no syntax. */

#define cJSON_ArrayForEach(element, array)                                                         \
	for (element = (array)->child; element != NULL; element = element->next)
