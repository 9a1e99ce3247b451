/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/mem.h"
#include "controller/cli/text.h"

#define MAX_DEPTH 8   /* of what json_text() shows */
#define JSON_INDENT 2 /* of what json_write() writes */

/* Copies the path's first name to `name`; returns what follows it, or NULL at the end. */
static const char *next_name(const char *path, char *name, size_t size)
{
	size_t len = strcspn(path, "/");

	snprintf(name, size, "%.*s", (int)len, path);
	return path[len] ? path + len + 1 : NULL;
}

const cJSON *json_at(const cJSON *json, const char *path)
{
	char name[64];

	while (json && path) {
		path = next_name(path, name, sizeof(name));
		json = cJSON_GetObjectItemCaseSensitive(json, name);
	}
	return cJSON_IsNull(json) ? NULL : json;
}

const char *json_string(const cJSON *json, const char *path)
{
	return cJSON_GetStringValue(json_at(json, path));
}

double json_number(const cJSON *json, const char *path, double absent)
{
	const cJSON *value = json_at(json, path);

	return cJSON_IsNumber(value) ? value->valuedouble : absent;
}

bool json_true(const cJSON *json, const char *path)
{
	return cJSON_IsTrue(json_at(json, path));
}

const cJSON *json_array(const cJSON *json, const char *path, int *n)
{
	const cJSON *value = json_at(json, path);

	if (!cJSON_IsArray(value))
		value = NULL;
	*n = value ? cJSON_GetArraySize(value) : 0;
	return value;
}

static void write_number(FILE *out, double n)
{
	if (n == floor(n) && fabs(n) < 1e15)
		fprintf(out, "%.0f", n);
	else
		fprintf(out, "%g", n);
}

static void write_text(FILE *out, const cJSON *value, int depth)
{
	const cJSON *item;

	if (cJSON_IsString(value)) {
		fputs(value->valuestring, out);
	} else if (cJSON_IsNumber(value)) {
		write_number(out, value->valuedouble);
	} else if (cJSON_IsBool(value)) {
		fputs(cJSON_IsTrue(value) ? "yes" : "no", out);
	} else if (depth == 0 && value && value->child) {
		fputs("…", out);
	} else if (cJSON_IsArray(value)) {
		cJSON_ArrayForEach (item, value) {
			if (item != value->child)
				fputs(cJSON_IsObject(item) ? "; " : ", ", out);
			write_text(out, item, depth - 1);
		}
	} else if (cJSON_IsObject(value)) {
		cJSON_ArrayForEach (item, value) {
			fprintf(out, "%s%s ", item == value->child ? "" : ", ", item->string);
			write_text(out, item, depth - 1);
		}
	}
}

char *json_text(const cJSON *value)
{
	struct mem_stream stream;

	mem_stream_open(&stream);
	write_text(stream.file, value, MAX_DEPTH);
	return mem_text(&stream);
}

void json_put(cJSON *json, const char *path, cJSON *value)
{
	char name[64];

	for (;;) {
		cJSON *next;

		path = next_name(path, name, sizeof(name));
		if (!path)
			break;
		next = cJSON_GetObjectItemCaseSensitive(json, name);
		if (!next)
			next = mem_check(cJSON_AddObjectToObject(json, name));
		json = next;
	}
	if (!cJSON_AddItemToObject(json, name, mem_check(value)))
		mem_check(NULL);
}

static void write_scalar(FILE *out, const cJSON *value)
{
	char *text = mem_check(cJSON_PrintUnformatted(value));

	text_write_json(out, text);
	cJSON_free(text);
}

static void write_name(FILE *out, const char *name)
{
	cJSON *text = mem_check(cJSON_CreateString(name));

	write_scalar(out, text);
	fputs(": ", out);
	cJSON_Delete(text);
}

/* Small values stay on one line: a list of routes is then readable. */
static bool is_flat(const cJSON *value)
{
	const cJSON *item;

	cJSON_ArrayForEach (item, value) {
		if (item->child || cJSON_IsObject(value))
			return false;
	}
	return true;
}

static void write_json(FILE *out, const cJSON *value, int indent)
{
	const cJSON *item;
	bool flat = is_flat(value), object = cJSON_IsObject(value);

	if (!value->child) {
		write_scalar(out, value);
		return;
	}
	fputc(object ? '{' : '[', out);
	cJSON_ArrayForEach (item, value) {
		fputs(item == value->child ? "" : flat ? ", " : ",", out);
		if (!flat)
			fprintf(out, "\n%*s", indent + JSON_INDENT, "");
		if (object)
			write_name(out, item->string ? item->string : "");
		write_json(out, item, indent + JSON_INDENT);
	}
	if (!flat)
		fprintf(out, "\n%*s", indent, "");
	fputc(object ? '}' : ']', out);
}

void json_write(FILE *out, const cJSON *json)
{
	write_json(out, json, 0);
	fputc('\n', out);
}
