# SPDX-License-Identifier: GPL-2.0-or-later
"""Chaos: what chaosplan.py draws happens to a testbed that carries traffic and routes, and after each
round everything has to become whole again: calamity.py has what can happen, wholeness.py what whole is.

    with Chaos(rate=200) as chaos:
        for round_ in plan:
            seen = chaos.round(round_)       # seen["problems"] == []
        chaos.end()                          # problems of the whole run

How long customers' packets weren't forwarded is read from numbered probes, afterwards.
"""

import heapq
import itertools
import os
import select
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager

from lib.lab import wait_until

from . import bgpload, calamity, chaosplan, checks, controller, host, measure, moreedges, moves
from . import probes, switch, wholeness, wire
from . import topology as topo

LOADED = topo.ce("green-a")  # its routes churn
ASKED = LOADED  # is asked for the PVM's addresses, all the time
MORE = next(edge for edge in topo.MORE_EDGES if edge.name == chaosplan.MORE_PORT)
WHOLE_S = 180  # for a cold start of all of a server's VMs on two cores
SOUND_S = 60  # after that: what is left is ended when its server answers
BEFORE_NS, AFTER_NS = 100_000_000, 500_000_000
GOAL_S = 120
SILENCE_MS = 200
# Questions wait in queues for a forwarder that is killed or stopped, and are answered when it is back; but
# one whose answer was lost doesn't excuse a second answer so much later.
ANSWERED_NS = 30_000_000_000


def pause(seconds):
    """Lets traffic flow and failures last: not a wait for anything."""
    select.select([], [], [], max(0, seconds))


# ---- what flows ----------------------------------------------------------------------------


class Answers:
    """What a customer edge is answered when it asks for its PVM's MAC address: never twice."""

    def __init__(self, edge):
        self._gateway, self._edge = f"{edge.link4}.1", edge
        self._dump = wire.Tcpdump(edge.ns, "pe", f"{wire.DIR}/chaos-arp.pcap", "arp", snap=64)

    def __enter__(self):
        os.makedirs(wire.DIR, exist_ok=True)
        self._dump.start()
        return self

    def __exit__(self, *_exc):
        self._dump.kill()

    def twice(self):
        """How many answers were one too many; ends the capture."""
        self._dump.stop()
        return surplus([f for f in wire.read(self._dump.path) if f.type == wire.ETH_ARP],
                       self._gateway)


def surplus(frames, gateway):
    """How many ARP replies of `gateway` have no question that is theirs alone. In the beginning, nobody
    knows what was asked before."""
    open_, found = [], 0
    for frame in frames:
        operation, sender, target = frame.arp()
        if operation == 1 and target == gateway:
            open_.append(frame.ns)
        elif operation == 2 and sender == gateway:
            open_ = [ns for ns in open_ if frame.ns - ns < ANSWERED_NS]
            if open_:
                open_.pop()  # the newest: one that was never answered becomes too old
            elif frame.ns - frames[0].ns > ANSWERED_NS:
                found += 1
    return found


@contextmanager
def more_edge():
    """One more customer edge for the length of a block, for the port that comes and goes."""
    moreedges.plug_in(MORE)
    try:
        yield
    finally:
        if host.is_up():
            moreedges.delete(MORE)
            moreedges.unplug(MORE)


# ---- the run -------------------------------------------------------------------------------


class Chaos:
    """See the module's text. `rate`: packets per second in each direction; `updates`: BGP's, from each
    side."""

    def __init__(self, rate=200, updates=20):
        self._rate, self._updates = rate, updates
        self._stack = ExitStack()
        self.probes, self.load, self._answers, self._book = {}, None, None, None
        self._began_ns = 0

    def __enter__(self):
        with self._stack as stack:
            stack.enter_context(more_edge())
            self.load = stack.enter_context(bgpload.Load(LOADED, self._updates))
            stack.enter_context(measure.questions(ASKED))
            self._answers = stack.enter_context(Answers(ASKED))
            for name in topo.CUSTOMERS:
                near = next(e for e in topo.CES if e.customer == name)
                self.probes[name] = stack.enter_context(
                    probes.Probes(near, topo.far(near), self._rate))
            self.load.run()
            self._settled(60)
            # Not earlier: the load gives the port further addresses.
            self._book = wholeness.Book(topo.CES)
            self._began_ns = time.time_ns()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)

    def _settled(self, limit_s):
        for one in self.probes.values():
            one.settled(time.time_ns(), limit_s)

    # ---- a round ---------------------------------------------------------------------------

    @staticmethod
    def _happen(round_):
        """Lets a round's events happen and end: [(calamity, when it struck)]"""
        struck, order = [], itertools.count()
        prepared = {event: calamity.prepare(event) for event in round_.events}
        # (when, a number that keeps things of the same time in order, what, is it its end?)
        due = [(event.at_s, next(order), event, False) for event in round_.events]
        heapq.heapify(due)
        start = time.monotonic()
        try:
            while due:
                at_s, _, event, ends = heapq.heappop(due)
                pause(start + at_s - time.monotonic())
                if ends:
                    prepared.pop(event).repair()
                    continue
                struck.append((prepared[event], time.time_ns()))
                prepared[event].strike()
                heapq.heappush(due, (time.monotonic() - start + event.lasts_s, next(order), event, True))
        finally:
            for event in [e for *_, e, ends in due if ends]:
                prepared[event].repair()
        for one, _ in struck:
            one.wait()
        return struck

    @staticmethod
    def _reach(round_, notes):
        """Wishes that were cut off, or refused because of what failed, are uttered again."""
        def is_so():
            """[command lines that would make it so]"""
            lines = [["server", "undrain", s["name"]]
                     for s in controller.query("server", "list")["items"] if s.get("drained")]
            has = MORE.name in [p["name"] for p in controller.query("port", "list")["items"]]
            if has != round_.more_port:
                lines.append(calamity.wish(chaosplan.Event(
                    0, "port", MORE.name, 0, "created" if round_.more_port else "deleted")))
            shown = controller.query("cvm", "show", "a").get("protection")
            if bool(shown) != round_.protected:
                lines.append(calamity.wish(chaosplan.Event(
                    0, "protection", "a", 0, "on" if round_.protected else "off")))
            if wholeness.has_spares():
                now = controller.query("site", "show", "a")["spares"]
                if now != round_.spares:
                    lines.append(calamity.wish(chaosplan.Event(
                        0, "spares", "a", 0, str(round_.spares))))
            return lines

        def reached():
            if any(o["state"] == "running" for o in controller.query("operation", "list")["items"]):
                return False
            for line in is_so():
                try:
                    controller.cli(*line)
                except host.TestbedError as error:
                    notes.append(f"again: {' '.join(str(error).split())[:200]}")
            return not is_so()

        wait_until(reached, GOAL_S, "what the operator wished is entered", 0.5)

    def _wanted(self, round_):
        edges = topo.CES + ((MORE,) if round_.more_port else ())
        return wholeness.Wanted(edges, round_.protected, round_.spares)

    def round(self, round_):
        """Lets a round happen, waits until all is whole, and returns what was seen of it."""
        seen = {"number": round_.number, "text": str(round_), "problems": [], "notes": []}
        self._settled(WHOLE_S)
        from_ns = time.time_ns() - BEFORE_NS
        struck = self._happen(round_)
        ended_ns = time.time_ns()
        seen["events"] = [{
            "what": one.event.what, "of": one.event.of, "detail": one.event.detail,
            "at_ns": at_ns, "lasts_s": one.event.lasts_s, "missed": one.missed,
            "hits": sorted(one.hits), "said": getattr(one, "said", "")} for one, at_ns in struck]
        try:
            self._reach(round_, seen["notes"])
            wanted = self._wanted(round_)
            _until_empty(lambda: self._book.missing(wanted), WHOLE_S, "not whole", seen)
            self._settled(WHOLE_S)
            seen["whole_s"] = (time.time_ns() - ended_ns) / 1e9
            self.load.stop()
            _until_empty(lambda: self._book.unsound(wanted, self.load), SOUND_S, "unsound", seen)
            seen["sound_s"] = (time.time_ns() - ended_ns) / 1e9
        except (TimeoutError, host.TestbedError, subprocess.TimeoutExpired) as error:
            seen["problems"].append(f"{type(error).__name__}: {error}")
        seen["whole"] = not seen["problems"]
        self.load.run()
        if seen["whole"]:
            self._settled(WHOLE_S)
            pause(2 * AFTER_NS / 1e9)
        until_ns = time.time_ns() - AFTER_NS
        self._add_downtime(seen, from_ns, until_ns)
        return seen

    def _add_downtime(self, seen, from_ns, until_ns):
        """{customer: {"hit", "down_ms", "gap_ms", "lost", "duplicated"}}"""
        hit = {name for event in seen["events"] for name in event["hits"]}
        seen["customers"] = {}
        for name, one in self.probes.items():
            flows = one.window(from_ns, until_ns)
            dense = [flow for key, flow in flows.items() if key.endswith("v4")]
            duplicated = sum(flow["duplicated"] for flow in flows.values())
            seen["customers"][name] = {
                "hit": name in hit,
                "down_ms": max(down_ms(flow, self._rate) for flow in dense),
                "gap_ms": max(flow["gap_ms"]["max"] for flow in dense),
                "lost": sum(flow["lost"] for flow in flows.values()), "duplicated": duplicated}
            if duplicated:
                seen["problems"].append(f"{duplicated} packets of {name} came twice")

    def end(self):
        """Ends it, and returns what is wrong with the run as a whole, as text."""
        found = self._book.grown()
        twice = self._answers.twice()
        if twice:
            found.append(f"{twice} questions for the PVM's MAC address were answered twice")
        return found


def _until_empty(look, limit_s, what, seen):
    """Waits until `look()` finds nothing; else its findings are problems."""
    last = []

    def empty():
        last[:] = ["no answer"]
        last[:] = look()
        return not last

    try:
        wait_until(empty, limit_s, what, 0.5)
    except TimeoutError as error:
        seen["problems"] += [f"{what} after {limit_s} s: {text}" for text in last[:30]]
        if last == ["no answer"]:
            seen["problems"].append(str(error))


def down_ms(flow, rate):
    """How long a flow's packets weren't forwarded: times of silence at the receiver, or, if that is
    longer, what was lost, each packet of which stands for the time until the next. Silences that a busy
    machine has by itself don't count."""
    silent = sum(gap["gap_ms"] for gap in flow["gaps"] if gap["gap_ms"] >= SILENCE_MS)
    return max(silent, flow["lost"] * 1000 / rate)


# ---- what is kept of a failure -------------------------------------------------------------


def keep(directory):
    """Copies what tells why something went wrong: logs, events, rules, the controller's database."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(host.LOGS, f"{directory}/log")
    for where in topo.SERVERS:
        shutil.copytree(f"{where.run_dir}/console", f"{directory}/console-{where.name}")
    for path in os.listdir(f"{controller.DIR}/state"):
        shutil.copy(f"{controller.DIR}/state/{path}", directory)
    asked = {
        "status": lambda: controller.cli("status", limit_s=20),
        "events": lambda: controller.cli("event", "list", "--limit", 500, limit_s=20),
        "operations": lambda: controller.cli("operation", "list", limit_s=20),
        "vms": lambda: "\n".join(map(str, wholeness.vms().items())),
        "placements": lambda: "\n".join(map(str, wholeness.placements())),
        **{f"rules-{site.name}": lambda s=site: "\n".join(sorted(moves.rules(s)))
           for site in topo.SITES},
        **{f"bridge-{where.name}": lambda w=where: switch.vsctl(f"{w.dir}/ovs", "show")
           for where in topo.SERVERS},
        **{f"bgp-{edge.name}": lambda e=edge: str(checks.customer.established(e))
           for edge in topo.CES},
    }
    for name, ask in asked.items():
        try:
            text = ask()
        except Exception as error:  # pylint: disable=broad-except
            text = f"{type(error).__name__}: {error}"
        with open(f"{directory}/{name}.txt", "w", encoding="utf-8") as file:
            file.write(text)
