"""The contract of a measure: one instrument on the images of one suite that are drawn already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evals.base import Interval
from evals.images import ImageFolder
from evals.measurements import Instrument
from evals.suites.base import Suite

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DrawnImages:
    """Images of one model at one number of steps.

    Attributes:
        suite: whose prompts they were drawn for.
        folder: every image, failed ones marked.
        out: the result folder, below which findings are kept.
    """

    suite: Suite
    folder: ImageFolder
    out: Path

    @property
    def num_failed(self) -> int:
        return sum(image.path is None for image in self.folder.images)


@dataclass(frozen=True)
class MeasureOptions:
    """What a user may choose of the instruments.

    Attributes:
        device: where networks run.
        batch_size: images per forward pass.
        features: name in `evals.registry.FEATURES`, "" for the measure's own.
        reference: folder of images that distances are taken to; None on the shapes world, which
            renders its own.
        resamples: of intervals by resampling.
        cache: folder for features of reference sets.
        weights: name of a weight in `evals.published` -> folder or file to use instead, or
            OWNER/NAME@COMMIT of the hub.
    """

    device: str = "cpu"
    batch_size: int = 16
    features: str = ""
    reference: Path | None = None
    resamples: int = 200
    cache: Path = Path("runs/references")
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What an instrument found; with the facts of model and images it becomes a `Measurement`."""

    instrument: Instrument
    aspect: str
    headline: str
    higher_is_better: bool
    values: Mapping[str, Interval]
    notes: tuple[str, ...] = ()
    per_image: tuple[tuple[int, int, float], ...] = ()
    """(prompt_id, sample_id, value) whose mean the headline is; () where it is no mean. What is of
    a prompt as a whole has the sample 0."""


class Measure(Protocol):
    """One instrument, opened once and used on any number of models and step counts."""

    name: str

    def prepare(self, suite: Suite) -> None:
        """Open what images of this suite need, so that what is missing is reported before they are
        drawn. Raises ValueError: says what is missing and how to get it."""
        ...

    def measure(self, drawn: DrawnImages, progress: Progress) -> Finding:
        """Raises ValueError where these images cannot be measured; says what to do."""
        ...
