/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "buffer.h"
#include "command.h"
#include "memory.h"
#include "northbound_cli.h"
#include "vector.h"
#include "vty.h"

#include "common/bgp/bgp_cfg.h"
#undef log_debug
#include "common/log.h"

/* A terminal that nobody looks at; what commands print is collected in its output buffer. */
static struct vty *terminal(void)
{
	static struct vty *vty;

	if (!vty) {
		vty = vty_new();
		vty->type = VTY_FILE;
		vty_config_enter(vty, false, false);
	}
	return vty;
}

static int execute_one(struct vty *vty, const char *command)
{
	vector words = cmd_make_strvec(command);
	int result;

	if (!words)
		return CMD_ERR_NO_MATCH;
	snprintf(vty->buf, vty->max, "%s", command);
	result = cmd_execute_command_strict(words, vty, NULL);
	cmd_free_strvec(words);
	return result;
}

/* One line of what the command printed, without bgpd's "% ". */
static void first_line(struct vty *vty, char *text, size_t size)
{
	char *out = buffer_getstr(vty->obuf), *at = out;

	at += strspn(at, "% \n");
	at[strcspn(at, "\n")] = '\0';
	snprintf(text, size, "%s", at);
	XFREE(MTYPE_TMP, out);
	buffer_reset(vty->obuf);
}

/*
 * Brings the terminal to a context. Lines come context by context, and bgpd looks each command up
 * among thousands: most of the time of a whole configuration would go into entering the same ones.
 */
static int go_to(struct vty *vty, const char *context)
{
	static char *entered; /* where the last command was, NULL: not known */
	static int node;
	char *path, *rest, *step;
	int result = CMD_SUCCESS;

	/* A command that leads elsewhere leaves its context. */
	if (entered && !strcmp(entered, context) && vty->node == node)
		return CMD_SUCCESS;
	free(entered);
	entered = NULL;
	path = rest = strdup(context);
	if (!path)
		abort();
	vty->node = CONFIG_NODE;
	vty->xpath_index = 0;
	while (result == CMD_SUCCESS && (step = strsep(&rest, "\n")))
		if (*step)
			result = execute_one(vty, step);
	free(path);
	/* At the top commands that open a context leave it behind them. */
	if (result == CMD_SUCCESS && *context) {
		entered = strdup(context);
		node = vty->node;
	}
	return result;
}

int cfg_execute_in_bgpd(
	void *ctx, const char *context, const char *command, char *why, size_t why_size)
{
	struct vty *vty = terminal();
	int result = go_to(vty, context);
	char said[160];

	(void)ctx;
	if (result == CMD_SUCCESS)
		result = execute_one(vty, command);
	/* Changes of route maps are collected into one transaction: end it. */
	nb_cli_pending_commit_check(vty);
	first_line(vty, said, sizeof(said));
	log_debug("configure context=\"%s\" command=\"%s\" result=%d %s", context, command, result,
		said);
	if (result == CMD_SUCCESS || (result == CMD_WARNING && !*said))
		return 0;
	snprintf(why, why_size, "bgpd refused \"%s\": %s (%d)", command,
		*said ? said : "unknown command", result);
	return -1;
}
