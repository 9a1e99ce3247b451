# SPDX-License-Identifier: GPL-2.0-or-later
"""What the routing tests share: our daemons in namespaces, a forwarder's end of the FIB socket."""

import json
import os
import socket
import struct
import subprocess
import threading

from lib.lab import wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("B", os.path.join(ROOT, "build"))


class RpcError(RuntimeError):
    """An error answer: `code`, `field` (JSON pointer) and the text."""

    def __init__(self, error):
        super().__init__(error.get("message"))
        self.code = error["code"]
        self.field = (error.get("data") or {}).get("field", "")


def rpc(path, method, params=None, limit_s=30):
    """One JSON-RPC call over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(limit_s)
        s.connect(path)
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params is not None:
            request["params"] = params
        s.sendall((json.dumps(request) + "\n").encode())
        data = b""
        while not data.endswith(b"\n"):
            chunk = s.recv(1 << 20)
            if not chunk:
                raise ConnectionError("closed without an answer")
            data += chunk
    answer = json.loads(data)
    if "error" in answer:
        raise RpcError(answer["error"])
    return answer["result"]


class Daemon:
    """A running pvmd or cvmd."""

    def __init__(self, lab, ns, name, program, log_level="info"):
        self.lab, self.ns, self.name, self.program = lab, ns, name, program
        self.dir = f"{lab.dir}/{name}"
        self.prefix = program[:3]
        self.log_level = log_level
        os.makedirs(self.dir, exist_ok=True)
        self.process = None
        self.start()

    def start(self):
        """Starts it (again) and waits until it answers."""
        self.process = self.lab.spawn(
            self.ns,
            [f"{BUILD}/{self.program}", "--run-dir", self.dir, "--log-level", self.log_level],
            self.name,
        )
        wait_until(self.status, 20, f"{self.name} answers")

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def call(self, verb, params=None):
        return rpc(f"{self.dir}/{self.program}.sock", f"{self.prefix}.{verb}", params)

    def status(self):
        return self.call("status")

    def configure(self, config):
        return self.call("configure", config)

    def neighbor(self, address):
        """The status of one neighbour, or None."""
        for n in self.status()["neighbors"]:
            if n["address"] == address:
                return n
        return None

    def established(self, *addresses):
        """Are these neighbours up?"""
        return all((self.neighbor(a) or {}).get("state") == "Established" for a in addresses)

    def wait_established(self, *addresses, limit_s=30):
        wait_until(lambda: self.established(*addresses), limit_s,
                   f"{self.name}: {', '.join(addresses)} Established")

    def routes(self, family, limit=1000):
        """The whole table, page by page: {prefix or (rd, prefix): paths}."""
        table, after = {}, None
        while True:
            page = self.call("routes", {"family": family, "limit": limit,
                                        **({"after": after} if after else {})})
            for r in page["routes"]:
                key = (r["rd"], r["prefix"]) if "rd" in r else r["prefix"]
                assert key not in table
                table[key] = r["paths"]
            after = page.get("next")
            if not after:
                return table

    def best(self, family, key):
        """The best path to a prefix (or (rd, prefix)), or None."""
        for path in self.routes(family).get(key, []):
            if path["best"]:
                return path
        return None


# ---- the forwarder's end of the FIB socket ---------------------------------------------------

RTM_NEWROUTE, RTM_DELROUTE, NLMSG_DONE = 24, 25, 3
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_NEWDST, RTA_ENCAP = (
    1, 4, 5, 9, 18, 19, 22)
AF_MPLS = 28


def _attributes(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        assert 4 <= length <= len(data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return found


def _labels(data):
    stack = []
    for (word,) in struct.iter_unpack("!I", data):
        stack.append(word >> 12)
        assert bool(word & 0x100) == (len(stack) * 4 == len(data)), "bottom of stack"
    return stack


def _nexthop(attrs, ifindex=None):
    if RTA_VIA in attrs:
        family, address = struct.unpack_from("=H", attrs[RTA_VIA])[0], attrs[RTA_VIA][2:]
    elif RTA_GATEWAY in attrs:
        address = attrs[RTA_GATEWAY]
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    else:
        family, address = None, None
    if RTA_OIF in attrs:
        ifindex = struct.unpack("=I", attrs[RTA_OIF])[0]
    encap = _attributes(attrs[RTA_ENCAP]) if RTA_ENCAP in attrs else {}
    return {
        "ifindex": ifindex,
        "via": socket.inet_ntop(family, address) if address else None,
        "labels": _labels(encap.get(1, b"")),
    }


def decode(frame):
    """A FIB frame: ("add"|"delete", key, next hops) or ("end",). Key: "PREFIX" or a label."""
    version, kind, length = struct.unpack_from("!BBH", frame)
    assert (version, kind, length) == (1, 1, len(frame))
    nl_length, nl_type = struct.unpack_from("=IH", frame, 4)
    if nl_type == NLMSG_DONE:
        return ("end",)
    body = frame[20:4 + nl_length]
    family, dst_len, _src, _tos, _table, _proto, _scope, rt_type = struct.unpack_from("8B", body)
    attrs = _attributes(body[12:])
    if family == AF_MPLS:
        key = _labels(attrs[RTA_DST])[0]
    else:
        size = 4 if family == socket.AF_INET else 16
        dst = attrs.get(RTA_DST, b"").ljust(size, b"\0")
        key = f"{socket.inet_ntop(family, dst)}/{dst_len}"
    if nl_type == RTM_DELROUTE:
        return ("delete", key, None)
    assert nl_type == RTM_NEWROUTE
    hops, multipath = [], attrs.get(RTA_MULTIPATH, b"")
    while multipath:
        length, _flags, _hops, ifindex = struct.unpack_from("=HBBi", multipath)
        hops.append(_nexthop(_attributes(multipath[8:length]), ifindex))
        multipath = multipath[(length + 3) & ~3:]
    if not hops and rt_type == 1:
        hops.append(_nexthop(attrs))
    return ("add", key, sorted(hops, key=lambda h: (h["via"] or "", h["labels"])))


class Forwarder:
    """Plays edgeplex-fwd: listens, keeps the FIB and what of it is stale. Survives pvmd."""

    def __init__(self, path):
        self.path = path
        self.fib, self.stale = {}, set()
        self.connections = self.ends = self.messages = 0
        self.lock = threading.Lock()
        self.paused = threading.Event()
        self._stop = False
        self._server = self._connection = None
        self.listen()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self._stop = False
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(2)
        self._server.settimeout(0.1)
        self._thread = threading.Thread(target=self._run, args=(self._server,), daemon=True)
        self._thread.start()

    def close(self, forget=False):
        """As if the forwarder ended; with `forget` its FIB is gone too (a restart)."""
        self._stop = True
        self._thread.join(10)
        self._server.close()
        if forget:
            with self.lock:
                self.fib, self.stale = {}, set()

    def _run(self, server):
        buffer = b""
        while not self._stop:
            if self._connection is None:
                try:
                    self._connection, _ = server.accept()
                except TimeoutError:
                    continue
                self._connection.settimeout(0.05)
                buffer = b""
                with self.lock:
                    self.connections += 1
                    self.stale = set(self.fib)
            if self.paused.is_set():
                threading.Event().wait(0.02)
                continue
            try:
                data = self._connection.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                data = b""
            if not data:
                self._connection.close()
                self._connection = None
                continue
            buffer += data
            while len(buffer) >= 4:
                length = struct.unpack_from("!H", buffer, 2)[0]
                if len(buffer) < length:
                    break
                self._apply(decode(buffer[:length]))
                buffer = buffer[length:]
        if self._connection:
            self._connection.close()
            self._connection = None

    def _apply(self, message):
        with self.lock:
            self.messages += 1
            if message[0] == "end":
                self.ends += 1
                for key in self.stale:
                    self.fib.pop(key, None)
                self.stale = set()
                return
            op, key, hops = message
            self.stale.discard(key)
            if op == "add":
                self.fib[key] = hops
            else:
                self.fib.pop(key, None)

    def get(self, key):
        """Next hops of a key, or None."""
        with self.lock:
            return self.fib.get(key)

    def snapshot(self):
        with self.lock:
            return dict(self.fib)


def ifindex(lab, ns, name):
    return json.loads(lab.run(ns, ["ip", "-j", "link", "show", "dev", name]))[0]["ifindex"]


def ping(lab, ns, address, source=None, limit_s=10):
    """Waits until `address` answers."""
    argv = ["ping", "-c1", "-W1", *(["-I", source] if source else []), address]

    def once():
        lab.run(ns, argv)
        return True

    wait_until(once, limit_s, f"ping {address}")


def is_running(process):
    return isinstance(process, subprocess.Popen) and process.poll() is None
