/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TYPE_BASE "https://edgeplex.example/problems/"

static const struct {
	const char *type, *title;
} titles[] = {
	{"invalid-field", "A field of the request is wrong"},
	{"invalid-parameter", "A query parameter is wrong"},
	{"not-json", "The request's body is not JSON"},
	{"too-large", "The request's body is too large"},
	{"not-found", "There is no such object"},
	{"no-such-route", "There is no such resource"},
	{"method-not-allowed", "The resource doesn't take this method"},
	{"exists", "The object exists already"},
	{"in-use", "In use by another object"},
	{"not-ready", "The object isn't in a state that allows this"},
	{"exhausted", "A range has no free value left"},
	{"server-unreachable", "A server can't be reached"},
	{"switch-unreachable", "An edge switch can't be reached"},
	{"guest-unreachable", "The virtual machine doesn't answer"},
	{"vm-failed", "A virtual machine can't be started"},
	{"configuration-refused", "A virtual machine refused its configuration"},
	{"switch-refused", "The edge switch refused its rules"},
	{"no-routes", "The port doesn't carry routes"},
	{"no-core", "The site has no session to the core"},
	{"interrupted", "The operation was interrupted"},
	{"internal", "The controller failed"},
};

static const char *title_of(const char *type)
{
	for (size_t i = 0; i < sizeof(titles) / sizeof(titles[0]); i++) {
		if (strcmp(titles[i].type, type) == 0)
			return titles[i].title;
	}
	return "The request can't be fulfilled";
}

int problem_set(struct problem *problem, int status, const char *type, const char *fmt, ...)
{
	if (problem->status != 0)
		return -1;
	problem->status = status;
	snprintf(problem->type, sizeof(problem->type), "%s", type);
	va_list args;
	va_start(args, fmt);
	vsnprintf(problem->detail, sizeof(problem->detail), fmt, args);
	va_end(args);
	return -1;
}

int problem_field(struct problem *problem, const char *field, const char *fix, const char *fmt, ...)
{
	char detail[256];
	va_list args;
	va_start(args, fmt);
	vsnprintf(detail, sizeof(detail), fmt, args);
	va_end(args);

	problem_set(problem, 422, "invalid-field", "%s: %s", field[0] ? field : "the body", detail);
	if (problem->n_errors == PROBLEM_MAX_FIELDS)
		return -1;
	size_t i = problem->n_errors++;
	snprintf(problem->errors[i].field, sizeof(problem->errors[i].field), "%s", field);
	snprintf(problem->errors[i].detail, sizeof(problem->errors[i].detail), "%s", detail);
	snprintf(problem->errors[i].fix, sizeof(problem->errors[i].fix), "%s", fix);
	return -1;
}

cJSON *problem_to_json(const struct problem *problem)
{
	char type[sizeof(TYPE_BASE) + sizeof(problem->type)];
	snprintf(type, sizeof(type), TYPE_BASE "%s", problem->type);

	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "type", type);
	cJSON_AddStringToObject(json, "title", title_of(problem->type));
	cJSON_AddNumberToObject(json, "status", problem->status);
	cJSON_AddStringToObject(json, "detail", problem->detail);
	if (problem->n_errors == 0)
		return json;
	cJSON *errors = cJSON_AddArrayToObject(json, "errors");
	for (size_t i = 0; i < problem->n_errors; i++) {
		cJSON *error = cJSON_CreateObject();
		cJSON_AddStringToObject(error, "field", problem->errors[i].field);
		cJSON_AddStringToObject(error, "detail", problem->errors[i].detail);
		cJSON_AddStringToObject(error, "fix", problem->errors[i].fix);
		cJSON_AddItemToArray(errors, error);
	}
	return json;
}
