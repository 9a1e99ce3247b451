/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "image/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STEADY_MS 10000 /* who ran for so long starts with a clean record */
#define FIRST_DELAY_MS 100
#define MAX_DELAY_MS 5000
#define READ_CHUNK 4096
#define READS_PER_TURN 8

struct program {
	struct program *next;
	struct supervisor *sv;
	const char *name;
	char *const *argv;
	int oom_score_adj;
	pid_t pid;            /* 0: not running */
	int64_t started_ms;   /* CLOCK_MONOTONIC */
	int64_t start_due_ms; /* when not running */
	unsigned restarts;
	unsigned quick_ends;   /* ended before STEADY_MS, in a row */
	int beat_ms;           /* between its signs of life; 0: none are expected */
	int64_t beat_due_ms;   /* the next one; 0: it hasn't given any in this life */
	unsigned missed;       /* in a row */
	int pipe_in, pipe_out; /* the program's output; one pipe for all its lives */
	char partial[SUPERVISOR_LINE_MAX];
	size_t partial_len;
	char *log[SUPERVISOR_LOG_LINES]; /* a ring */
	unsigned log_next;
};

struct supervisor {
	supervisor_echo echo;
	void *ctx;
	int epoll_fd, signal_fd, timer_fd;
	struct program *programs;
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct program *find(const struct supervisor *sv, const char *name)
{
	for (struct program *p = sv->programs; p != NULL; p = p->next) {
		if (strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

/* ---- output -------------------------------------------------------------------------------- */

static void keep_line(struct program *p, const char *line)
{
	char *copy = strdup(line);

	if (p->sv->echo != NULL)
		p->sv->echo(p->sv->ctx, p->name, line);
	if (copy == NULL)
		return;
	free(p->log[p->log_next]);
	p->log[p->log_next] = copy;
	p->log_next = (p->log_next + 1) % SUPERVISOR_LOG_LINES;
}

static void end_line(struct program *p)
{
	if (p->partial_len == 0)
		return;
	p->partial[p->partial_len] = '\0';
	p->partial_len = 0;
	keep_line(p, p->partial);
}

static void take_output(struct program *p, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)data[i];

		if (c == '\n') {
			end_line(p);
			continue;
		}
		/* The line goes to a console and into JSON: printable ASCII is enough for both. */
		p->partial[p->partial_len++] = c == '\t' || (c >= 0x20 && c < 0x7f) ? (char)c : '?';
		if (p->partial_len == sizeof(p->partial) - 1)
			end_line(p);
	}
}

static void read_output(struct program *p)
{
	char chunk[READ_CHUNK];

	for (int i = 0; i < READS_PER_TURN; i++) {
		ssize_t n = read(p->pipe_in, chunk, sizeof(chunk));

		if (n <= 0)
			return;
		take_output(p, chunk, (size_t)n);
	}
}

/* ---- life and death ------------------------------------------------------------------------ */

static void set_oom_score_adj(int value)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		dprintf(fd, "%d", value);
		close(fd);
	}
}

/* Only async-signal-safe calls are needed here, but for dprintf(), safe since we have no threads.
 */
static _Noreturn void become(const struct program *p)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	setsid();
	if (dup2(null, STDIN_FILENO) < 0 || dup2(p->pipe_out, STDOUT_FILENO) < 0 ||
		dup2(p->pipe_out, STDERR_FILENO) < 0)
		_exit(127);
	close_range(STDERR_FILENO + 1, ~0u, 0);
	set_oom_score_adj(p->oom_score_adj);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(p->argv[0], p->argv);
	dprintf(STDERR_FILENO, "can't be executed: %s: %s\n", p->argv[0], strerror(errno));
	_exit(127);
}

static void start(struct program *p)
{
	pid_t pid = fork();

	if (pid == 0)
		become(p);
	if (pid < 0) {
		p->start_due_ms = now_ms() + MAX_DELAY_MS;
		return;
	}
	p->pid = pid;
	p->started_ms = now_ms();
	p->beat_due_ms = 0;
	p->missed = 0;
}

/* Its sign of life is due, and didn't come. */
static void miss_beat(struct program *p, int64_t now)
{
	char line[128];

	p->beat_due_ms = now + p->beat_ms;
	if (++p->missed < SUPERVISOR_MISSED)
		return;
	snprintf(line, sizeof(line),
		"supervisor: pid=%d gave no sign of life for %d ms: it is killed", (int)p->pid,
		SUPERVISOR_MISSED * p->beat_ms);
	keep_line(p, line);
	/* Not reaped yet, so the number is still its own. */
	kill(p->pid, SIGKILL);
	p->beat_due_ms = 0;
}

/* Arms the timer for what is due next; does what is due now. */
static void do_due(struct supervisor *sv)
{
	int64_t now = now_ms(), next = INT64_MAX;
	struct itimerspec timer = {0};

	for (struct program *p = sv->programs; p != NULL; p = p->next) {
		if (p->pid == 0 && p->start_due_ms <= now)
			start(p);
		if (p->pid == 0 && p->start_due_ms < next)
			next = p->start_due_ms;
		if (p->pid != 0 && p->beat_due_ms != 0 && p->beat_due_ms <= now)
			miss_beat(p, now);
		if (p->pid != 0 && p->beat_due_ms != 0 && p->beat_due_ms < next)
			next = p->beat_due_ms;
	}
	if (next != INT64_MAX) {
		timer.it_value.tv_sec = next / 1000;
		timer.it_value.tv_nsec = next % 1000 * 1000000;
	}
	timerfd_settime(sv->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

static void note_end(struct program *p, int status)
{
	int64_t now = now_ms(), delay = 0;
	char line[128];

	/* What it said last is still in the pipe. */
	read_output(p);
	end_line(p);
	if (now - p->started_ms >= STEADY_MS)
		p->quick_ends = 0;
	if (p->quick_ends > 0) {
		unsigned doublings = p->quick_ends - 1 < 16 ? p->quick_ends - 1 : 16;

		delay = (int64_t)FIRST_DELAY_MS << doublings;
		if (delay > MAX_DELAY_MS)
			delay = MAX_DELAY_MS;
	}
	p->quick_ends++;
	p->restarts++;
	snprintf(line, sizeof(line),
		"supervisor: pid=%d ended %s=%d after_ms=%lld restart_in_ms=%lld", (int)p->pid,
		WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
		(long long)(now - p->started_ms), (long long)delay);
	keep_line(p, line);
	/* Its children, if it had any, were in its session. */
	kill(-p->pid, SIGKILL);
	p->pid = 0;
	p->start_due_ms = now + delay;
}

static void reap(struct supervisor *sv)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (struct program *p = sv->programs; p != NULL; p = p->next) {
			if (p->pid == pid)
				note_end(p, status);
		}
	}
}

void supervisor_run(struct supervisor *sv)
{
	struct epoll_event events[16];
	struct signalfd_siginfo info;
	uint64_t expirations;
	int n = epoll_wait(sv->epoll_fd, events, 16, 0);

	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr != NULL)
			read_output(events[i].data.ptr);
	}
	while (read(sv->signal_fd, &info, sizeof(info)) > 0)
		continue;
	while (read(sv->timer_fd, &expirations, sizeof(expirations)) > 0)
		continue;
	reap(sv);
	do_due(sv);
}

int supervisor_fd(const struct supervisor *sv)
{
	return sv->epoll_fd;
}

/* ---- set-up -------------------------------------------------------------------------------- */

static int watch(struct supervisor *sv, int fd, struct program *program)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = program};

	return epoll_ctl(sv->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

struct supervisor *supervisor_create(supervisor_echo echo, void *ctx)
{
	struct supervisor *sv = calloc(1, sizeof(*sv));
	sigset_t child;
	int error;

	if (sv == NULL)
		return NULL;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	sv->echo = echo;
	sv->ctx = ctx;
	sv->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	sv->signal_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	sv->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (sv->epoll_fd < 0 || sv->signal_fd < 0 || sv->timer_fd < 0)
		error = errno;
	else if ((error = watch(sv, sv->signal_fd, NULL)) == 0)
		error = watch(sv, sv->timer_fd, NULL);
	if (error != 0) {
		supervisor_destroy(sv);
		errno = error;
		return NULL;
	}
	return sv;
}

int supervisor_add(struct supervisor *sv, const char *name, char *const argv[], int oom_score_adj)
{
	struct program *p = calloc(1, sizeof(*p));
	struct program **last = &sv->programs;
	int fds[2], error;

	if (p == NULL)
		return ENOMEM;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		error = errno;
		free(p);
		return error;
	}
	/* Our end only: the program should wait rather than lose a line. */
	error = fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0 ? errno : watch(sv, fds[0], p);
	if (error != 0) {
		close(fds[0]);
		close(fds[1]);
		free(p);
		return error;
	}
	*p = (struct program){
		.sv = sv,
		.name = name,
		.argv = argv,
		.oom_score_adj = oom_score_adj,
		.pipe_in = fds[0],
		.pipe_out = fds[1],
	};
	while (*last != NULL)
		last = &(*last)->next;
	*last = p;
	do_due(sv);
	return 0;
}

static void free_program(struct program *p)
{
	if (p->pid > 0) {
		kill(-p->pid, SIGKILL);
		kill(p->pid, SIGKILL);
		waitpid(p->pid, NULL, 0);
	}
	close(p->pipe_in);
	close(p->pipe_out);
	for (unsigned i = 0; i < SUPERVISOR_LOG_LINES; i++)
		free(p->log[i]);
	free(p);
}

void supervisor_destroy(struct supervisor *sv)
{
	if (sv == NULL)
		return;
	while (sv->programs != NULL) {
		struct program *p = sv->programs;

		sv->programs = p->next;
		free_program(p);
	}
	close_if_open(sv->timer_fd);
	close_if_open(sv->signal_fd);
	close_if_open(sv->epoll_fd);
	free(sv);
}

/* ---- what is asked of it ------------------------------------------------------------------- */

int supervisor_signal(struct supervisor *sv, const char *name, int signal_number)
{
	struct program *p = find(sv, name);

	if (p == NULL)
		return ENOENT;
	if (p->pid == 0)
		return ESRCH;
	/* Not reaped yet, so the number is still its own. */
	return kill(p->pid, signal_number) < 0 ? errno : 0;
}

int supervisor_expect_beats(struct supervisor *sv, const char *name, int every_ms)
{
	struct program *p = find(sv, name);

	if (p == NULL)
		return ENOENT;
	p->beat_ms = every_ms;
	return 0;
}

int supervisor_beat(struct supervisor *sv, const char *name)
{
	struct program *p = find(sv, name);

	if (p == NULL)
		return ENOENT;
	if (p->pid == 0 || p->beat_ms == 0)
		return 0;
	p->beat_due_ms = now_ms() + p->beat_ms;
	p->missed = 0;
	do_due(sv);
	return 0;
}

/* CPU time in ms and resident memory in KiB of a process; zeros if it is gone. */
static void read_usage(pid_t pid, double *cpu_ms, double *rss_kib)
{
	char path[64], text[1024];
	const char *rest;
	unsigned long user, system;
	long rss;
	ssize_t n;
	int fd;

	*cpu_ms = *rss_kib = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return;
	text[n] = '\0';
	/* proc(5): the name may hold blanks; it ends with the last bracket. Fields 14, 15 and 24.
	 */
	rest = strrchr(text, ')');
	if (rest == NULL ||
		// NOLINTNEXTLINE(cert-err34-c): the kernel wrote it
		sscanf(rest + 1,
			" %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d "
			"%*d %*u %*u %ld",
			&user, &system, &rss) != 3)
		return;
	*cpu_ms = (double)(user + system) * 1000.0 / (double)sysconf(_SC_CLK_TCK);
	*rss_kib = (double)rss * (double)sysconf(_SC_PAGESIZE) / 1024.0;
}

cJSON *supervisor_list(const struct supervisor *sv)
{
	cJSON *list = cJSON_CreateArray();
	int64_t now = now_ms();

	for (const struct program *p = sv->programs; list != NULL && p != NULL; p = p->next) {
		cJSON *item = cJSON_CreateObject();
		double cpu_ms = 0, rss_kib = 0;

		if (item == NULL || !cJSON_AddItemToArray(list, item)) {
			cJSON_Delete(item);
			cJSON_Delete(list);
			return NULL;
		}
		if (p->pid != 0)
			read_usage(p->pid, &cpu_ms, &rss_kib);
		cJSON_AddStringToObject(item, "name", p->name);
		cJSON_AddNumberToObject(item, "pid", p->pid);
		cJSON_AddBoolToObject(item, "running", p->pid != 0);
		cJSON_AddNumberToObject(item, "restarts", p->restarts);
		cJSON_AddNumberToObject(item, "started_ms_ago", (double)(now - p->started_ms));
		cJSON_AddNumberToObject(item, "cpu_ms", cpu_ms);
		cJSON_AddNumberToObject(item, "rss_kib", rss_kib);
	}
	return list;
}

cJSON *supervisor_log(const struct supervisor *sv, const char *name, unsigned lines)
{
	const struct program *p = find(sv, name);
	cJSON *list;

	if (p == NULL) {
		errno = ENOENT;
		return NULL;
	}
	list = cJSON_CreateArray();
	if (lines > SUPERVISOR_LOG_LINES)
		lines = SUPERVISOR_LOG_LINES;
	for (unsigned back = lines; list != NULL && back > 0; back--) {
		const char *line =
			p->log[(p->log_next + SUPERVISOR_LOG_LINES - back) % SUPERVISOR_LOG_LINES];
		cJSON *item;

		if (line == NULL)
			continue;
		item = cJSON_CreateString(line);
		if (item == NULL || !cJSON_AddItemToArray(list, item)) {
			cJSON_Delete(item);
			cJSON_Delete(list);
			list = NULL;
		}
	}
	if (list == NULL)
		errno = ENOMEM;
	return list;
}
