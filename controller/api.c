/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "controller/api_internal.h"

#define MAX_CONNECTIONS 256
#define IDLE_S 120
#define BACKLOG 64

int64_t api_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- what the handlers share ----------------------------------------------------------------- */

const char *api_query(const struct api_request *request, const char *name)
{
	return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

int64_t api_query_number(
	struct api_request *request, const char *name, int64_t max, int64_t otherwise)
{
	const char *text = api_query(request, name);
	if (text == NULL)
		return otherwise;
	char *end;
	errno = 0;
	long long value = strtoll(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > max)
		return problem_set(&request->problem, 422, "invalid-parameter",
			"%s: \"%.40s\" is not a whole number from 0 to %lld", name, text,
			(long long)max);
	return value;
}

bool api_read_wait(struct api_request *request, uint32_t *wait_s)
{
	int64_t value =
		api_query_number(request, "wait_s", ENGINE_WAIT_MAX_S, ENGINE_WAIT_DEFAULT_S);
	*wait_s = (uint32_t)value;
	return value >= 0;
}

void api_database_failed(struct api_request *request)
{
	problem_set(&request->problem, 500, "internal",
		"the database can't be used: check disk space and permissions of the state "
		"directory");
}

void api_created(struct api_request *request, const char *resource, const char *name)
{
	request->status = 201;
	snprintf(request->location, sizeof(request->location), "/v1/%s/%s", resource, name);
}

void api_accepted(struct api_request *request, const struct operation *op)
{
	request->status = 202;
	snprintf(request->location, sizeof(request->location), "/v1/operations/%lld",
		(long long)op->id);
	request->answer = engine_operation_json(op);
}

void api_answer_list(struct api_request *request, cJSON *items)
{
	request->answer = cJSON_CreateObject();
	cJSON_AddItemToObject(request->answer, "items", items);
}

/* ---- routing ------------------------------------------------------------------------------ */

/* Does `path` match `pattern`? Stores what stands for {…}. */
static bool path_matches(const char *pattern, const char *path, char name[64])
{
	name[0] = '\0';
	while (*pattern != '\0') {
		if (*pattern != '{') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		size_t n = strcspn(path, "/");
		if (n == 0 || n >= 64)
			return false;
		memcpy(name, path, n);
		name[n] = '\0';
		path += n;
		pattern += strcspn(pattern, "}") + 1;
	}
	return *path == '\0';
}

/* NULL with the request's problem; `allow` (256 bytes) then lists the methods, for a 405. */
static const struct api_route *find_route(
	struct api_request *request, const char *method, const char *path, char *allow)
{
	char name[64];
	allow[0] = '\0';
	for (size_t i = 0; i < api_n_routes; i++) {
		if (!path_matches(api_routes[i].path, path, name))
			continue;
		if (strcmp(api_routes[i].method, method) == 0) {
			memcpy(request->name, name, sizeof(name));
			return &api_routes[i];
		}
		size_t len = strlen(allow);
		snprintf(allow + len, 256 - len, "%s%s", len ? ", " : "", api_routes[i].method);
	}
	if (allow[0] != '\0')
		problem_set(&request->problem, 405, "method-not-allowed",
			"%.40s takes %s, not %.10s", path, allow, method);
	else
		problem_set(&request->problem, 404, "no-such-route",
			"there is nothing at %.100s: GET /v1/openapi.json tells what there is",
			path);
	return NULL;
}

static const cJSON *parse_body(struct api_request *request, const char *body, size_t n)
{
	const char *end = NULL;
	cJSON *json = memchr(body, '\0', n) == NULL
			      ? cJSON_ParseWithLengthOpts(body, n + 1, &end, true)
			      : NULL;
	if (json == NULL)
		problem_set(&request->problem, 400, "not-json",
			"the body is not JSON (wrong from byte %zu on): send one JSON object",
			end != NULL && end >= body ? (size_t)(end - body) : 0);
	return json;
}

/* ---- answering ---------------------------------------------------------------------------- */

static enum MHD_Result send_answer(struct api_request *request, const char *allow)
{
	const char *type = request->text != NULL ? "text/plain; version=0.0.4; charset=utf-8"
						 : "application/json";
	if (request->problem.status != 0) {
		cJSON_Delete(request->answer);
		request->answer = problem_to_json(&request->problem);
		request->status = request->problem.status;
		request->location[0] = '\0';
		type = "application/problem+json";
	}
	if (request->stream != NULL && request->problem.status == 0) {
		enum MHD_Result queued =
			MHD_queue_response(request->connection, MHD_HTTP_OK, request->stream);
		MHD_destroy_response(request->stream);
		request->api->requests[API_OK]++;
		return queued;
	}
	char *text = request->text;
	if (text == NULL)
		text = request->answer != NULL ? cJSON_PrintUnformatted(request->answer)
					       : strdup("{}");
	if (text == NULL)
		return MHD_NO;
	struct MHD_Response *response =
		MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	if (response == NULL) {
		free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, "Content-Type", type);
	if (request->location[0] != '\0')
		MHD_add_response_header(response, "Location", request->location);
	if (request->status == 405)
		MHD_add_response_header(response, "Allow", allow);
	enum MHD_Result rc =
		MHD_queue_response(request->connection, (unsigned)request->status, response);
	MHD_destroy_response(response);

	enum api_counter kind = request->status < 400   ? API_OK
				: request->status < 500 ? API_REFUSED
							: API_FAILED;
	request->api->requests[kind]++;
	return rc;
}

/* A request's body as it comes in. */
struct upload {
	char *data;
	size_t len;
	bool too_large, no_memory;
};

static void upload_add(struct upload *upload, const char *data, size_t n)
{
	if (upload->too_large || upload->len + n > API_BODY_MAX) {
		upload->too_large = true;
		return;
	}
	char *bigger = realloc(upload->data, upload->len + n + 1);
	if (bigger == NULL) {
		upload->no_memory = true;
		return;
	}
	memcpy(bigger + upload->len, data, n);
	upload->data = bigger;
	upload->len += n;
	upload->data[upload->len] = '\0';
}

static enum MHD_Result serve(struct api *api, struct MHD_Connection *connection, const char *url,
	const char *method, const struct upload *upload)
{
	char allow[256];
	cJSON *body = NULL;
	struct api_request request = {.api = api, .connection = connection, .status = 200};
	const struct api_route *route = find_route(&request, method, url, allow);
	if (route != NULL && upload->too_large)
		problem_set(&request.problem, 413, "too-large",
			"the body is larger than %u bytes: an object of this API is not",
			API_BODY_MAX);
	else if (route != NULL && upload->no_memory)
		problem_set(&request.problem, 500, "internal", "no memory");
	else if (route != NULL && route->body != NULL && (route->body[0] != '?' || upload->len > 0))
		request.body = body = (cJSON *)parse_body(
			&request, upload->data != NULL ? upload->data : "", upload->len);
	if (request.problem.status == 0)
		route->handler(&request);
	enum MHD_Result rc = send_answer(&request, allow);
	log_debug("request method=%s path=%s status=%d", method, url, request.status);
	cJSON_Delete(request.answer);
	cJSON_Delete(body);
	return rc;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *data, size_t *n, void **state)
{
	(void)version;
	struct upload *upload = *state;
	if (upload == NULL) {
		*state = calloc(1, sizeof(*upload));
		return *state != NULL ? MHD_YES : MHD_NO;
	}
	if (*n > 0) {
		upload_add(upload, data, *n);
		*n = 0;
		return MHD_YES;
	}
	return serve(cls, connection, url, method, upload);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
	enum MHD_RequestTerminationCode code)
{
	(void)cls;
	(void)connection;
	(void)code;
	struct upload *upload = *state;
	if (upload != NULL)
		free(upload->data);
	free(upload);
	*state = NULL;
}

/* ---- the socket --------------------------------------------------------------------------- */

static int listen_unix(const char *path, struct why *why)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(addr.sun_path)) {
		why_set(why, ENAMETOOLONG, "the path is longer than %zu characters",
			sizeof(addr.sun_path) - 1);
		errno = ENAMETOOLONG;
		return -1;
	}
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 || errno == EAGAIN) {
		why_set(why, EADDRINUSE, "another edgeplexd answers there: stop it first");
		close(fd);
		errno = EADDRINUSE;
		return -1;
	}
	struct stat st;
	if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
		why_set(why, EEXIST, "there is something else than a socket: move it away");
		close(fd);
		errno = EEXIST;
		return -1;
	}
	unlink(path);
	mode_t before = umask(0117);
	int rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(before);
	if (rc != 0 || listen(fd, BACKLOG) != 0) {
		int err = errno;
		why_set(why, err, "%s", strerror(err));
		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

int api_start(const char *socket_path, struct store *store, struct fleet *fleet,
	struct engine *engine, struct api **out, struct why *why)
{
	struct api *api = calloc(1, sizeof(*api));
	if (api == NULL)
		return why_set(why, ENOMEM, "no memory");
	api->store = store;
	api->fleet = fleet;
	api->engine = engine;
	api->started_ms = api_now_ms();
	snprintf(api->socket_path, sizeof(api->socket_path), "%s", socket_path);
	int fd = listen_unix(socket_path, why);
	if (fd < 0) {
		int err = errno;
		free(api);
		return err;
	}
	api->daemon = MHD_start_daemon(
		MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0,
		NULL, NULL, on_request, api, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, NULL, MHD_OPTION_END);
	if (api->daemon == NULL) {
		close(fd);
		unlink(socket_path);
		free(api);
		return why_set(why, ENOMEM, "libmicrohttpd did not start");
	}
	*out = api;
	return 0;
}

void api_stop(struct api *api)
{
	if (api == NULL)
		return;
	unlink(api->socket_path);
	MHD_stop_daemon(api->daemon);
	free(api);
}
