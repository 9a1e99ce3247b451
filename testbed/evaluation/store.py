# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured so far, a file of JSON lines per experiment, so that an evaluation that was
interrupted goes on where it was."""

import contextlib
import json
import os
import shutil
import time


class Store:
    """Rows in DIR/raw/EXPERIMENT.jsonl, and DIR/run.json, which says of what run they are."""

    def __init__(self, directory, run, fresh=False):
        """`run`: what must be the same for rows to belong together. A finished run, one of another kind
        or `fresh` begins anew."""
        self.dir, self._raw = directory, f"{directory}/raw"
        self._path = f"{directory}/run.json"
        old = self._old()
        self.resumed = not fresh and old.get("run") == run and not old.get("finished")
        if not self.resumed:
            shutil.rmtree(directory, ignore_errors=True)
            os.makedirs(self._raw)
        self._state = old if self.resumed else {
            "run": run, "date": time.strftime("%Y-%m-%d"), "finished": False, "seconds": 0.0, "parts": 0}
        self._state["parts"] += 1
        self._write()

    @classmethod
    def opened(cls, directory):
        """What a directory has, to be read only."""
        store = cls.__new__(cls)
        store.dir, store._raw, store._path = directory, f"{directory}/raw", f"{directory}/run.json"
        store.resumed, store._state = True, {"run": {}, "finished": False, "seconds": 0.0, "parts": 0}
        store._state |= store._old()
        return store

    def _old(self):
        try:
            with open(self._path, encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return {}

    def _write(self):
        with open(self._path + ".new", "w", encoding="utf-8") as file:
            json.dump(self._state, file, indent=1)
        os.replace(self._path + ".new", self._path)

    @property
    def state(self):
        """{"run", "date" (when it began), "finished", "seconds" (of all parts so far), "parts", and what note() added}"""
        return self._state

    def note(self, **facts):
        """Keeps facts about the run."""
        self._state.update(facts)
        self._write()

    def add(self, experiment, row):
        """Keeps a row."""
        with open(f"{self._raw}/{experiment}.jsonl", "a", encoding="utf-8") as file:
            # A line of its own, also after one that wasn't written whole.
            file.write("\n" + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self, experiment):
        """All rows of an experiment; one that wasn't written whole is left out."""
        found = []
        try:
            with open(f"{self._raw}/{experiment}.jsonl", encoding="utf-8") as file:
                for line in file:
                    with contextlib.suppress(ValueError):
                        found.append(json.loads(line))
        except FileNotFoundError:
            pass
        return found
