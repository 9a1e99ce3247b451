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

int cfg_execute_in_bgpd(
	void *ctx, const char *context, const char *command, char *why, size_t why_size)
{
	struct vty *vty = terminal();
	char *path = strdup(context), *rest = path, *step;
	int result = CMD_SUCCESS;
	char said[160];

	(void)ctx;
	if (!path)
		abort();
	vty->node = CONFIG_NODE;
	vty->xpath_index = 0;
	while (result == CMD_SUCCESS && (step = strsep(&rest, "\n")))
		if (*step)
			result = execute_one(vty, step);
	free(path);
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
