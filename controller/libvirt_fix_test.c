/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <libvirt/libvirt.h>

#include "controller/libvirt_fix.h"

static void *glib(const char *name)
{
	void *function = dlsym(RTLD_DEFAULT, name);

	assert_non_null(function);
	return function;
}

static void *loop;

static int quit(void *source_was_left)
{
	((void (*)(void *))glib("g_main_loop_quit"))(loop);
	*(int *)source_was_left += 1;
	return 0; /* once */
}

static int never(void *data)
{
	(void)data;
	fail_msg("nobody was to call this");
	return 0;
}

/* As a libvirt call does: adds its watch and runs the loop, which another thread's source ends. */
static void test_watch_goes_with_its_thread(void **state)
{
	void *(*context_new)(void) = glib("g_main_context_new");
	void *(*loop_new)(void *, int) = glib("g_main_loop_new");
	void *(*timeout_new)(unsigned) = glib("g_timeout_source_new");
	void *(*idle_new)(void) = glib("g_idle_source_new");
	void (*set_callback)(void *, int (*)(void *), void *, void *) =
		glib("g_source_set_callback");
	unsigned (*attach)(void *, void *) = glib("g_source_attach");
	int (*is_destroyed)(void *) = glib("g_source_is_destroyed");
	void (*run)(void *) = glib("g_main_loop_run");
	void *context, *watch, *waker;
	int woken = 0;

	(void)state;
	assert_int_equal(virInitialize(), 0); /* libvirt is here, and GLib with it */
	assert_int_equal(libvirt_fix_init(), 0);
	context = context_new();
	loop = loop_new(context, 0);
	waker = idle_new();
	set_callback(waker, quit, &woken, NULL);
	assert_true(attach(waker, context) > 0);
	watch = timeout_new(3600000);
	set_callback(watch, never, NULL, NULL);
	assert_true(attach(watch, context) > 0);
	run(loop);
	assert_int_equal(woken, 1);
	assert_true(is_destroyed(watch));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_watch_goes_with_its_thread)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
