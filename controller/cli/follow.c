/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/follow.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/progress.h"
#include "controller/cli/term.h"
#include "controller/cli/text.h"

#define LONG_POLL_MS 10000
#define RESTART_LIMIT_MS 60000 /* how long an edgeplexd that went away is awaited */
#define RETRY_MS 500

struct follow {
	struct cli *cli;
	struct progress *progress;
	cJSON *operation;
	int signals; /* signalfd */
	double begun_ms;
	double lost_ms; /* since when edgeplexd doesn't answer; 0: it does */
};

static double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1000 + (double)now.tv_nsec / 1e6;
}

static bool is_state(const cJSON *operation, const char *state)
{
	const char *is = json_string(operation, "state");

	return is && strcmp(is, state) == 0;
}

/* Is there a signal within `timeout_ms`? */
static bool interrupted(const struct follow *follow, int timeout_ms)
{
	struct pollfd fd = {.fd = follow->signals, .events = POLLIN};

	return poll(&fd, 1, timeout_ms) > 0;
}

static bool still_waiting(void *ctx)
{
	struct follow *follow = ctx;

	progress_tick(follow->progress, now_ms() - follow->begun_ms);
	return !interrupted(follow, 0);
}

static int tell_interrupted(const struct follow *follow)
{
	char *text = mem_printf("interrupted; operation %.0f goes on. Watch it: "
				"edgeplex operation wait %.0f",
		json_number(follow->operation, "id", 0), json_number(follow->operation, "id", 0));

	progress_note(follow->progress, text);
	free(text);
	return CLI_INTERRUPTED;
}

/* edgeplexd doesn't answer: is it worth another attempt? CLI_OK: yes. */
static int await_restart(struct follow *follow, const struct client_answer *answer)
{
	double now = now_ms();

	if (follow->lost_ms == 0) {
		follow->lost_ms = now;
		progress_note(follow->progress, answer->why);
		progress_note(follow->progress, "  waiting for it to come back");
	}
	if (now - follow->lost_ms > RESTART_LIMIT_MS) {
		progress_free(follow->progress);
		follow->progress = NULL;
		return cli_tell_unreachable(follow->cli, answer);
	}
	return interrupted(follow, RETRY_MS) ? tell_interrupted(follow) : CLI_OK;
}

/* Asks once how it goes. CLI_OK: `operation` is new, or it is worth another attempt. */
static int ask(struct follow *follow)
{
	int n;
	const cJSON *steps = json_array(follow->operation, "steps", &n), *step;
	int n_begun = 0, code;
	struct client_waiter waiter = {follow->signals, still_waiting, follow};
	struct client_answer answer;
	enum client_result result;
	char *path;

	cJSON_ArrayForEach (step, steps)
		n_begun += !is_state(step, "pending");
	path = mem_printf("/v1/operations/%.0f?wait_ms=%d&since_step=%d",
		json_number(follow->operation, "id", 0), LONG_POLL_MS, n_begun);
	result = client_request(follow->cli->client, "GET", path, NULL,
		LONG_POLL_MS + CLI_TIMEOUT_MS, &waiter, &answer);
	free(path);
	if (result == CLIENT_ABORTED)
		return tell_interrupted(follow);
	if (result == CLIENT_UNREACHABLE)
		return await_restart(follow, &answer);
	follow->lost_ms = 0;
	if (answer.status != 200 || !json_string(answer.body, "state")) {
		progress_free(follow->progress);
		follow->progress = NULL;
		return cli_tell_refusal(follow->cli, &answer);
	}
	/* An answer without news that came at once must not make us ask without a pause. */
	code = cJSON_Compare(answer.body, follow->operation, true) && interrupted(follow, 200)
		       ? tell_interrupted(follow)
		       : CLI_OK;
	cJSON_Delete(follow->operation);
	follow->operation = answer.body;
	progress_show(follow->progress, follow->operation, now_ms() - follow->begun_ms);
	return code;
}

/* Which steps were undone after another had failed? */
static void tell_undone(struct cli *cli, const cJSON *operation)
{
	const cJSON *step;
	bool any = false;

	cJSON_ArrayForEach (step, json_at(operation, "steps")) {
		const char *name = json_string(step, "name");

		if (!is_state(step, "undone"))
			continue;
		fputs(any ? ", " : "  taken back: ", cli->err);
		text_write_safe(cli->err, name ? name : "step");
		any = true;
	}
	if (any)
		fputc('\n', cli->err);
}

static int tell_outcome(struct follow *follow)
{
	struct cli *cli = follow->cli;
	const char *verb = json_string(follow->operation, "verb");
	const char *object = json_string(follow->operation, "object");
	char duration[32], *text;
	bool good = is_state(follow->operation, "succeeded");

	progress_free(follow->progress);
	follow->progress = NULL;
	if (cli->json)
		json_write(cli->out, follow->operation);
	if (!good) {
		const cJSON *error = json_at(follow->operation, "error");

		if (error)
			cli_write_problem(cli, error);
		else
			cli_error(cli, NULL, "operation %.0f failed without a reason",
				json_number(follow->operation, "id", 0));
		tell_undone(cli, follow->operation);
		fprintf(cli->err, "  operation: %.0f (edgeplex operation show %.0f)\n",
			json_number(follow->operation, "id", 0),
			json_number(follow->operation, "id", 0));
		return CLI_FAILED;
	}
	if (!cli->json) {
		text = mem_printf("%s %s: done in %s (operation %.0f)", verb ? verb : "operation",
			object ? object : "", text_duration(now_ms() - follow->begun_ms, duration),
			json_number(follow->operation, "id", 0));
		text_write_safe(cli->out, text);
		fputc('\n', cli->out);
		free(text);
	}
	return CLI_OK;
}

int follow_operation(struct cli *cli, cJSON *operation)
{
	struct follow follow = {.cli = cli, .operation = operation, .begun_ms = now_ms()};
	sigset_t signals, before;
	int code = CLI_OK;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, &before);
	follow.signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	follow.progress = progress_new(
		cli->err, term_is_screen(cli->err), cli->err_colour, term_columns(cli->err));
	progress_show(follow.progress, operation, 0);
	while (code == CLI_OK && !is_state(follow.operation, "succeeded") &&
		!is_state(follow.operation, "failed"))
		code = ask(&follow);
	if (code == CLI_OK)
		code = tell_outcome(&follow);
	progress_free(follow.progress);
	cJSON_Delete(follow.operation);
	if (follow.signals >= 0) {
		struct signalfd_siginfo info;

		while (read(follow.signals, &info, sizeof(info)) == sizeof(info))
			;
		close(follow.signals);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	return code;
}
