"""How far a trial is between two epochs: a small file in its folder, written every few seconds, for whoever watches the sweep.

All engines have the file system alone in common. What stands in the file is for people, and no result depends on it.
"""

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.files import read_regular
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.training.callbacks import Callback

BEAT = "progress.json"
BEAT_SECONDS = 5.0


class Beat(NamedTuple):
    """A trial after `step` of `total_steps` steps of `epochs` epochs, of which one step takes `step_seconds`."""

    step: int
    total_steps: int
    epochs: int
    step_seconds: float

    @property
    def epochs_done(self) -> float:
        """How many epochs are done, with a part of the last one."""
        return self.epochs * self.step / self.total_steps

    @property
    def epoch_seconds(self) -> float:
        """How long the steps of an epoch take."""
        return self.step_seconds * self.total_steps / self.epochs

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What stands in a trial's folder; None where nothing of use does."""
        try:
            values = json.loads(read_regular(folder / BEAT))
            beat = cls(*(values[name] for name in cls._fields))
            sound = all(type(number) in (int, float) and math.isfinite(number) and number >= 0 for number in beat)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return beat if sound and beat.epochs and 0 < beat.step <= beat.total_steps else None


class BeatFile(Callback):
    """Writes the file while a trial trains, and takes it away at the end. A disk that is full is none of its business."""

    def on_start(self, run: Run, progress: Progress) -> None:
        self.first = None
        self.remove(run)

    def on_step(self, run: Run, progress: Progress) -> None:
        now = time.monotonic()
        if self.first is None:  # it takes much longer than all others, which are counted from its end on
            self.began, self.first, self.written = now, progress.step, now
            return
        if now - self.written < BEAT_SECONDS or distributed.rank() > 0:
            return
        self.written = now
        beat = Beat(progress.step, run.total_steps, run.epochs, (now - self.began) / (progress.step - self.first))
        path = run.folder / BEAT
        with suppress(OSError):
            beside = path.with_name(f".{BEAT}.part")
            beside.write_text(json.dumps(beat._asdict()), encoding="ascii")
            beside.replace(path)

    def on_end(self, run: Run, progress: Progress) -> None:
        self.remove(run)

    def remove(self, run: Run) -> None:
        if distributed.rank() == 0:
            with suppress(OSError):
                (run.folder / BEAT).unlink(missing_ok=True)
