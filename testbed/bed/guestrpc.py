# SPDX-License-Identifier: GPL-2.0-or-later
"""Speaks with a VM by its control channel, in the controller's place while that doesn't run.

docs/protocols.md, "Inside a VM"."""

import json
import os
import socket
import xml.etree.ElementTree as ET

from . import host, server

CHANNEL = "org.edgeplex.ctl.0"


class Guest:
    """A connection to the VM called `domain` on a server, for the length of a `with` block."""

    def __init__(self, where, domain, limit_s=20):
        self._where, self._domain, self._limit_s = where, domain, limit_s
        self._socket, self._stream, self._id = None, None, 0

    def __enter__(self):
        tree = ET.fromstring(server.virsh(self._where, "dumpxml", self._domain))
        path = next(c.find("source").get("path") for c in tree.iter("channel")
                    if c.find("target").get("name") == CHANNEL)
        # As seen from outside the server, and short enough for a socket's address.
        path = path.replace("/var/lib/libvirt", f"{self._where.dir}/lib", 1)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(self._limit_s)
            self._socket.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            self._socket.sendall(b"\n")
            self._stream = self._socket.makefile("r", encoding="utf-8", errors="replace")
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.close(directory)
        return self

    def __exit__(self, *_exc):
        self._stream.close()
        self._socket.close()

    def call(self, method, **params):
        """Calls a method and returns its result; raises TestbedError with the error's text."""
        self._id += 1
        mine = f"bed-{os.getpid()}-{self._id}"
        request = {"jsonrpc": "2.0", "id": mine, "method": method, "params": params}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        for line in self._stream:
            try:
                reply = json.loads(line)
            except ValueError:
                continue  # the end of what an earlier connection was told
            if isinstance(reply, dict) and reply.get("id") == mine:
                if "error" in reply:
                    raise host.TestbedError(f"{method}: {reply['error'].get('message')}")
                return reply["result"]
        raise host.TestbedError(f"{self._domain} closed its channel")
