/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the API tells of the work: operations, and events, which can be waited for. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/api_internal.h"

#define WAIT_MS_MAX 60000
#define EVENT_HEARTBEAT_MS 15000 /* well within the API's limit for idle connections */
#define EVENT_BATCH 100
#define EVENT_BLOCK 4096

/* ---- operations ----------------------------------------------------------------------------- */

void api_operations_list(struct api_request *request)
{
	struct operation *ops;
	size_t n;
	int64_t before = api_query_number(request, "before", INT64_MAX, 0);
	int64_t limit = api_query_number(request, "limit", API_LIST_LIMIT, 100);
	if (before < 0 || limit < 0)
		return;
	if (store_operation_list(request->api->store, before, (size_t)limit, &ops, &n) != 0) {
		api_database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, engine_operation_json(&ops[i]));
	free(ops);
	api_answer_list(request, items);
}

void api_operation_show(struct api_request *request)
{
	struct operation op;
	int64_t wait_ms = api_query_number(request, "wait_ms", WAIT_MS_MAX, 0);
	int64_t since = api_query_number(request, "since_step", OPERATION_MAX_STEPS, 0);
	char *end;
	long long id = strtoll(request->name, &end, 10);
	if (wait_ms < 0 || since < 0)
		return;
	if (*end != '\0' || id <= 0 ||
		engine_operation_wait(
			request->api->engine, id, (unsigned)wait_ms, (size_t)since, &op) != 0)
		problem_set(&request->problem, 404, "not-found",
			"there is no operation %s: \"edgeplex operation list\" shows those there "
			"are",
			request->name);
	else
		request->answer = engine_operation_json(&op);
}

/* ---- events --------------------------------------------------------------------------------- */

static cJSON *event_json(const struct event *event)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddNumberToObject(json, "id", (double)event->id);
	model_add_time(json, "time", event->time_ms);
	cJSON_AddStringToObject(json, "severity", event->severity);
	cJSON_AddStringToObject(json, "object", event->object);
	cJSON_AddStringToObject(json, "text", event->text);
	return json;
}

/* A connection that server-sent events go out of. */
struct event_stream {
	struct api *api;
	int64_t after; /* the last event that was sent */
	uint64_t seen; /* of fleet_event_wait() */
	char *text;    /* NULL, or what is being sent */
	size_t len, sent;
};

/* The next events after those that were sent, as text; a comment if there are none for long. */
static bool fill_stream(struct event_stream *stream)
{
	struct event *events = NULL;
	size_t n = 0;
	if (!fleet_event_wait(stream->api->fleet, &stream->seen, EVENT_HEARTBEAT_MS) ||
		store_event_list(stream->api->store, stream->after, EVENT_BATCH, &events, &n) != 0)
		return false;
	if (n == EVENT_BATCH)
		stream->seen = 0; /* there may be more already */
	FILE *out = open_memstream(&stream->text, &stream->len);
	for (size_t i = 0; i < n && out != NULL; i++) {
		cJSON *json = event_json(&events[i]);
		char *line = cJSON_PrintUnformatted(json);
		fprintf(out, "id: %lld\ndata: %s\n\n", (long long)events[i].id,
			line != NULL ? line : "{}");
		cJSON_free(line);
		cJSON_Delete(json);
		stream->after = events[i].id;
	}
	if (n == 0 && out != NULL)
		fputs(":\n\n", out);
	free(events);
	stream->sent = 0;
	return out != NULL && fclose(out) == 0;
}

/* On the connection's own thread, which may wait. */
static ssize_t read_stream(void *ctx, uint64_t pos, char *buf, size_t max)
{
	struct event_stream *stream = ctx;
	(void)pos;
	if (stream->text == NULL && !fill_stream(stream))
		return MHD_CONTENT_READER_END_OF_STREAM;
	size_t n = stream->len - stream->sent;
	if (n > max)
		n = max;
	memcpy(buf, stream->text + stream->sent, n);
	stream->sent += n;
	if (stream->sent == stream->len) {
		free(stream->text);
		stream->text = NULL;
	}
	return (ssize_t)n;
}

static void free_stream(void *ctx)
{
	struct event_stream *stream = ctx;
	free(stream->text);
	free(stream);
}

static void stream_events(struct api_request *request, int64_t after)
{
	struct event_stream *stream = calloc(1, sizeof(*stream));
	if (stream != NULL) {
		stream->api = request->api;
		stream->after = after;
		request->stream = MHD_create_response_from_callback(
			MHD_SIZE_UNKNOWN, EVENT_BLOCK, read_stream, stream, free_stream);
	}
	if (request->stream == NULL) {
		free(stream);
		problem_set(&request->problem, 500, "internal", "no memory");
		return;
	}
	MHD_add_response_header(request->stream, "Content-Type", "text/event-stream");
	MHD_add_response_header(request->stream, "Cache-Control", "no-store");
}

/* Where a stream goes on that broke: the header wins, as browsers send it (HTML, 9.2.4). */
static int64_t stream_begin(struct api_request *request, int64_t after)
{
	const char *last =
		MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Last-Event-ID");
	if (last == NULL)
		return after;
	char *end;
	errno = 0;
	long long id = strtoll(last, &end, 10);
	return *last < '0' || *last > '9' || *end != '\0' || errno != 0 ? after : id;
}

/* As store_event_list(), but waits up to `wait_ms` until there is one. Errno. */
static int await_events(struct api *api, int64_t after, size_t limit, unsigned wait_ms,
	struct event **events, size_t *n)
{
	uint64_t seen = 0;
	int64_t until = api_now_ms() + wait_ms, left = wait_ms;
	fleet_event_wait(api->fleet, &seen, 0);
	for (;;) {
		int err = store_event_list(api->store, after, limit, events, n);
		if (err != 0 || *n > 0 || left <= 0)
			return err;
		free(*events);
		*events = NULL;
		left = fleet_event_wait(api->fleet, &seen, (unsigned)left) ? until - api_now_ms()
									   : 0;
	}
}

void api_events_list(struct api_request *request)
{
	struct event *events;
	size_t n;
	const char *accept =
		MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Accept");
	bool newest = api_query(request, "before") != NULL;
	int64_t after = api_query_number(request, "after", INT64_MAX, 0);
	int64_t before = api_query_number(request, "before", INT64_MAX, 0);
	int64_t limit = api_query_number(request, "limit", API_LIST_LIMIT, API_LIST_LIMIT);
	int64_t wait_ms = api_query_number(request, "wait_ms", WAIT_MS_MAX, 0);
	if (after < 0 || before < 0 || limit < 0 || wait_ms < 0)
		return;
	if (accept != NULL && strstr(accept, "text/event-stream") != NULL) {
		stream_events(request, stream_begin(request, after));
		return;
	}
	int err = newest ? store_event_newest(
				   request->api->store, after, before, (size_t)limit, &events, &n)
			 : await_events(request->api, after, (size_t)limit, (unsigned)wait_ms,
				   &events, &n);
	if (err != 0) {
		api_database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, event_json(&events[i]));
	free(events);
	api_answer_list(request, items);
}
