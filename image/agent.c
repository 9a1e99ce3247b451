/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * edgeplex-agent: relays JSON-RPC between the controller's virtio-serial channel and the programs
 * in the VM, each behind its Unix socket, by the prefix of the method's name (docs/protocols.md).
 * It serves guest.probe and guest.alive itself: init, behind guest.*, must never wait.
 *
 * Requests are answered in whatever order the programs answer. Ids are the agent's own towards the
 * programs, so that an answer meant for a controller that is gone never reaches its successor. All
 * queues are bounded: a program that doesn't read is answered for as being unavailable, and while
 * the controller doesn't read, nothing is read for it.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <cjson/cJSON.h>

#include "common/jsonrpc.h"
#include "common/log.h"
#include "image/alive.h"
#include "image/beat.h"
#include "image/envelope.h"
#include "image/probe.h"

#define CHANNEL_NAME "org.edgeplex.ctl.0"
#define PORTS_DIR "/sys/class/virtio-ports"
#define RUN_DIR "/run/edgeplex"

#define MAX_PENDING 64          /* requests that wait for a program's answers */
#define MAX_ID_LEN 64           /* of a request's id, as JSON text */
#define CHANNEL_HIGH (1u << 20) /* bytes: with more to send, read no more */
#define READ_CHUNK 16384
#define READS_PER_TURN 16
#define RETRY_FIRST_MS 10
#define RETRY_LAST_MS 1000

struct queue {
	char *data;
	size_t len, size;
};

struct pending {
	bool used;
	unsigned long id; /* ours */
	char their_id[MAX_ID_LEN + 1];
};

struct program {
	const char *prefix; /* of its methods */
	const char *name;
	const char *path;
	struct agent *agent;
	int fd; /* -1: not connected */
	struct jsonrpc_lines in;
	struct queue out;
	uint32_t events;      /* that epoll watches for */
	int retry_ms;         /* delay of the next attempt to connect; 0: none is planned */
	int64_t retry_due_ms; /* CLOCK_MONOTONIC */
	const char *question; /* the method that asks for a sign of life, NULL: there is none */
	size_t alive;         /* its number there, if there is a question */
	struct pending pending[MAX_PENDING]; /* its own: one that hangs takes no other's */
};

enum { INIT, PVMD, CVMD, FWD, N_PROGRAMS };

struct agent {
	int epoll_fd, channel_fd, timer_fd, inotify_fd;
	int64_t beat_due_ms; /* CLOCK_MONOTONIC */
	bool controller;     /* somebody has the channel open on the host */
	struct jsonrpc_lines in;
	struct queue out;
	struct probes *probes;
	struct alive *alive;
	unsigned long last_id;
	struct program programs[N_PROGRAMS];
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- queues -------------------------------------------------------------------------------- */

static bool queue_reserve(struct queue *q, size_t n)
{
	size_t size = q->size != 0 ? q->size : 4096;
	char *data;

	if (q->len + n <= q->size)
		return true;
	while (size < q->len + n)
		size *= 2;
	data = realloc(q->data, size);
	if (data == NULL)
		return false;
	q->data = data;
	q->size = size;
	return true;
}

/* The caller has reserved the room. */
static void queue_append(struct queue *q, const char *data, size_t n)
{
	memcpy(q->data + q->len, data, n);
	q->len += n;
}

static void queue_reset(struct queue *q)
{
	free(q->data);
	*q = (struct queue){0};
}

/* Writes what `fd` takes. Returns 0, or errno when the stream is broken. */
static int queue_flush(struct queue *q, int fd)
{
	size_t done = 0;
	int error = 0;

	while (done < q->len) {
		ssize_t n = write(fd, q->data + done, q->len - done);

		if (n > 0) {
			done += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			error = errno;
		break;
	}
	if (done == q->len) {
		/* Keep a small buffer, give a large one back. */
		q->len = 0;
		if (q->size > 65536)
			queue_reset(q);
	} else if (done > 0) {
		memmove(q->data, q->data + done, q->len - done);
		q->len -= done;
	}
	return error;
}

/* Queues `line` with its id replaced by `id`, and a newline. Returns false when memory ran out. */
static bool queue_message(
	struct queue *q, const char *line, const struct envelope *env, const char *id)
{
	size_t n = strlen(line), id_len = strlen(id);

	if (!queue_reserve(q, n + id_len + 1))
		return false;
	if (env->id == NULL) {
		queue_append(q, line, n);
	} else {
		const char *rest = env->id + env->id_len;

		queue_append(q, line, (size_t)(env->id - line));
		queue_append(q, id, id_len);
		queue_append(q, rest, n - (size_t)(rest - line));
	}
	queue_append(q, "\n", 1);
	return true;
}

/* ---- to the controller --------------------------------------------------------------------- */

/* Watches the programs' sockets for what there is room for. */
static void watch_programs(struct agent *agent)
{
	bool room = agent->out.len < CHANNEL_HIGH;

	for (unsigned i = 0; i < N_PROGRAMS; i++) {
		struct program *p = &agent->programs[i];
		struct epoll_event event = {
			.events = (room ? EPOLLIN : 0u) | (p->out.len > 0 ? EPOLLOUT : 0u),
			.data.ptr = p,
		};

		if (p->fd < 0 || p->events == event.events)
			continue;
		if (epoll_ctl(agent->epoll_fd, EPOLL_CTL_MOD, p->fd, &event) == 0)
			p->events = event.events;
	}
}

static void flush_channel(struct agent *agent)
{
	int error = queue_flush(&agent->out, agent->channel_fd);

	if (error != 0) {
		log_warn("can't write to the channel, what was to be said is dropped error=\"%s\"",
			strerror(error));
		queue_reset(&agent->out);
	}
}

/* `id` is JSON text; `message` needs no escapes. */
static void answer_error(
	struct agent *agent, const char *id, int code, const char *message, const char *name)
{
	char text[512];
	int n = snprintf(text, sizeof(text),
		"{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":%d,\"message\":\"%s%s\"}}\n",
		id, code, name, message);

	if (n > 0 && (size_t)n < sizeof(text) && queue_reserve(&agent->out, (size_t)n))
		queue_append(&agent->out, text, (size_t)n);
}

static void say(void *ctx, const char *line, size_t n)
{
	struct agent *agent = ctx;

	if (queue_reserve(&agent->out, n))
		queue_append(&agent->out, line, n);
}

static void fail_pending(struct program *program, const char *why)
{
	for (unsigned i = 0; i < MAX_PENDING; i++) {
		struct pending *pending = &program->pending[i];

		if (!pending->used)
			continue;
		pending->used = false;
		answer_error(
			program->agent, pending->their_id, JSONRPC_UNAVAILABLE, why, program->name);
	}
}

static struct pending *find_pending(struct program *program, unsigned long id)
{
	for (unsigned i = 0; i < MAX_PENDING; i++)
		if (program->pending[i].used && program->pending[i].id == id)
			return &program->pending[i];
	return NULL;
}

static struct pending *free_pending(struct program *program)
{
	for (unsigned i = 0; i < MAX_PENDING; i++)
		if (!program->pending[i].used)
			return &program->pending[i];
	return NULL;
}

/* A program's answer to our question whether it is alive. */
static void hear_sign_of_life(struct program *program, const char *line)
{
	cJSON *message = cJSON_Parse(line);
	const cJSON *error = cJSON_GetObjectItemCaseSensitive(message, "error");
	const char *why = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "message"));

	alive_told(program->agent->alive, program->alive,
		error == NULL ? NULL
		: why != NULL ? why
			      : "answered with an error");
	cJSON_Delete(message);
}

/* A line of a program: an answer, or a notification. */
static void relay_out(void *ctx, char *line)
{
	struct program *program = ctx;
	struct agent *agent = program->agent;
	struct pending *pending;
	struct envelope env;
	unsigned long id;

	if (envelope_scan(line, strlen(line), &env) != 0) {
		log_warn("a program said what is not JSON-RPC program=%s", program->name);
		return;
	}
	if (env.method != NULL && env.id == NULL) {
		if (agent->controller && !queue_message(&agent->out, line, &env, ""))
			log_warn("a notification is lost, out of memory program=%s", program->name);
		return;
	}
	if (env.method != NULL || env.id == NULL)
		return;
	if (env.id[0] == 'n') {
		/* It couldn't even read a request; which one, it can't tell. */
		fail_pending(program, " could not read a request");
		return;
	}
	id = strtoul(env.id, NULL, 10);
	if (program->question != NULL && alive_is_asked(agent->alive, program->alive, id)) {
		hear_sign_of_life(program, line);
		return;
	}
	pending = find_pending(program, id);
	if (pending == NULL)
		return; /* its controller is gone */
	if (!queue_message(&agent->out, line, &env, pending->their_id))
		answer_error(agent, pending->their_id, JSONRPC_INTERNAL_ERROR,
			" answered, but the VM is out of memory", program->name);
	pending->used = false;
}

/* ---- the programs' sockets ----------------------------------------------------------------- */

static void arm_timer(struct agent *agent)
{
	struct itimerspec timer = {0};
	int64_t next = INT64_MAX;

	for (unsigned i = 0; i < N_PROGRAMS; i++) {
		if (agent->programs[i].retry_ms != 0 && agent->programs[i].retry_due_ms < next)
			next = agent->programs[i].retry_due_ms;
	}
	if (alive_next_ms(agent->alive) < next)
		next = alive_next_ms(agent->alive);
	if (agent->beat_due_ms < next)
		next = agent->beat_due_ms;
	timer.it_value.tv_sec = next / 1000;
	timer.it_value.tv_nsec = next % 1000 * 1000000;
	timerfd_settime(agent->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

static void disconnect(struct program *program)
{
	if (program->fd < 0)
		return;
	close(program->fd);
	program->fd = -1;
	jsonrpc_lines_free(&program->in);
	program->in.skipping = false;
	queue_reset(&program->out);
	fail_pending(program, " ended before it answered");
	if (program->question != NULL && !alive_must_ask(program->agent->alive, program->alive))
		alive_told(program->agent->alive, program->alive, "ended before it answered");
}

/* Never waits: a program that hangs must not hang the agent. */
static bool try_connect(struct program *program)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = program};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd;

	if (program->fd >= 0)
		return true;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", program->path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		epoll_ctl(program->agent->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		close(fd);
		return false;
	}
	program->fd = fd;
	program->events = EPOLLIN;
	program->retry_ms = 0;
	return true;
}

/* A new socket may be there before its program listens: a few more attempts, then no more. */
static void connect_soon(struct program *program)
{
	if (try_connect(program))
		return;
	program->retry_ms = RETRY_FIRST_MS;
	program->retry_due_ms = now_ms() + program->retry_ms;
	arm_timer(program->agent);
}

/* Tells init that we haven't hung up to now. */
static void beat(struct agent *agent)
{
	static const char line[] = "{\"jsonrpc\":\"2.0\",\"method\":\"guest.beat\",\"params\":"
				   "{\"process\":\"agent\"}}\n";
	struct program *init = &agent->programs[INIT];

	if (!try_connect(init) || init->out.len > 0 || !queue_reserve(&init->out, sizeof(line) - 1))
		return;
	queue_append(&init->out, line, sizeof(line) - 1);
	if (queue_flush(&init->out, init->fd) != 0)
		disconnect(init);
}

static void on_timer(struct agent *agent)
{
	int64_t now = now_ms();
	uint64_t expirations;

	if (read(agent->timer_fd, &expirations, sizeof(expirations)) < 0)
		return;
	for (unsigned i = 0; i < N_PROGRAMS; i++) {
		struct program *program = &agent->programs[i];

		if (program->retry_ms == 0 || program->retry_due_ms > now || try_connect(program))
			continue;
		program->retry_ms *= 2;
		if (program->retry_ms > RETRY_LAST_MS)
			program->retry_ms = 0;
		program->retry_due_ms = now + program->retry_ms;
	}
	alive_run(agent->alive, now);
	if (agent->beat_due_ms <= now) {
		beat(agent);
		agent->beat_due_ms = now + AGENT_BEAT_MS;
	}
	arm_timer(agent);
}

/* A file appeared in RUN_DIR. */
static void notice_sockets(struct agent *agent)
{
	char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

	while (read(agent->inotify_fd, events, sizeof(events)) > 0)
		continue;
	for (unsigned i = 0; i < N_PROGRAMS; i++) {
		if (agent->programs[i].fd < 0 && access(agent->programs[i].path, F_OK) == 0)
			connect_soon(&agent->programs[i]);
	}
}

static void read_program(struct program *program)
{
	char chunk[READ_CHUNK];

	for (int i = 0; i < READS_PER_TURN && program->agent->out.len < CHANNEL_HIGH; i++) {
		ssize_t n = read(program->fd, chunk, sizeof(chunk));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0 || jsonrpc_lines_feed(
				      &program->in, chunk, (size_t)n, relay_out, program) != 0) {
			disconnect(program);
			return;
		}
	}
}

static void serve_program(struct program *program, uint32_t events)
{
	if (program->fd < 0)
		return;
	if ((events & EPOLLOUT) && queue_flush(&program->out, program->fd) != 0)
		disconnect(program);
	else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		read_program(program);
}

/* ---- from the controller ------------------------------------------------------------------- */

static bool is_method(const struct envelope *env, const char *method)
{
	return env->method_len == strlen(method) &&
	       memcmp(env->method, method, env->method_len) == 0;
}

static struct program *find_program(struct agent *agent, const struct envelope *env)
{
	for (unsigned i = 0; i < N_PROGRAMS; i++) {
		size_t n = strlen(agent->programs[i].prefix);

		if (env->method_len > n && memcmp(env->method, agent->programs[i].prefix, n) == 0)
			return &agent->programs[i];
	}
	return NULL;
}

static void send_to_program(
	struct agent *agent, struct program *program, const char *line, const struct envelope *env)
{
	struct pending *pending = env->id != NULL ? free_pending(program) : NULL;
	char their_id[MAX_ID_LEN + 1], id[24];
	int error;

	snprintf(their_id, sizeof(their_id), "%.*s", (int)env->id_len,
		env->id != NULL ? env->id : "");
	if (!try_connect(program)) {
		if (env->id != NULL)
			answer_error(agent, their_id, JSONRPC_UNAVAILABLE,
				" is not running in this VM", program->name);
		return;
	}
	if ((env->id != NULL && pending == NULL) || program->out.len > 0) {
		if (env->id != NULL)
			answer_error(agent, their_id, JSONRPC_UNAVAILABLE,
				" is busy: wait for the answers to earlier requests",
				program->name);
		return;
	}
	snprintf(id, sizeof(id), "%lu", ++agent->last_id);
	if (!queue_message(&program->out, line, env, id)) {
		if (env->id != NULL)
			answer_error(agent, their_id, JSONRPC_INTERNAL_ERROR,
				" was not asked: the VM is out of memory", program->name);
		return;
	}
	if (pending != NULL) {
		pending->used = true;
		pending->id = agent->last_id;
		memcpy(pending->their_id, their_id, sizeof(their_id));
	}
	error = queue_flush(&program->out, program->fd);
	if (error != 0)
		disconnect(program);
}

/* Asks a program for a sign of life, if it doesn't owe one already. */
static void ask_whether_alive(struct agent *agent, struct program *program)
{
	char line[128];
	int n;

	if (!alive_must_ask(agent->alive, program->alive))
		return;
	if (!try_connect(program)) {
		alive_told(agent->alive, program->alive, "is not running in this VM");
		return;
	}
	/* One that doesn't read isn't asked, and doesn't answer. */
	if (program->out.len > 0)
		return;
	n = snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":%lu,\"method\":\"%s\"}\n",
		++agent->last_id, program->question);
	if (!queue_reserve(&program->out, (size_t)n))
		return;
	queue_append(&program->out, line, (size_t)n);
	alive_asked(agent->alive, program->alive, agent->last_id, now_ms());
	if (queue_flush(&program->out, program->fd) != 0)
		disconnect(program);
}

static void serve_alive(struct agent *agent, const char *id)
{
	if (!alive_begin(agent->alive, id, now_ms())) {
		answer_error(agent, id, JSONRPC_UNAVAILABLE,
			"too many wait for this answer: ask again later", "");
		return;
	}
	for (unsigned i = 0; i < N_PROGRAMS; i++)
		if (agent->programs[i].question != NULL)
			ask_whether_alive(agent, &agent->programs[i]);
	arm_timer(agent);
}

/* A line of the controller. */
static void relay_in(void *ctx, char *line)
{
	struct agent *agent = ctx;
	struct program *program;
	struct envelope env;
	char id[MAX_ID_LEN + 1];

	if (envelope_scan(line, strlen(line), &env) != 0) {
		answer_error(agent, "null", JSONRPC_PARSE_ERROR,
			"not a JSON-RPC request: one JSON object per line", "");
		return;
	}
	if (env.method == NULL || env.id_len > MAX_ID_LEN) {
		answer_error(agent, "null", JSONRPC_INVALID_REQUEST,
			"a request has a method, and an id of up to 64 characters", "");
		return;
	}
	if (env.id != NULL && is_method(&env, "guest.probe")) {
		snprintf(id, sizeof(id), "%.*s", (int)env.id_len, env.id);
		probes_begin(agent->probes, line, id);
		return;
	}
	if (env.id != NULL && is_method(&env, "guest.alive")) {
		snprintf(id, sizeof(id), "%.*s", (int)env.id_len, env.id);
		serve_alive(agent, id);
		return;
	}
	program = find_program(agent, &env);
	if (program != NULL) {
		send_to_program(agent, program, line, &env);
	} else if (env.id != NULL) {
		snprintf(id, sizeof(id), "%.*s", (int)env.id_len, env.id);
		answer_error(agent, id, JSONRPC_METHOD_NOT_FOUND,
			"no such method: they begin with guest., pvm., cvm. or fwd.", "");
	}
}

/* The controller closed the channel: what is half said and what it asked for is void. */
static void forget_controller(struct agent *agent)
{
	jsonrpc_lines_free(&agent->in);
	agent->in.skipping = false;
	queue_reset(&agent->out);
	probes_forget(agent->probes);
	alive_forget(agent->alive);
	for (unsigned i = 0; i < N_PROGRAMS; i++)
		for (unsigned k = 0; k < MAX_PENDING; k++)
			agent->programs[i].pending[k].used = false;
}

/*
 * The port is watched for edges only, since without a controller it polls as hung up all the time.
 * So read until there is nothing more, or until the controller should first take its answers.
 *
 * End of file means that nobody is connected. But the driver hears of a new controller a little
 * later than of what it says first: after data, end of file tells nothing about who was heard.
 */
static void serve_channel(struct agent *agent)
{
	char chunk[READ_CHUNK];
	bool heard = false;

	flush_channel(agent);
	while (agent->out.len < CHANNEL_HIGH) {
		ssize_t n = read(agent->channel_fd, chunk, sizeof(chunk));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			agent->controller = true;
			return;
		}
		if (n == 0) {
			if (agent->controller && !heard)
				forget_controller(agent);
			agent->controller = false;
			return;
		}
		heard = true;
		if (jsonrpc_lines_feed(&agent->in, chunk, (size_t)n, relay_in, agent) != 0)
			answer_error(agent, "null", JSONRPC_INVALID_REQUEST,
				"the line is too long: 4 MiB at most", "");
		flush_channel(agent);
	}
}

/* ---- set-up -------------------------------------------------------------------------------- */

/* Opens the port of our channel. Returns a descriptor, or -1 when it is not there (yet). */
static int open_channel(void)
{
	DIR *ports = opendir(PORTS_DIR);
	const struct dirent *entry;
	char path[320], name[64];
	int fd = -1;

	while (ports != NULL && fd < 0 && (entry = readdir(ports)) != NULL) {
		FILE *file;

		snprintf(path, sizeof(path), PORTS_DIR "/%s/name", entry->d_name);
		file = fopen(path, "re");
		if (file == NULL)
			continue;
		if (fgets(name, sizeof(name), file) != NULL) {
			name[strcspn(name, "\n")] = '\0';
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			if (strcmp(name, CHANNEL_NAME) == 0)
				fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		fclose(file);
	}
	if (ports != NULL)
		closedir(ports);
	return fd;
}

/* The driver finds its ports some time after it is loaded, and tells by uevents. */
static int wait_for_channel(void)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int events = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	char event[8192];
	int fd;

	if (events < 0 || bind(events, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		log_error("can't listen for the kernel's events error=\"%s\"", strerror(errno));
		if (events >= 0)
			close(events);
		return -1;
	}
	fd = open_channel();
	if (fd < 0)
		log_info("waiting for the channel name=" CHANNEL_NAME);
	while (fd < 0) {
		if (recv(events, event, sizeof(event), 0) < 0 && errno != EINTR && errno != ENOBUFS)
			break;
		fd = open_channel();
	}
	close(events);
	return fd;
}

static int watch(struct agent *agent, int fd, uint32_t events, void *tag)
{
	struct epoll_event event = {.events = events, .data.ptr = tag};

	return fd < 0 ? -1 : epoll_ctl(agent->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static bool is_cvm(void)
{
	FILE *file = fopen("/proc/cmdline", "re");
	char text[4096] = "";
	bool found;

	if (file == NULL)
		return false;
	found = fgets(text, sizeof(text), file) != NULL &&
		strstr(text, "edgeplex.role=cvm") != NULL;
	fclose(file);
	return found;
}

/* Whose signs of life tell that the VM does its work. */
static void set_up_alive(struct agent *agent)
{
	static const char *const pvm[] = {"fwd", "pvm"}, *const cvm[] = {"cvm"};
	bool cvm_role = is_cvm();
	struct program *programs = agent->programs;

	agent->alive =
		cvm_role ? alive_create(cvm, 1, say, agent) : alive_create(pvm, 2, say, agent);
	if (cvm_role) {
		programs[CVMD].question = "cvm.alive";
		return;
	}
	programs[FWD].question = "fwd.alive";
	programs[PVMD].question = "pvm.alive";
	programs[PVMD].alive = 1;
}

static int set_up(struct agent *agent)
{
	static const char *const programs[N_PROGRAMS][3] = {
		[INIT] = {"guest.", "init", RUN_DIR "/init.sock"},
		[PVMD] = {"pvm.", "pvmd", RUN_DIR "/pvmd.sock"},
		[CVMD] = {"cvm.", "cvmd", RUN_DIR "/cvmd.sock"},
		[FWD] = {"fwd.", "edgeplex-fwd", RUN_DIR "/fwd.sock"},
	};

	for (unsigned i = 0; i < N_PROGRAMS; i++) {
		agent->programs[i] = (struct program){
			.prefix = programs[i][0],
			.name = programs[i][1],
			.path = programs[i][2],
			.agent = agent,
			.fd = -1,
		};
	}
	agent->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	agent->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	agent->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	agent->probes = probes_create(say, agent);
	set_up_alive(agent);
	agent->beat_due_ms = now_ms();
	if (agent->epoll_fd < 0 || agent->probes == NULL || agent->alive == NULL ||
		watch(agent, probes_fd(agent->probes), EPOLLIN, agent->probes) < 0 ||
		watch(agent, agent->timer_fd, EPOLLIN, &agent->timer_fd) < 0 ||
		watch(agent, agent->inotify_fd, EPOLLIN, &agent->inotify_fd) < 0 ||
		inotify_add_watch(agent->inotify_fd, RUN_DIR, IN_CREATE | IN_MOVED_TO) < 0)
		return -1;
	agent->channel_fd = wait_for_channel();
	return watch(agent, agent->channel_fd, EPOLLIN | EPOLLOUT | EPOLLET, &agent->channel_fd);
}

static void serve_event(struct agent *agent, const struct epoll_event *event)
{
	if (event->data.ptr == &agent->timer_fd)
		on_timer(agent);
	else if (event->data.ptr == agent->probes)
		probes_run(agent->probes);
	else if (event->data.ptr == &agent->inotify_fd)
		notice_sockets(agent);
	else if (event->data.ptr != &agent->channel_fd)
		serve_program(event->data.ptr, event->events);
}

int main(void)
{
	static struct agent agent;
	struct epoll_event events[16];

	log_init("agent");
	signal(SIGPIPE, SIG_IGN);
	if (set_up(&agent) != 0) {
		log_error("can't set up error=\"%s\"", strerror(errno));
		return 1;
	}
	log_info("serving the channel name=" CHANNEL_NAME);
	notice_sockets(&agent);
	arm_timer(&agent);
	for (;;) {
		int n = epoll_wait(agent.epoll_fd, events, 16, -1);

		if (n < 0 && errno != EINTR) {
			log_error("can't wait for events error=\"%s\"", strerror(errno));
			return 1;
		}
		for (int i = 0; i < n; i++)
			serve_event(&agent, &events[i]);
		/*
		 * Whatever it was, there may now be something to say, and then room to hear more;
		 * the channel's edge, should this be one, is also served by it.
		 */
		serve_channel(&agent);
		watch_programs(&agent);
	}
}
