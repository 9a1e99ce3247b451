/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/mem.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"

void *mem_check(void *memory)
{
	if (!memory) {
		fputs("error: out of memory\n", stderr);
		exit(CLI_FAILED);
	}
	return memory;
}

void *mem_alloc(size_t size)
{
	return mem_check(calloc(1, size ? size : 1));
}

void *mem_grow(void *memory, size_t size)
{
	return mem_check(realloc(memory, size ? size : 1));
}

char *mem_strdup(const char *text)
{
	return mem_check(strdup(text));
}

char *mem_printf(const char *fmt, ...)
{
	char *text;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	return mem_check(text);
}

void mem_stream_open(struct mem_stream *stream)
{
	*stream = (struct mem_stream){0};
	stream->file = mem_check(open_memstream(&stream->text, &stream->size));
}

char *mem_text(struct mem_stream *stream)
{
	if (fclose(stream->file) != 0)
		mem_check(NULL);
	stream->file = NULL;
	return mem_check(stream->text);
}
