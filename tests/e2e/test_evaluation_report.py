# SPDX-License-Identifier: GPL-2.0-or-later
"""What the evaluation makes of packets and frames that a viewer noted, and how it goes on after an
interruption. (The viewer itself needs ffmpeg, which `make evaluation` installs.)"""

import csv
import os
import sys

import pytest

from bed import video

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "testbed", "evaluation"))

import report  # noqa: E402  pylint: disable=wrong-import-position
import steps  # noqa: E402  pylint: disable=wrong-import-position
from store import Store  # noqa: E402  pylint: disable=wrong-import-position

MS = 1_000_000
RUN = {"quick": True, "times": {}, "inventory": None}


def packets(numbers, per_frame=4, first=65_534):
    """Packets 10 ms apart, so many to a frame; their sequence numbers wrap."""
    found = video.Packets()
    for number in numbers:
        frame = number // per_frame
        found.add(number * 10 * MS, (first + number) % 65536, (4294967000 + 3600 * frame) % (1 << 32),
                  int(number % per_frame == per_frame - 1))
    return found


def checkpoints(store, **more):
    for interval in report.ARTICLE_MB_PER_S:
        store.add("checkpoints", {"variant": f"{interval} ms", "number": 1, "seconds": 4.0, "mb_per_s": 0.35,
                                  "kb_per_epoch": 35.8, "pages_per_epoch": 386.0, "pause_ms": 6.7,
                                  "pause_max_ms": 8.5, "commit_ms": 12.1, "commit_max_ms": 16.9,
                                  "memory_mib": 256.0, "updates": 800, **more})


def test_nothing_lost():
    found = video.packets_window(packets(range(40)), 50 * MS, 300 * MS)
    assert (found["lost"], found["duplicated"], found["reordered"], found["frames_hit"]) == (0, 0, 0, 0)
    assert found["gap_ms"] == pytest.approx(10) and found["received"] == found["expected"] == 28


@pytest.mark.parametrize("gone, frames", [
    ({9}, 1),               # in the middle of a frame
    ({11, 12}, 1),          # the end of one; whether the next one's beginning, too, can't be told
    ({12}, 1),              # the beginning of one
    (set(range(8, 20)), 3),  # three whole ones
])
def test_lost_packets_and_the_frames_they_hit(gone, frames):
    found = video.packets_window(packets(n for n in range(40) if n not in gone), 0, 400 * MS)
    assert (found["lost"], found["frames_hit"]) == (len(gone), frames)
    assert found["gap_ms"] == pytest.approx(10 * (len(gone) + 1))


def test_packets_twice_and_out_of_order():
    found = video.packets_window(packets([0, 1, 2, 2, 4, 3, 5]), 0, 400 * MS)
    assert (found["lost"], found["duplicated"], found["reordered"]) == (0, 1, 1)


def test_a_window_that_begins_in_a_gap_has_it_whole():
    found = video.packets_window(packets([*range(10), *range(30, 40)]), 200 * MS, 320 * MS)
    assert found["lost"] == 20 and found["gap_ms"] == pytest.approx(210)


def test_freezes():
    shown = [(n * 40 * MS, n) for n in range(10)] + [(n * 40 * MS, n) for n in range(14, 20)]
    found = video.frames_window(shown, 0, 800 * MS)
    assert found == {"shown": 16, "freezes": 1, "frozen_ms": 200, "longest_ms": 200}
    still = video.frames_window(shown[:10] + [(n * 40 * MS, n) for n in range(13, 20)], 0, 800 * MS)
    assert still["freezes"] == 0 and still["longest_ms"] == 160
    assert video.frames_window([], 0, 800 * MS)["frozen_ms"] == 800


def test_a_frame_that_the_player_still_had_is_none_of_the_present():
    shown = [(40 * MS, 1), (80 * MS, 2), (10_000 * MS, 3), (14_000 * MS, 4)]
    assert video.fresh(shown, [30 * MS, 70 * MS, 13_990 * MS]) == [shown[0], shown[1], shown[3]]


def test_a_run_that_was_interrupted_goes_on(tmp_path):
    first = Store(f"{tmp_path}/out", RUN)
    first.add("moves", {"variant": "make before break", "number": 1})
    with open(f"{tmp_path}/out/raw/moves.jsonl", "a", encoding="utf-8") as file:
        file.write('{"variant": "cut o')  # it was killed in mid-write
    again = Store(f"{tmp_path}/out", RUN)
    assert again.resumed and again.rows("moves") == [{"variant": "make before break", "number": 1}]
    again.add("moves", {"variant": "make before break", "number": 2})
    assert [row["number"] for row in again.rows("moves")] == [1, 2]
    assert not Store(f"{tmp_path}/out", {**RUN, "quick": False}).resumed
    done = Store(f"{tmp_path}/out", RUN)
    done.note(finished=True)
    assert not Store(f"{tmp_path}/out", RUN).resumed


def test_percentiles_are_by_nearest_rank():
    values = list(range(1, 21))
    assert [report.percentile(values, share) for share in (0.5, 0.95, 1)] == [10, 19, 20]
    assert report.percentile([3, 1, 2], 0.95) == 3 and report.percentile([], 0.5) is None


def test_the_report_says_what_is_missing_and_what_failed(tmp_path):
    store = Store(f"{tmp_path}/out", RUN)
    checkpoints(store)
    store.add("failed", {"experiment": "moves", "variant": "live migration", "number": 2, "error": "a|b"})
    report.write(store)
    with open(f"{tmp_path}/out/report.md", encoding="utf-8") as file:
        text = file.read()
    assert "A quick run" in text and "Not finished" in text
    assert "| 100 ms | 1 | 74.7 | 0.35 | 0.35 | 0.35 |" in text
    assert "| moves | live migration 2 | a/b |" in text
    with open(f"{tmp_path}/out/checkpoints.csv", encoding="utf-8") as file:
        assert [row["mb_per_s"] for row in csv.DictReader(file)] == ["0.35"] * 4
    assert os.path.getsize(f"{tmp_path}/out/checkpoints.png") > 1000


@pytest.fixture(name="full")
def _full(tmp_path):
    """A full run that was finished."""
    store = Store(f"{tmp_path}/out", {**RUN, "quick": False})
    checkpoints(store)
    store.note(finished=True)
    return store


def test_a_finished_full_run_is_published_in_the_place_of_the_one_before(full, tmp_path):
    to = tmp_path / "docs"
    to.mkdir()
    (to / "README.md").write_text("ours", encoding="utf-8")
    (to / "failed.csv").write_text("of the one before", encoding="utf-8")
    report.publish(full, to)
    assert {path.name for path in to.iterdir()} == {
        "README.md", "report.md", "checkpoints.csv", "checkpoints.png", "checkpoints.svg"}
    assert "| 100 ms | 1 | 74.7 | 0.35" in (to / "report.md").read_text(encoding="utf-8")


def test_what_is_no_full_run_or_tells_of_directories_is_not_published(full, tmp_path):
    full.note(finished=False)
    with pytest.raises(ValueError, match="isn't a full run"):
        report.publish(full, tmp_path)
    full.note(finished=True)
    checkpoints(full, note=f"{report.TOP}/build")
    with pytest.raises(ValueError, match="checkpoints.csv has"):
        report.publish(full, tmp_path)
    assert not (tmp_path / "report.md").exists()


class Fake:
    """An experiment whose steps fail so many times."""

    name, title, variants = "moves", "A fake", ("one", "other")
    fails = scenes = 0

    def __init__(self, _quick):
        pass

    def __enter__(self):
        type(self).scenes += 1
        return self

    def __exit__(self, *_exc):
        pass

    def run(self, variant):
        """Fails while it is to."""
        if self.fails:
            type(self).fails -= 1
            raise RuntimeError("on order")
        return {"figure": variant}


@pytest.mark.parametrize("fails, undone, scenes, tries", [
    (0, 0, 1, [1, 1, 1, 1]),
    (2, 0, 3, [3, 1, 1, 1]),     # tried again, each time in a scene that is set anew
    (steps.TRIES, 1, 4, [1, 1, 1]),
    (99, 4, 6, []),              # given up after two steps
])
def test_a_step_that_fails_is_tried_again_and_an_experiment_given_up(tmp_path, fails, undone, scenes, tries):
    class Kind(Fake):
        """One of our own."""
    Kind.fails, said = fails, []
    store = Store(f"{tmp_path}/out", RUN)
    assert steps.measure(store, [Kind], {"moves": 2}, True, said.append) == undone
    assert (Kind.scenes, [row["try"] for row in store.rows("moves")]) == (scenes, tries)
    assert len(store.rows("failed")) == min(fails, 2 * steps.TRIES)
    assert said[0].startswith("[0 of 4; 0:00, about") and "A fake: one, 1 of 2" in said[1]


def test_an_interruption_isn_t_noted_as_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "INTERRUPTED", [True])

    class Kind(Fake):
        """What ends because of the signal may fail."""
        fails = 1
    store = Store(f"{tmp_path}/out", RUN)
    with pytest.raises(KeyboardInterrupt):
        steps.measure(store, [Kind], {"moves": 1}, True, lambda _text: None)
    assert store.rows("failed") == []
