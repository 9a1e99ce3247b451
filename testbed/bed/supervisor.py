# SPDX-License-Identifier: GPL-2.0-or-later
"""The testbed's process 1: it starts its daemons, restarts those that are meant to live on, and
reaps what they orphan.

It is the init of a PID namespace, so the kernel ends every process of the testbed with it, however
it ends, and however deeply they were daemonized. Requests come over a Unix socket, one JSON object
a line, one connection a request:

    {"do": "start", "name": N, "argv": [...], "env": {...}, "restart": bool}
    {"do": "stop", "name": N}            ends it (TERM, KILL after 5 s), and it stays down
    {"do": "kill", "names": [...]}       ends them (KILL), and they stay down
    {"do": "list"}

The answer is {"ok": ...} or {"error": text}. Pids in it are those inside the namespace.
"""

import json
import os
import select
import signal
import socket
import sys
import time

RESTART_PAUSE = 0.2  # seconds between a death and the next start
STOP_PATIENCE = 5


class Daemon:
    """A process by name, and how it is to be started."""

    def __init__(self, request, log_dir):
        self.name = request["name"]
        self.argv = request["argv"]
        self.env = {**os.environ, **request.get("env", {})}
        self.restart = bool(request.get("restart"))
        self.log = f"{log_dir}/{self.name}.log"
        self.pid = None
        self.status = None
        self.restarts = 0
        self.again_at = None
        self.kill_at = None

    def start(self):
        """Runs it in a session of its own, its output appended to its log."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.status, self.again_at, self.kill_at = None, None, None
        self.pid = os.posix_spawnp(
            self.argv[0],
            self.argv,
            self.env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
        )

    def ended(self, status):
        self.pid, self.status, self.kill_at = None, os.waitstatus_to_exitcode(status), None
        print(f"{time.strftime('%H:%M:%S')} {self.name} ended with {self.status}", flush=True)
        if self.restart:
            self.again_at = time.monotonic() + RESTART_PAUSE

    def stop(self):
        self.restart, self.again_at = False, None
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            self.kill_at = time.monotonic() + STOP_PATIENCE

    def kill(self):
        self.restart, self.again_at, self.kill_at = False, None, None
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def describe(self):
        return {"name": self.name, "pid": self.pid, "status": self.status,
                "restarts": self.restarts}


class Supervisor:
    """The loop."""

    def __init__(self, path, log_dir):
        self.log_dir = log_dir
        self.daemons = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(16)
        self.wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    def serve(self, request):
        if request["do"] == "start":
            old = self.daemons.get(request["name"])
            if old and old.pid:
                raise ValueError(f"{old.name} runs already")
            daemon = Daemon(request, self.log_dir)
            daemon.start()
            self.daemons[daemon.name] = daemon
            return daemon.describe()
        if request["do"] == "stop":
            self.daemons[request["name"]].stop()
            return {}
        if request["do"] == "kill":
            for daemon in [self.daemons[name] for name in request["names"]]:
                daemon.kill()
            return {}
        if request["do"] == "list":
            return [daemon.describe() for daemon in self.daemons.values()]
        raise ValueError(f"unknown request {request['do']}")

    def answer(self):
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as stream:
            connection.settimeout(5)
            try:
                reply = {"ok": self.serve(json.loads(stream.readline()))}
            except (KeyError, ValueError, OSError) as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            try:
                stream.write(json.dumps(reply) + "\n")
            except OSError:
                pass

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for daemon in self.daemons.values():
                if daemon.pid == pid:
                    daemon.ended(status)

    def timers(self):
        """Does what is due; returns the seconds to the next thing, or None."""
        now, due = time.monotonic(), []
        for daemon in self.daemons.values():
            if daemon.again_at is not None and daemon.again_at <= now:
                daemon.restarts += 1
                daemon.start()
            if daemon.kill_at is not None and daemon.kill_at <= now:
                daemon.kill_at = None
                os.kill(daemon.pid, signal.SIGKILL)
            due += [t for t in (daemon.again_at, daemon.kill_at) if t is not None]
        return max(0, min(due) - now) if due else None

    def run(self):
        while True:
            ready, _, _ = select.select([self.listener, self.wake], [], [], self.timers())
            if self.wake in ready:
                os.read(self.wake, 4096)
            self.reap()
            if self.listener in ready:
                self.answer()


if __name__ == "__main__":
    Supervisor(sys.argv[1], sys.argv[2]).run()
