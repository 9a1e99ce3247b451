# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes on while something is done to site A, as in the article's figure: Client1, of green, watches a
video from a server at B, and gets a stream of 1,000 numbered packets/s from a host in the core; red's traffic
flows between A and C; and somebody at B watches a video from the host in the core. The last two are bystanders.

On two cores that emulate seven VMs there is no room for more: with the stream from B, through a second PVM and
two more switches, and bystanders of 100 packets/s (which cost a VM as much as a quarter of a core, an interrupt
for each), both cores were busy to 100 %, and a move waited for a minute for its turn."""

import select
import time
from contextlib import ExitStack, contextmanager

from bed import checks, corehost, probes, sessions, video
from bed import topology as topo

CLIENT, SOURCE = topo.ce("green-a"), topo.ce("green-b")
BACKGROUND = topo.ce("red-a"), topo.ce("red-c")
PROBES_PER_S, BACKGROUND_PER_S = 1000, 25
AFTER_NS = 2_000_000_000
BYSTANDER_PORT = video.PORT + 10
BYSTANDER_PICTURE = "320x180", 200_000
VIDEOS = (f"{video.SIZE} at {video.FRAMES_PER_S} frames/s and {video.BITS_PER_S // 1000} kbit/s (the one for B: "
          f"{BYSTANDER_PICTURE[0]}, {BYSTANDER_PICTURE[1] // 1000} kbit/s)")


def pause(seconds):
    """Lets traffic flow, while it is being measured."""
    select.select([], [], [], seconds)


class Scene:
    """All that for the length of a `with` block. On real servers there is no host in the core: the stream comes
    from B, too, and the video for B is left out (`others` is None)."""

    def __init__(self, with_corehost=True):
        self._with_corehost = with_corehost
        self._stack = ExitStack()
        self.video = self.others = self.stream = self.background = None
        self.far = SOURCE  # where the stream comes from

    def __enter__(self):
        with self._stack as stack:
            if self._with_corehost:
                self.far = stack.enter_context(corehost.attached(CLIENT, SOURCE))
                self.others = stack.enter_context(video.Video(
                    self.far, SOURCE, "video-b", BYSTANDER_PORT, BYSTANDER_PICTURE))
            self.video = stack.enter_context(video.Video(SOURCE, CLIENT))
            back = f"{CLIENT.name}>{self.far.name} v4"
            self.stream = stack.enter_context(probes.Probes(
                CLIENT, self.far, PROBES_PER_S, (4,), 4 * 3600, {back: 10}))
            self.background = stack.enter_context(probes.Probes(
                *BACKGROUND, BACKGROUND_PER_S, (4,), 4 * 3600))
            self.flowing()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)

    def flowing(self, limit_s=120):
        """Waits until what is sent now arrives, all of it."""
        now = time.time_ns()
        self.video.settled(now, limit_s)
        for each in (self.stream, self.background):
            each.settled(now, limit_s)
        if self.others:
            self.others.settled(now, limit_s)

    def window(self, from_ns, until_ns):
        """What client and bystanders noticed in a window of time that is over."""
        self.video.settled(until_ns)
        stream = self.stream.window(from_ns, until_ns)
        to_client = stream[f"{self.far.name}>{CLIENT.name} v4"]
        red = probes.total(self.background.window(from_ns, until_ns))
        found = {"video": self.video.window(from_ns, until_ns),
                 "stream": {**{key: to_client[key] for key in ("expected", "lost", "duplicated", "reordered")},
                            "gap_ms": to_client["gap_ms"]["max"],
                            "back_lost": stream[f"{CLIENT.name}>{self.far.name} v4"]["lost"]},
                 "background": {key: red[key] for key in ("expected", "lost", "gap_ms")}}
        if self.others:
            self.others.settled(until_ns)
            found["video_b"] = self.others.window(from_ns, until_ns)
        return found

    def quiet(self, seconds):
        """The same for so long without anything done."""
        from_ns = time.time_ns()
        pause(seconds)
        until_ns = time.time_ns()
        self.flowing()
        return self.window(from_ns, until_ns)


def all_sessions(with_core):
    """All sessions of the customers' edges, and the route reflector's, as they have them."""
    found = {f"{edge.name}: {name}": state for edge in topo.CES
             for name, state in sessions.edge_sessions(edge).items()}
    core = sessions.core_sessions() if with_core else {}
    return found | {f"core: {name}": state for name, state in core.items()}


def reset_sessions(before, after):
    """Names of sessions that didn't live on; one with two families is one."""
    return sorted({text.split(": ")[0] + ": " + text.split(": ")[1].split(" ")[0]
                   for text in sessions.resets(before, after)})


@contextmanager
def far_routes(edge, prefix):
    """What a far customer edge's kernel is told of a prefix while a block lasts: gives a function that returns
    how often it was withdrawn so far."""
    with checks.route_monitor(edge.ns) as told:
        yield lambda: sum("Deleted" in words and prefix in words for words in map(str.split, told().splitlines()))


def whole(limit_s=180):
    """Waits until all customer edges have sessions and routes."""
    checks.wait_established(limit_s=limit_s)
    checks.wait_routes(limit_s=limit_s)
