/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/jsonrpc.h"

struct fixture {
	struct jsonrpc_server *server;
	pthread_t thread;
	atomic_bool stop;
	int fd;
	char dir[32], path[64];
};

static int echo(void *ctx, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	struct fixture *f = ctx;

	if (strcmp(method, "echo") == 0) {
		*result = cJSON_Duplicate(params, true);
		return 0;
	}
	if (strcmp(method, "notify-first") == 0) {
		jsonrpc_server_notify(f->server, "happened", params);
		return 0;
	}
	if (strcmp(method, "wrong") == 0)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/a/0", "is %d, should be 1", 2);
	return jsonrpc_fail(err, JSONRPC_METHOD_NOT_FOUND, "", "no method %s", method);
}

static void *serve(void *ctx)
{
	struct fixture *f = ctx;
	struct pollfd p = {.fd = jsonrpc_server_fd(f->server), .events = POLLIN};

	while (!atomic_load(&f->stop)) {
		if (poll(&p, 1, 20) > 0)
			jsonrpc_server_run(f->server);
	}
	return NULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/jsonrpc-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	f->server = jsonrpc_server_create(echo, f);
	assert_int_equal(jsonrpc_server_listen_unix(f->server, f->path), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
	f->fd = jsonrpc_connect_unix(f->path);
	assert_true(f->fd >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->stop, true);
	pthread_join(f->thread, NULL);
	jsonrpc_server_destroy(f->server);
	close(f->fd);
	assert_int_equal(rmdir(f->dir), 0); /* the socket's file is gone too */
	free(f);
	return 0;
}

static void assert_echo_works(int fd)
{
	cJSON *params = cJSON_CreateObject(), *result;
	struct jsonrpc_error err;

	cJSON_AddNumberToObject(params, "n", 42);
	assert_int_equal(jsonrpc_call(fd, "echo", params, 5000, &result, &err), 0);
	assert_true(cJSON_Compare(params, result, true));
	cJSON_Delete(result);
	cJSON_Delete(params);
}

static void test_call(void **state)
{
	struct fixture *f = *state;

	assert_echo_works(f->fd);
	assert_echo_works(f->fd);
}

static void test_socket_is_private(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_errors_carry_field_and_code(void **state)
{
	struct fixture *f = *state;
	struct jsonrpc_error err;
	cJSON *result;

	assert_int_equal(jsonrpc_call(f->fd, "wrong", NULL, 5000, &result, &err), -1);
	assert_int_equal(err.code, JSONRPC_INVALID_PARAMS);
	assert_string_equal(err.field, "/a/0");
	assert_string_equal(err.message, "is 2, should be 1");
	assert_int_equal(jsonrpc_call(f->fd, "nope", NULL, 5000, &result, &err), -1);
	assert_int_equal(err.code, JSONRPC_METHOD_NOT_FOUND);
	assert_echo_works(f->fd);
}

static void test_notifications_are_passed_over(void **state)
{
	struct fixture *f = *state;
	struct jsonrpc_error err;
	cJSON *result;

	assert_int_equal(jsonrpc_call(f->fd, "notify-first", NULL, 5000, &result, &err), 0);
	assert_true(cJSON_IsNull(result));
	cJSON_Delete(result);
	assert_echo_works(f->fd);
}

/* Sends `text` and returns the next line that comes back. */
static void exchange(int fd, const char *text, char *line, size_t size)
{
	size_t n = 0;

	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
	while (n < size - 1 && recv(fd, line + n, 1, 0) == 1 && line[n] != '\n')
		n++;
	line[n] = '\0';
}

static void test_garbage_is_answered_and_survived(void **state)
{
	static const char *const bad[] = {"{\n", "[]\n", "\"x\"\n", "{\"method\":5,\"id\":1}\n",
		"{\"method\":\"echo\",\"params\":[1],\"id\":1}\n", "\x01\x02\xff\n"};
	struct fixture *f = *state;
	char line[512];

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		exchange(f->fd, bad[i], line, sizeof(line));
		assert_non_null(strstr(line, "\"error\""));
	}
	assert_echo_works(f->fd);
}

static void test_line_too_long_ends_the_connection(void **state)
{
	struct fixture *f = *state;
	size_t n = JSONRPC_MAX_LINE + 10, sent = 0;
	char *text = malloc(n), byte;
	int fd;

	memset(text, ' ', n);
	while (sent < n) {
		ssize_t k = send(f->fd, text + sent, n - sent, MSG_NOSIGNAL);

		if (k <= 0)
			break;
		sent += (size_t)k;
	}
	free(text);
	assert_true(recv(f->fd, &byte, 1, 0) <= 0);
	fd = jsonrpc_connect_unix(f->path);
	assert_echo_works(fd);
	close(fd);
}

static void test_time_out(void **state)
{
	int pair[2];
	struct jsonrpc_error err;
	cJSON *result;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(jsonrpc_call(pair[0], "echo", NULL, 30, &result, &err), -1);
	assert_int_equal(err.code, JSONRPC_UNAVAILABLE);
	close(pair[1]);
	assert_int_equal(jsonrpc_call(pair[0], "echo", NULL, 5000, &result, &err), -1);
	assert_int_equal(err.code, JSONRPC_UNAVAILABLE);
	close(pair[0]);
}

struct collected {
	char text[64];
};

static void collect(void *ctx, char *text)
{
	struct collected *all = ctx;
	size_t n = strlen(all->text);

	assert_true(strlen(text) + 1 < sizeof(all->text) - n);
	snprintf(all->text + n, sizeof(all->text) - n, "%s|", text);
}

static void test_lines_cut_anywhere(void **state)
{
	static const char stream[] = "one\ntwo\n\nthree\nrest";

	(void)state;
	for (size_t cut = 0; cut < sizeof(stream); cut++) {
		struct jsonrpc_lines lines = {0};
		struct collected all = {""};

		assert_int_equal(jsonrpc_lines_feed(&lines, stream, cut, collect, &all), 0);
		assert_int_equal(jsonrpc_lines_feed(&lines, stream + cut, sizeof(stream) - 1 - cut,
					 collect, &all),
			0);
		assert_string_equal(all.text, "one|two|three|");
		jsonrpc_lines_free(&lines);
	}
}

static void test_lines_skip_what_is_too_long(void **state)
{
	struct jsonrpc_lines lines = {0};
	char *big = malloc(JSONRPC_MAX_LINE);
	struct collected all = {""};

	(void)state;
	memset(big, 'x', JSONRPC_MAX_LINE);
	assert_int_equal(
		jsonrpc_lines_feed(&lines, big, JSONRPC_MAX_LINE, collect, &all), EMSGSIZE);
	assert_int_equal(jsonrpc_lines_feed(&lines, "yy\nok\n", 6, collect, &all), 0);
	assert_string_equal(all.text, "ok|");
	jsonrpc_lines_free(&lines);
	free(big);
}

static void test_responses_of_strangers(void **state)
{
	static const char *const bad[] = {"", "{}", "{\"id\":\"1\",\"result\":1}",
		"{\"id\":-1,\"result\":1}", "{\"id\":1e300,\"result\":1}", "{\"id\":1}",
		"{\"id\":1,\"error\":5}", "7"};
	unsigned long id;
	struct jsonrpc_error err;
	cJSON *result;

	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(jsonrpc_parse_response(bad[i], &id, &result, &err), EBADMSG);
	assert_int_equal(
		jsonrpc_parse_response("{\"id\":3,\"error\":{\"code\":\"x\"}}", &id, &result, &err),
		0);
	assert_int_equal(err.code, JSONRPC_INTERNAL_ERROR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_call, setup, teardown),
		cmocka_unit_test_setup_teardown(test_socket_is_private, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors_carry_field_and_code, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_notifications_are_passed_over, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_garbage_is_answered_and_survived, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_line_too_long_ends_the_connection, setup, teardown),
		cmocka_unit_test(test_time_out),
		cmocka_unit_test(test_lines_cut_anywhere),
		cmocka_unit_test(test_lines_skip_what_is_too_long),
		cmocka_unit_test(test_responses_of_strangers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
