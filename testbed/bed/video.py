# SPDX-License-Identifier: GPL-2.0-or-later
"""A video that is streamed from a customer edge to another one by RTP (streamer.py), and what its viewer
noticed: of the packets by their sequence numbers and times, of the picture by the frames that a player
showed (viewer.py).

    with Video(source, viewer) as video:
        ...
        video.settled(until_ns)
        seen = video.window(from_ns, until_ns)

A frame's interval is a freeze when it is longer than max(3 d, d + 150 ms), d being the usual interval, as
W3C's "Identifiers for WebRTC's Statistics API" has it (freezeCount): at 25 frames/s longer than 190 ms.
"""

import os
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right

from lib.lab import wait_until

from . import host
from . import topology as topo

DIR = f"{topo.RUN}/video"
PORT = 47300
FRAMES_PER_S, TICKS_PER_FRAME = 25, 90000 // 25
SIZE, BITS_PER_S = "480x270", 500_000
CLIP_S = 10
FRESH_NS = 1_000_000_000
INTERVAL_MS = 1000 / FRAMES_PER_S
FREEZE_MS = max(3 * INTERVAL_MS, INTERVAL_MS + 150)
HERE = os.path.dirname(os.path.abspath(__file__))
VIEWER, STREAMER = f"{HERE}/viewer.py", f"{HERE}/streamer.py"


def make_clip(path, size=SIZE, bits_per_s=BITS_PER_S):
    """A test picture with a moving part, H.264, a whole picture each second."""
    host.run(None, ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i",
                    f"testsrc=size={size}:rate={FRAMES_PER_S}", "-t", CLIP_S, "-c:v", "libx264",
                    "-preset", "veryfast", "-tune", "zerolatency", "-b:v", bits_per_s,
                    "-maxrate", bits_per_s, "-bufsize", bits_per_s // 2, "-g", FRAMES_PER_S,
                    "-bf", 0, "-pix_fmt", "yuv420p", path])


# ---- what was received ----------------------------------------------------------------------


class Packets:
    """Packets in the order of their arrival, with numbers that don't wrap."""

    def __init__(self):
        self.times, self.numbers, self.rtp_times, self.markers = [], [], [], []

    def add(self, at, sequence, rtp_time, marker):
        """The next one to arrive."""
        if self.numbers:
            sequence = self.numbers[-1] + _signed(sequence - self.numbers[-1], 16)
            rtp_time = self.rtp_times[-1] + _signed(rtp_time - self.rtp_times[-1], 32)
        self.times.append(at)
        self.numbers.append(sequence)
        self.rtp_times.append(rtp_time)
        self.markers.append(marker)


def _signed(difference, bits):
    half = 1 << (bits - 1)
    return (difference + half) % (1 << bits) - half


def packets_window(packets, from_ns, until_ns):
    """Of the packets that came in a window, and the one before and after it: lost, duplicated, out of
    order, the largest gap, frames that came not at all or not whole (so many at least)."""
    first = max(0, bisect_left(packets.times, from_ns) - 1)
    last = min(len(packets.times), bisect_right(packets.times, until_ns) + 1)
    numbers, times = packets.numbers[first:last], packets.times[first:last]
    found = {"expected": 0, "received": len(numbers), "lost": 0, "duplicated": 0, "reordered": 0,
             "gap_ms": 0.0, "frames_hit": 0}
    if len(numbers) < 2:
        found["gap_ms"] = (until_ns - from_ns) / 1e6
        return found
    distinct = set(numbers)
    found["expected"] = max(distinct) - min(distinct) + 1
    found["lost"] = found["expected"] - len(distinct)
    found["duplicated"] = len(numbers) - len(distinct)
    found["reordered"] = sum(b < a for a, b in zip(numbers, numbers[1:]))
    found["gap_ms"] = max(b - a for a, b in zip(times, times[1:])) / 1e6
    hit, seen = set(), sorted(zip(numbers, packets.rtp_times[first:last], packets.markers[first:last]))
    for (a, a_time, a_last), (b, b_time, _) in zip(seen, seen[1:]):
        if b - a > 1:
            # What was lost lay in the frame before, unless that was at its end, or in those between; if in
            # the one after, too, can't be told from RTP's header.
            frames = range(a_time // TICKS_PER_FRAME + bool(a_last), b_time // TICKS_PER_FRAME)
            hit.update(frames or [b_time // TICKS_PER_FRAME])
    found["frames_hit"] = len(hit)
    return found


def frames_window(shown, from_ns, until_ns):
    """Of the frames [(ns, number)] that were shown: how many, and freezes, with the one before and
    after the window."""
    times = [at for at, _ in shown]
    first = max(0, bisect_left(times, from_ns) - 1)
    last = min(len(times), bisect_right(times, until_ns) + 1)
    inside = times[first:last]
    if len(inside) < 2:
        longest = (until_ns - from_ns) / 1e6
        return {"shown": len(inside), "freezes": int(longest > FREEZE_MS), "frozen_ms": longest,
                "longest_ms": longest}
    spans = [(b - a) / 1e6 for a, b in zip(inside, inside[1:])]
    frozen = [span for span in spans if span > FREEZE_MS]
    return {"shown": len(inside), "freezes": len(frozen), "frozen_ms": sum(frozen),
            "longest_ms": max(spans)}


def fresh(shown, times):
    """Those of the frames that followed a packet within a second: a player that gives up shows what it
    still had, which is no picture of the present."""
    found = []
    for frame in shown:
        at = bisect_right(times, frame[0])
        if at and frame[0] - times[at - 1] <= FRESH_NS:
            found.append(frame)
    return found


# ---- the stream -----------------------------------------------------------------------------


class Video:
    """A stream while a `with` block lasts. `name` tells its files from another's; `picture` is (size, bits/s)."""

    def __init__(self, source, viewer, name="video", port=PORT, picture=(SIZE, BITS_PER_S)):
        self.source, self.viewer, self.name, self.port = source, viewer, name, port
        self._picture = picture
        self._clip, self._path = f"{DIR}/{name}.ts", f"{DIR}/{name}.txt"
        self._sender = self._receiver = None
        self._far_clip = None  # where it was copied to, when the source is elsewhere
        self._at = 0  # of the file: so much was read
        self._rest = ""
        self.packets, self.shown = Packets(), []

    def __enter__(self):
        os.makedirs(DIR, exist_ok=True)
        try:
            if not os.path.exists(self._clip):
                make_clip(f"{self._clip}.new.ts", *self._picture)
                os.replace(f"{self._clip}.new.ts", self._clip)
            clip = self._clip
            if host.files_at(self.source.ns):
                clip = self._far_clip = f"/tmp/edgeplex-{self.name}.ts"
                make = f"cat >{clip}"
                with open(self._clip, "rb") as file:
                    subprocess.run(host.at(self.source.ns, ["sh", "-c", make]), stdin=file, check=True,
                                   timeout=60)
            with open(self._path, "wb") as out:
                self._receiver = subprocess.Popen(
                    host.at(self.viewer.ns, [sys.executable, "-B", VIEWER, self.viewer.host4, self.port]),
                    stdin=subprocess.PIPE, stdout=out, start_new_session=True)
            wait_until(lambda: self._receiver.poll() is not None or os.path.getsize(self._path), 30,
                       f"the viewer at {self.viewer.name} watches")
            argv = [sys.executable, "-B", STREAMER, clip, self.source.host4, self.viewer.host4, self.port]
            with open(f"{DIR}/{self.name}-source.log", "wb") as log:
                self._sender = subprocess.Popen(host.at(self.source.ns, argv), stdin=subprocess.PIPE,
                                                stdout=log, stderr=log, start_new_session=True)
            self.settled(time.time_ns(), 60)
        except BaseException:
            self._end(check=False)
            raise
        return self

    def __exit__(self, kind, *_exc):
        self._end(check=kind is None)

    def _end(self, check):
        """Ends both; with `check`, raises TestbedError when one of them had ended before."""
        ended = []
        if self._sender:
            if self._sender.poll() is not None:
                ended.append(f"the video's source ended with {self._sender.returncode}, see "
                             f"{DIR}/{self.name}-source.log")
            else:
                self._sender.stdin.close()
                _wait(self._sender)
        if self._receiver:
            if self._receiver.poll() is not None:
                ended.append(f"the viewer at {self.viewer.name} ended with {self._receiver.returncode}")
            self._receiver.stdin.close()
            _wait(self._receiver)
        self._sender = self._receiver = None
        if self._far_clip:
            host.run(self.source.ns, ["rm", "-f", self._far_clip], check=False)
        if ended and check:
            raise host.TestbedError("; ".join(ended))

    def _read(self):
        """Takes in what the viewer told since the last time."""
        with open(self._path, encoding="ascii") as file:
            file.seek(self._at)
            text = self._rest + file.read()
            self._at = file.tell()
        *lines, self._rest = text.split("\n")
        for line in lines:
            kind, *words = line.split(" ")
            if kind == "p":
                at, sequence, rtp_time, marker, _ = map(int, words)
                self.packets.add(at, sequence, rtp_time, marker)
            elif kind == "f":
                self.shown.append(tuple(map(int, words)))

    def settled(self, after_ns, limit_s=30):
        """Waits until the player has shown a frame, of which a packet came, after `after_ns`."""
        def there():
            for child, who in ((self._receiver, "the viewer"), (self._sender, "the source")):
                if child and child.poll() is not None:
                    raise host.TestbedError(f"{who} of {self.name} ended with {child.returncode}, see {DIR}")
            self._read()
            return (self.shown and self.shown[-1][0] > after_ns and self.packets.times
                    and self.packets.times[-1] > after_ns)
        wait_until(there, limit_s + max(0, (after_ns - time.time_ns()) / 1e9),
                   f"video is seen at {self.viewer.name}", 0.1)

    def window(self, from_ns, until_ns):
        """{"expected", "received", "lost", "duplicated", "reordered", "gap_ms", "frames_hit", "shown",
        "freezes", "frozen_ms", "longest_ms"} of a window of time."""
        self._read()
        return {**packets_window(self.packets, from_ns, until_ns),
                **frames_window(fresh(self.shown, self.packets.times), from_ns, until_ns)}


def _wait(child):
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
