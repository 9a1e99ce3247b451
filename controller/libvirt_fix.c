/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/libvirt_fix.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

/* As GLib has them; its headers aren't needed for libvirt, so they may be missing. */
typedef struct _GSource GSource;
typedef struct _GMainContext GMainContext;
typedef struct _GMainLoop GMainLoop;
typedef struct {
	int fd;
	unsigned short events, revents;
} GPollFD;

#define EXPORTED __attribute__((visibility("default")))
#define TICK_MS 250

EXPORTED void g_source_add_poll(GSource *source, GPollFD *fd);
EXPORTED unsigned int g_source_attach(GSource *source, GMainContext *context);
EXPORTED void g_main_loop_run(GMainLoop *loop);

static struct {
	unsigned int (*source_attach)(GSource *source, GMainContext *context);
	void (*source_add_poll)(GSource *source, GPollFD *fd);
	void (*source_destroy)(GSource *source);
	void (*source_unref)(GSource *source);
	void (*source_set_callback)(
		GSource *source, int (*fn)(void *), void *data, void (*free)(void *));
	GSource *(*timeout_source_new)(unsigned int ms);
	void (*main_loop_run)(GMainLoop *loop);
	void (*main_loop_quit)(GMainLoop *loop);
	GMainContext *(*main_loop_get_context)(GMainLoop *loop);
} glib;

/* What this thread added last. libvirt keeps a reference until after its g_main_loop_run(). */
static _Thread_local struct {
	GSource *source, *polls;
	GMainContext *context;
	int fd; /* that `polls` watches */
} added;

static _Thread_local int64_t until_ms; /* 0: no limit */

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Also before libvirt_fix_init(): another library may be the first to use GLib. */
static int find(void **function, const char *name)
{
	if (*function == NULL)
		*function = dlsym(RTLD_NEXT, name);
	return *function != NULL ? 0 : -1;
}

int libvirt_fix_init(void)
{
	const struct {
		void **function;
		const char *name;
	} wanted[] = {
		{(void **)&glib.source_attach, "g_source_attach"},
		{(void **)&glib.source_add_poll, "g_source_add_poll"},
		{(void **)&glib.source_destroy, "g_source_destroy"},
		{(void **)&glib.source_unref, "g_source_unref"},
		{(void **)&glib.source_set_callback, "g_source_set_callback"},
		{(void **)&glib.timeout_source_new, "g_timeout_source_new"},
		{(void **)&glib.main_loop_run, "g_main_loop_run"},
		{(void **)&glib.main_loop_quit, "g_main_loop_quit"},
		{(void **)&glib.main_loop_get_context, "g_main_loop_get_context"},
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		if (find(wanted[i].function, wanted[i].name))
			return -1;
	return 0;
}

void libvirt_fix_limit(int ms)
{
	until_ms = ms > 0 ? now_ms() + ms : 0;
}

void g_source_add_poll(GSource *source, GPollFD *fd)
{
	if (libvirt_fix_init())
		return;
	added.polls = source;
	added.fd = fd->fd;
	glib.source_add_poll(source, fd);
}

unsigned int g_source_attach(GSource *source, GMainContext *context)
{
	if (libvirt_fix_init())
		return 0;
	added.source = source;
	added.context = context;
	return glib.source_attach(source, context);
}

struct wait {
	GMainLoop *loop;
	int fd; /* -1: not known */
};

/* On the waiting thread, again and again. */
static int on_tick(void *ctx)
{
	const struct wait *wait = ctx;

	if (until_ms != 0 && now_ms() >= until_ms && wait->fd >= 0)
		shutdown(wait->fd, SHUT_RDWR); /* libvirt closes it then */
	glib.main_loop_quit(wait->loop);
	return 1;
}

void g_main_loop_run(GMainLoop *loop)
{
	struct wait wait = {.loop = loop, .fd = -1};
	GSource *left = NULL, *tick = NULL;

	if (libvirt_fix_init())
		return;
	if (added.context != NULL && added.context == glib.main_loop_get_context(loop))
		left = added.source;
	if (left != NULL && left == added.polls)
		wait.fd = added.fd;
	if (left != NULL && (tick = glib.timeout_source_new(TICK_MS)) != NULL) {
		glib.source_set_callback(tick, on_tick, &wait, NULL);
		glib.source_attach(tick, added.context);
	}
	added.source = added.polls = NULL;
	added.context = NULL;
	glib.main_loop_run(loop);
	if (left != NULL)
		glib.source_destroy(left);
	if (tick != NULL) {
		glib.source_destroy(tick);
		glib.source_unref(tick);
	}
}
