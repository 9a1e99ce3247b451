# SPDX-License-Identifier: GPL-2.0-or-later
"""A silent client of the route reflector that writes down every UPDATE with its time: what the core
was told.

    with watching() as watch:
        ...
        watch.changes(from_ns, until_ns)   # [(ns, bgpmsg.Change)]

It is a process of its own (`python3 -m bed.watcher`), and reads the messages only when asked, so
that it costs nothing while something is being measured.
"""

import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager

from lib.lab import wait_until

from . import bgpmsg, core, host
from . import topology as topo

# The speakers' link to the route reflector. Addresses for documentation are nobody else's.
RR_ON_LINK, ADDRESS, LINK_LENGTH = "198.51.100.1", "198.51.100.2", 24
FAMILIES = ((bgpmsg.IPV4, bgpmsg.VPN), (bgpmsg.IPV6, bgpmsg.VPN))
HOLD_S = 90
BATCH, WAIT_MS = 1 << 16, 100
HEAD = struct.Struct("=QBH")  # when (ns), type, length of the body


# ---- the process ---------------------------------------------------------------------------


def _speak(path):
    """Keeps the session, and starts it again when it ends; never returns."""
    with open(path, "ab", buffering=0) as log:
        while True:
            try:
                with socket.create_connection((RR_ON_LINK, 179), 5, (ADDRESS, 0)) as peer:
                    _session(peer, log)
            except OSError as error:
                print(f"watcher: {error}", file=sys.stderr, flush=True)
                time.sleep(1)  # the pace at which a speaker tries again


def _session(peer, log):
    peer.sendall(bgpmsg.open_message(topo.PROVIDER_ASN, HOLD_S, ADDRESS, FAMILIES))
    # It wakes up for a heap of messages, or after a while.
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, BATCH)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, WAIT_MS * 1000))
    buffer, spoke = bytearray(), time.monotonic()
    while True:
        try:
            data = peer.recv(1 << 18)
            if not data:
                raise OSError("the route reflector closed the session")
            buffer += data
        except BlockingIOError:
            pass  # it is silent
        now, found = time.time_ns(), bytearray()
        for kind, body in bgpmsg.split(buffer):
            found += HEAD.pack(now, kind, len(body)) + body
            if kind == bgpmsg.OPEN:
                spoke = 0
        if found:
            log.write(found)
        if time.monotonic() - spoke > HOLD_S / 3:
            peer.sendall(bgpmsg.message(bgpmsg.KEEPALIVE))
            spoke = time.monotonic()


# ---- its user ------------------------------------------------------------------------------


class Watch:
    """What the watcher has written so far."""

    def __init__(self, path):
        self.path = path

    def messages(self):
        """[(ns, type, body)]"""
        with open(self.path, "rb") as file:
            data = file.read()
        found, at = [], 0
        while at + HEAD.size <= len(data):
            when, kind, length = HEAD.unpack_from(data, at)
            if at + HEAD.size + length > len(data):
                break
            found.append((when, kind, data[at + HEAD.size:at + HEAD.size + length]))
            at += HEAD.size + length
        return found

    def changes(self, from_ns=0, until_ns=None):
        """[(ns, bgpmsg.Change)] within a window of time."""
        return [(when, change) for when, kind, body in self.messages()
                if kind == bgpmsg.UPDATE and when >= from_ns
                and (until_ns is None or when < until_ns)
                for change in bgpmsg.changes(body)]

    def sessions(self):
        """How many sessions there were: more than one means that the watcher itself was cut off."""
        return sum(kind == bgpmsg.OPEN for _, kind, _ in self.messages())


def add_client(address):
    """Gives the route reflector a passive VPN client, in the namespace for such speakers."""
    _link_speakers()
    host.run(topo.SPEAKERS_NS, ["ip", "addr", "replace", f"{address}/{LINK_LENGTH}", "dev", "core"])
    client = f"neighbor {address}"
    families = [line for version in (4, 6) for line in (
        f"address-family ipv{version} vpn", f"{client} activate",
        f"{client} route-reflector-client", "exit-address-family")]
    core.vtysh("configure terminal", f"router bgp {topo.PROVIDER_ASN}",
               f"{client} remote-as {topo.PROVIDER_ASN}", f"{client} passive", *families)


def remove_client(address):
    """Undoes add_client()."""
    core.vtysh("configure terminal", f"router bgp {topo.PROVIDER_ASN}", f"no neighbor {address}")
    host.run(topo.SPEAKERS_NS, ["ip", "addr", "del", f"{address}/{LINK_LENGTH}", "dev", "core"],
             check=False)


def _link_speakers():
    """Links the speakers' namespace with the core's, once."""
    if "core" in host.run(topo.SPEAKERS_NS, ["ip", "-br", "link"]):
        return
    host.link(topo.CORE_NS, "speakers", topo.SPEAKERS_NS, "core", topo.BACKBONE_MTU)
    host.run(topo.CORE_NS, ["ip", "addr", "add", f"{RR_ON_LINK}/{LINK_LENGTH}", "dev", "speakers"])


@contextmanager
def watching():
    """A watcher for the length of a block; it has the whole table when the block begins."""
    os.makedirs(f"{topo.RUN}/traffic", exist_ok=True)
    path = f"{topo.RUN}/traffic/watcher.log"
    if os.path.exists(path):
        os.unlink(path)
    add_client(ADDRESS)
    try:
        with open(f"{topo.RUN}/traffic/watcher.err", "ab") as err, subprocess.Popen(
                ["ip", "netns", "exec", topo.SPEAKERS_NS, sys.executable, "-B", "-m", "bed.watcher",
                 path], stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) as child:
            try:
                watch = Watch(path)
                # End-of-RIB of both families: UPDATEs that say nothing.
                wait_until(lambda: sum(kind == bgpmsg.UPDATE and not bgpmsg.changes(body)
                                       for _, kind, body in watch.messages()) >= len(FAMILIES),
                           30, "the watcher has the core's table")
                yield watch
            finally:
                child.kill()
    finally:
        remove_client(ADDRESS)


if __name__ == "__main__":
    _speak(sys.argv[1])
