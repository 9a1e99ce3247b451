/* SPDX-License-Identifier: GPL-2.0-or-later */

/* For cppcheck, which doesn't read the libraries' headers: the macros without which it sees no
 * syntax. */

#define cJSON_ArrayForEach(element, array)                                       \
	for (element = (array) != NULL ? (array)->child : NULL; element != NULL; \
		element = element->next)

#define HMAP_FOR_EACH(node, member, hmap) \
	for (node = hmap_first(hmap); node != NULL; node = hmap_next(hmap, node))
#define HMAP_FOR_EACH_WITH_HASH(node, member, hash, hmap) \
	for (node = hmap_first_with_hash(hmap, hash); node != NULL; node = hmap_next(hmap, node))
#define HMAP_FOR_EACH_SAFE HMAP_FOR_EACH

/* FRR */
#define FRR_DAEMON_INFO(name, upper, ...)
#define DEFINE_MGROUP(name, text)
#define DEFINE_MTYPE_STATIC(group, name, text)

/* <sys/queue.h> */
#define TAILQ_HEAD(name, type)                      \
	struct name {                               \
		struct type *tqh_first, **tqh_last; \
	}
#define TAILQ_ENTRY(type)                          \
	struct {                                   \
		struct type *tqe_next, **tqe_prev; \
	}
