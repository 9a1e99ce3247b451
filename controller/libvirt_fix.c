/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/libvirt_fix.h"

#include <dlfcn.h>
#include <stddef.h>

/* As GLib has them; its headers aren't needed for libvirt, so they may be missing. */
typedef struct _GSource GSource;
typedef struct _GMainContext GMainContext;
typedef struct _GMainLoop GMainLoop;

#define EXPORTED __attribute__((visibility("default")))

EXPORTED unsigned int g_source_attach(GSource *source, GMainContext *context);
EXPORTED void g_main_loop_run(GMainLoop *loop);

static struct {
	unsigned int (*source_attach)(GSource *source, GMainContext *context);
	void (*source_destroy)(GSource *source);
	void (*main_loop_run)(GMainLoop *loop);
	GMainContext *(*main_loop_get_context)(GMainLoop *loop);
} glib;

/* What this thread added last. libvirt keeps a reference until after its g_main_loop_run(). */
static _Thread_local struct {
	GSource *source;
	GMainContext *context;
} added;

/* Also before libvirt_fix_init(): another library may be the first to use GLib. */
static int find(void **function, const char *name)
{
	if (*function == NULL)
		*function = dlsym(RTLD_NEXT, name);
	return *function != NULL ? 0 : -1;
}

int libvirt_fix_init(void)
{
	return find((void **)&glib.source_attach, "g_source_attach") ||
			       find((void **)&glib.source_destroy, "g_source_destroy") ||
			       find((void **)&glib.main_loop_run, "g_main_loop_run") ||
			       find((void **)&glib.main_loop_get_context, "g_main_loop_get_context")
		       ? -1
		       : 0;
}

unsigned int g_source_attach(GSource *source, GMainContext *context)
{
	if (libvirt_fix_init())
		return 0;
	added.source = source;
	added.context = context;
	return glib.source_attach(source, context);
}

void g_main_loop_run(GMainLoop *loop)
{
	GSource *left = NULL;

	if (libvirt_fix_init())
		return;
	if (added.context != NULL && added.context == glib.main_loop_get_context(loop))
		left = added.source;
	added.source = NULL;
	added.context = NULL;
	glib.main_loop_run(loop);
	if (left != NULL)
		glib.source_destroy(left);
}
