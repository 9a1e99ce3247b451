# SPDX-License-Identifier: GPL-2.0-or-later
"""A TCP connection between two customer edges that carries data all the time, both ways (iperf3),
and the longest time in which none of it arrived."""

import os
import re
import signal
import subprocess
import time

from lib.lab import wait_until

from . import host, wire
from . import topology as topo

PORT = 47200
SNAP = 128


class TcpFlow:
    """iperf3 --bidir while a `with` block lasts, at `mbit` per second each way: paced, since two
    cores that emulate six VMs have something else to do besides.

    A segment goes every few milliseconds, so that a stall shows.
    """

    def __init__(self, near, far_edge, mbit=1, limit_s=3600):
        self._near, self._far = near, far_edge
        self._argv = ["iperf3", "-c", far_edge.host4, "-B", near.host4, "-p", PORT, "-t", limit_s,
                      "-b", f"{mbit}M", "-l", 1000, "--bidir", "--connect-timeout", 10000]
        self._children, self._dumps = [], []

    def __enter__(self):
        directory = f"{topo.RUN}/traffic"
        os.makedirs(directory, exist_ok=True)
        try:
            # Each end sees what arrives there.
            for edge in (self._near, self._far):
                dump = wire.Tcpdump(edge.ns, "pe", f"{directory}/tcp-{edge.name}.pcap",
                                    f"tcp port {PORT}", SNAP, at_once=True)
                dump.start()
                self._dumps.append((edge, dump))
            self._spawn(self._far, ["iperf3", "-s", "-1", "-B", self._far.host4, "-p", PORT])
            wait_until(lambda: f":{PORT}" in host.run(self._far.ns, ["ss", "-Hltn"]), 10,
                       "iperf3 listens")
            self._spawn(self._near, self._argv)
            wait_until(lambda: all(self.silence().values()), 30, "iperf3's data arrives")
        except BaseException:
            self._kill()
            raise
        return self

    def _spawn(self, edge, argv):
        with open(f"{topo.RUN}/traffic/iperf3-{edge.name}.log", "wb") as log:
            self._children.append(subprocess.Popen(
                ["ip", "netns", "exec", edge.ns, *map(str, argv)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log))

    def __exit__(self, *_exc):
        self._kill()

    def _kill(self):
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait()
        for _, dump in self._dumps:
            dump.kill()

    def alive(self):
        """Does the connection still exist?"""
        return all(child.poll() is None for child in self._children)

    def rto_ms(self):
        """The retransmission timeouts, as the senders of data have them now: the larger."""
        found = []
        for edge in (self._near, self._far):
            out = host.run(edge.ns, ["ss", "-Htin", f"( sport = :{PORT} or dport = :{PORT} )"])
            # iperf3 has a connection for control besides, on which hardly anything is sent.
            found += [float(re.search(r"\brto:([\d.]+)", line)[1]) for line in out.splitlines()
                      if int((re.search(r"\bdata_segs_out:(\d+)", line) or (0, 0))[1]) > 50]
        return max(found, default=None)

    def flowing(self):
        """Did data arrive in both directions within the last second?"""
        return all(self.silence(time.time_ns() - 1_000_000_000).values())

    def silence(self, from_ns=0, until_ns=None):
        """{receiving edge's name: (ms, ns when it began)}: the longest time without data; None where
        no data arrived at all."""
        found = {}
        for edge, dump in self._dumps:
            frames = [f for f in wire.read(dump.path, from_ns)
                      if until_ns is None or f.ns < until_ns]
            longest = [silence for (_, to), silence in wire.longest_silence(frames, PORT).items()
                       if to == edge.host4]
            found[edge.name] = max(longest, default=None)
        return found
