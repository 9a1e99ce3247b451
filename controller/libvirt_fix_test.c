/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

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
	((void (*)(void *))glib("g_main_loop_unref"))(loop);
}

/* Nobody wakes this one: the loop ends all the same, as a wake-up that was lost would have it. */
static void test_nobody_waits_for_ever(void **state)
{
	void *(*context_new)(void) = glib("g_main_context_new");
	void *(*loop_new)(void *, int) = glib("g_main_loop_new");
	void *(*timeout_new)(unsigned) = glib("g_timeout_source_new");
	void (*set_callback)(void *, int (*)(void *), void *, void *) =
		glib("g_source_set_callback");
	unsigned (*attach)(void *, void *) = glib("g_source_attach");
	void (*run)(void *) = glib("g_main_loop_run");
	void *context = context_new(), *watch = timeout_new(3600000);

	(void)state;
	loop = loop_new(context, 0);
	set_callback(watch, never, NULL, NULL);
	assert_true(attach(watch, context) > 0);
	run(loop);
	((void (*)(void *))glib("g_main_loop_unref"))(loop);
}

/* A libvirtd that accepts and says nothing. */
static void test_open_has_a_limit(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/edgeplex-libvirt-XXXXXX", uri[160];
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/sock", dir);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 4), 0);
	snprintf(uri, sizeof(uri), "qemu:///system?socket=%s", address.sun_path);
	libvirt_fix_limit(300);
	assert_null(virConnectOpen(uri));
	libvirt_fix_limit(0);
	assert_string_not_equal(virGetLastErrorMessage(), "no error");
	close(listener);
	unlink(address.sun_path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_watch_goes_with_its_thread),
		cmocka_unit_test(test_nobody_waits_for_ever),
		cmocka_unit_test(test_open_has_a_limit)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
