# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody who watches a video (a program: `viewer.py ADDRESS PORT`): takes RTP packets, hands each to a
player, ffmpeg, and tells of both on its standard output, a line each, times in ns since the epoch:

    p TIME SEQUENCE RTP-TIME MARKER BYTES    a packet came (the kernel's time)
    f TIME NUMBER                            the player showed a frame
    r TIME                                   the player was started again: it had given up, or packets come
                                             again after more than two seconds, which it may not survive
    end                                      nothing more comes: standard input was closed

It needs nothing but Python and ffmpeg, so that it can be run anywhere.
"""

import contextlib
import os
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time

PLAYER_OFFSET = 2  # the player's port, beside ours, on the loopback interface
SO_TIMESTAMPNS = 35
BUFFER = 4 << 20
AWAY_S = 2
RTP = struct.Struct("!BBHI")
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=EdgePlex
c=IN IP4 127.0.0.1
t=0 0
m=video {port} RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
"""
# Frames are shown as they are decoded; what is missing is waited for 100 ms at most.
PLAYER = ["ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-loglevel", "error", "-protocol_whitelist",
          "file,udp,rtp", "-fflags", "nobuffer", "-max_delay", "100000", "-analyzeduration", "200000",
          "-i", "{sdp}", "-an", "-fps_mode", "passthrough", "-f", "framecrc", "-flush_packets", "1", "-"]


def go_first():
    """As a viewer has a machine of their own, this goes before others of this one, as far as it may."""
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write("-20")


def packet(data, ancillary, out):
    """Tells of a packet."""
    if len(data) < 12 or data[0] >> 6 != 2:
        return
    _, marker, sequence, rtp_time = RTP.unpack_from(data)
    at = time.time_ns()
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", value)
            at = seconds * 1_000_000_000 + nanoseconds
    out.append(f"p {at} {sequence} {rtp_time} {marker >> 7} {len(data)}\n")


def frames(text, out):
    """Tells of frames that were shown, of whole lines of the player's; returns what is left over."""
    *lines, rest = text.split(b"\n")
    for line in lines:
        words = line.split(b",")
        if len(words) == 6 and not line.startswith(b"#"):
            out.append(f"f {time.time_ns()} {int(words[2])}\n")
    return rest


class Player:
    """ffmpeg. Without packets for long it gives up, or hangs; who watches starts it again."""

    def __init__(self, port):
        self._directory = tempfile.TemporaryDirectory()  # pylint: disable=consider-using-with
        sdp = f"{self._directory.name}/stream.sdp"
        with open(sdp, "w", encoding="ascii") as file:
            file.write(SDP.format(port=port + PLAYER_OFFSET))
        self._argv = [word.format(sdp=sdp) for word in PLAYER]
        self._process = self.output = None
        self._rest, self._began = b"", 0.0
        self.start()

    def start(self):
        """Starts it, also again."""
        self.end()
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL)
        self.output = self._process.stdout
        self._rest, self._began = b"", time.monotonic()
        os.set_blocking(self.output.fileno(), False)

    def read(self, out):
        """Tells of frames that were shown; False when it has ended."""
        data = os.read(self.output.fileno(), 65536)
        self._rest = frames(self._rest + data, out)
        if not data and time.monotonic() - self._began < 1:
            raise SystemExit("the player doesn't start")
        return bool(data)

    def end(self):
        """Ends it, if it runs."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self.output.close()

    def close(self):
        """Ends it, and frees what it had."""
        self.end()
        self._directory.cleanup()


def again(selector, player, out):
    """Starts the player again."""
    selector.unregister(player.output)
    player.start()
    selector.register(player.output, selectors.EVENT_READ)
    out.append(f"r {time.time_ns()}\n")


def watch(address, port, player):
    """Until standard input is closed."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    receiver.bind((address, port))
    receiver.setblocking(False)
    to_player = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with selectors.DefaultSelector() as selector:
        for source in (receiver, player.output, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        print("watching", flush=True)
        going, last = True, None
        while going:
            out = []
            for key, _ in selector.select():
                if key.fileobj is receiver:
                    now = time.monotonic()
                    if last and now - last > AWAY_S:
                        again(selector, player, out)
                    last = now
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            data, ancillary, _, _ = receiver.recvmsg(2048, 64)
                            packet(data, ancillary, out)
                            with contextlib.suppress(OSError):  # the player isn't ready yet
                                to_player.sendto(data, ("127.0.0.1", port + PLAYER_OFFSET))
                elif key.fileobj is sys.stdin:
                    going = bool(os.read(0, 4096))
                elif key.fileobj is player.output and not player.read(out):
                    again(selector, player, out)
            sys.stdout.write("".join(out))
            sys.stdout.flush()
    print("end", flush=True)


def main():
    """Ends with 0 when it was told to end."""
    address, port = sys.argv[1], int(sys.argv[2])
    go_first()
    player = Player(port)
    try:
        watch(address, port, player)
    finally:
        player.close()


if __name__ == "__main__":
    main()
