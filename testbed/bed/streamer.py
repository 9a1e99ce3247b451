# SPDX-License-Identifier: GPL-2.0-or-later
"""A video server (a program: `streamer.py CLIP FROM TO PORT`): ffmpeg streams the clip by RTP, over and over,
and each packet is sent on from FROM to TO. While there is no route a packet is gone like one that is lost on
its way, and the next one is tried; ffmpeg by itself would send nothing any more after the first failure.

Ends when standard input is closed. It needs nothing but Python and ffmpeg.
"""

import contextlib
import os
import selectors
import socket
import subprocess
import sys

OFFSET = 4  # of ffmpeg's port on the loopback interface; RTCP's, which nobody reads, is the next one
PAYLOAD = 1200
FFMPEG = ["ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-loglevel", "error", "-re", "-stream_loop", "-1"]


def main():
    """Ends with 0 when it was told to end."""
    clip, source, to, port = *sys.argv[1:4], int(sys.argv[4])
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write("-20")  # as a viewer, see viewer.py
    inside = []
    for number in (port + OFFSET, port + OFFSET + 1):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind(("127.0.0.1", number))
        inside.append(one)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.bind((source, 0))
    argv = [*FFMPEG, "-i", clip, "-an", "-c:v", "copy", "-f", "rtp",
            f"rtp://127.0.0.1:{port + OFFSET}?pkt_size={PAYLOAD}"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as ffmpeg, \
            selectors.DefaultSelector() as selector:
        for each in (*inside, sys.stdin):
            selector.register(each, selectors.EVENT_READ)
        try:
            going = True
            while going:
                for key, _ in selector.select(1):
                    if key.fileobj is sys.stdin:
                        going = bool(os.read(0, 4096))
                        continue
                    data = key.fileobj.recv(2048)
                    if key.fileobj is inside[0]:
                        with contextlib.suppress(OSError):
                            out.sendto(data, (to, port))
                if ffmpeg.poll() is not None:
                    raise SystemExit(f"ffmpeg ended with {ffmpeg.returncode}")
        finally:
            ffmpeg.kill()


if __name__ == "__main__":
    main()
