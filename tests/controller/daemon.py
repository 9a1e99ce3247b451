# SPDX-License-Identifier: GPL-2.0-or-later
"""A real edgeplexd of its own for each test module, and its API."""

import http.client
import json
import os
import socket
import sqlite3

from lib.lab import wait_until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DAEMON = f"{TOP}/build/edgeplexd"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("edgeplexd", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Answer:
    """Status, headers and body (parsed if JSON) of an answer."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        data = response.read()
        self.type = response.headers["Content-Type"].split(";")[0]
        self.body = json.loads(data) if self.type.endswith("json") else data.decode()

    def __repr__(self):
        return f"{self.status} {self.body}"


class Daemon:
    """edgeplexd with its own socket and state, which outlive its process."""

    def __init__(self, lab, start=True):
        self.lab, self.starts, self.process = lab, 0, None
        self.socket, self.state = f"{lab.dir}/edgeplexd.sock", f"{lab.dir}/state"
        if start:
            self.start()

    def argv(self, **options):
        """Its command line; options replace the usual ones."""
        values = {"socket": self.socket, "state-dir": self.state, "image": self.lab.dir,
                  "log-level": "debug", **options}
        return [DAEMON] + [word for name, value in values.items()
                           for word in (f"--{name}", value)]

    def start(self):
        """Starts (again), and waits until it answers."""
        self.starts += 1
        self.process = self.lab.spawn(None, self.argv(), name=f"edgeplexd{self.starts}")
        wait_until(self.answers, 30, "edgeplexd answers")

    def answers(self):
        """Does it serve?"""
        assert self.process.poll() is None, self.lab.log(f"edgeplexd{self.starts}")
        try:
            return self("GET", "/v1/health").status == 200
        except OSError:
            return False

    def stop(self, signal):
        """Ends it by a signal and returns its exit status."""
        self.process.send_signal(signal)
        return self.process.wait(60)

    def __call__(self, method, path, body=None, raw=None, timeout=60):
        """A request; `body` is sent as JSON, `raw` as it is."""
        connection = _UnixConnection(self.socket, timeout)
        try:
            data = raw if raw is not None else None if body is None else json.dumps(body)
            connection.request(method, path, data)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def seed(self, script):
        """Runs SQL on its database; call while it is stopped."""
        database = sqlite3.connect(f"{self.state}/edgeplex.db")
        with database:
            database.executescript(script)
        database.close()

    def query(self, sql):
        """Rows of its database; call while it is stopped."""
        database = sqlite3.connect(f"{self.state}/edgeplex.db")
        rows = database.execute(sql).fetchall()
        database.close()
        return rows

    def snapshot(self):
        """All that the operator entrusted to it; how servers do is not part of that."""
        shown = {noun: self("GET", f"/v1/{noun}").body
                 for noun in ("sites", "servers", "customers", "ports", "cvms")}
        for server in shown["servers"]["items"]:
            server.pop("health", None)
        return shown
