/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_MEM_H
#define EDGEPLEX_CLI_MEM_H

/*
 * Memory for a program that runs for one command: when there is none left, it says so and ends
 * with CLI_FAILED. Results are never NULL and are the caller's to free(). Thread-safe.
 */

#include <stddef.h>
#include <stdio.h>

void *mem_alloc(size_t size); /* zeroed */
void *mem_grow(void *memory, size_t size);
char *mem_strdup(const char *text);
__attribute__((format(printf, 1, 2))) char *mem_printf(const char *fmt, ...);

/* A stream that collects text in memory; mem_text() closes it and gives the text. */
struct mem_stream {
	FILE *file;
	char *text;
	size_t size;
};

void mem_stream_open(struct mem_stream *stream);
char *mem_text(struct mem_stream *stream);

/* Ends the program as above if `memory` is NULL; returns it otherwise. For what others allocate. */
void *mem_check(void *memory);

#endif
