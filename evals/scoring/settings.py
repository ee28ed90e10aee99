"""What a user may choose of a benchmark run, and what is opened once for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from evals.registry import open_suite
from evals.scoring.processes import ALONE, Processes
from evals.scoring.scorer import Scorers
from evals.suites.base import Suite
from evals.suites.limit import limited


@dataclasses.dataclass
class Opened:
    """Suites and scorers of one command, each opened once.

    Attributes:
        suites: by name, split and prompt file.
        scorers: by device and batch size.
    """

    suites: dict[tuple[str, str, Path | None], Suite] = dataclasses.field(default_factory=dict)
    scorers: dict[tuple[str, int | None], Scorers] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """What a user may choose of a benchmark run.

    Attributes:
        split, prompts, limit, images_per_prompt, detector, color_classifier: None or "" for the
            suite's own.
        seed: of the images.
        device: of the detector.
        batch_size: images per detector call; None for the detector's own.
        allow_partial: score sets that are not complete, marked as such.
        command: recorded in the result.
        processes: drawing and detection are shared among them; process 0 judges.
        opened: what was opened under these settings; copies by `dataclasses.replace` share it.
    """

    split: str = ""
    prompts: Path | None = None
    limit: int | None = None
    images_per_prompt: int | None = None
    seed: int = 0
    detector: str | None = None
    color_classifier: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    allow_partial: bool = False
    command: str = ""
    processes: Processes = ALONE
    opened: Opened = dataclasses.field(default_factory=Opened, compare=False, repr=False)

    @property
    def scorers(self) -> Scorers:
        """One for everything that is scored under these settings."""
        key = (self.device, self.batch_size)
        return self.opened.scorers.setdefault(key, Scorers(*key))

    def whole_suite(self, name: str) -> Suite:
        """A suite with its own detector and all its prompts. Raises as `open_suite`."""
        key = (name, self.split, self.prompts)
        if key not in self.opened.suites:
            self.opened.suites[key] = open_suite(*key)
        return self.opened.suites[key]

    def open_suite(self, name: str) -> Suite:
        """A suite with the limit, number of images, detector and classifier of these settings.

        Raises:
            ValueError: as `evals.registry.open_suite`.
        """
        suite = limited(self.whole_suite(name), self.limit)
        if self.images_per_prompt is not None:
            suite = dataclasses.replace(suite, images_per_prompt=self.images_per_prompt)
        if self.detector is not None and self.detector != suite.detector:
            suite = dataclasses.replace(suite, detector=self.detector, detector_options={})
        if self.color_classifier is not None:
            suite = dataclasses.replace(suite, color_classifier=self.color_classifier)
        return suite
