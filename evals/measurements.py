"""What a judge, a preference model or a distance found on one folder of drawn images.

Beside `result.json`, which holds verdicts that are right or wrong, a result folder keeps

    measures/NAME.json          `Measurement`: what was measured with what, and its intervals
    measures/NAME.images.jsonl  the value of every image, for paired differences (of means only)
    measures/answers-SUITE.jsonl, scores-MODEL.jsonl, features-NETWORK.jsonl
                                what networks said of every image; nothing is computed twice

so that one set of images can be measured by any number of instruments, at any later time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.base import Frozen, Interval, ModelFacts, SamplingFacts
from evals.results import walk_results
from evals.suites.base import Suite
from selfe.files import as_json_lines, file_sha256, write_atomically
from selfe.json_files import read_json_lines
from selfe.sealed_files import read_sealed, seal

MEASURES = "measures"
WHAT = "measurement"
SCHEMA_VERSION = 1
ACCURACY, PREFERENCE, DIVERSITY, DISTRIBUTION = "accuracy", "preference", "diversity", "distance"
ASPECTS = (ACCURACY, PREFERENCE, DIVERSITY, DISTRIBUTION)


class ImageSet(Frozen):
    """Which images were measured: the facts two measurements must share to be compared."""

    suite: str
    split: str = ""
    prompts_sha256: str
    num_prompts: int
    images_per_prompt: int


class Instrument(Frozen):
    """What measured: the other half of what two measurements must share.

    Attributes:
        name: of the measure, with its version: "geneval2@1", "pickscore", "cmmd".
        identity: model and weights.
        settings: everything else that decides the figures: template, resize, reference set.
    """

    name: str
    identity: str
    settings: dict[str, Any] = {}


class Measurement(Frozen):
    """A line of a report across suites.

    Attributes:
        aspect: one of `ASPECTS`.
        headline: which of `values` tables show.
        higher_is_better: the direction of the headline.
        values: name -> mean with its 95% interval.
        notes: what a reader must know of these figures.
        images_sha256: of the file with the value of every image; "" without one.
    """

    schema_version: int = SCHEMA_VERSION
    images: ImageSet
    instrument: Instrument
    aspect: str
    headline: str
    higher_is_better: bool
    values: dict[str, Interval]
    num_images: int
    num_failed: int = 0
    partial: bool = False
    notes: list[str] = []
    images_sha256: str = ""
    model: ModelFacts
    sampling: SamplingFacts
    environment: dict[str, Any] = {}
    command: str = ""

    @property
    def key(self) -> str:
        """Identity of images and instrument: others never share a column."""
        facts = [self.images.model_dump(mode="json"), self.instrument.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def shown(self) -> Interval:
        return self.values[self.headline]


def image_set(suite: Suite) -> ImageSet:
    return ImageSet(
        suite=suite.name,
        split=suite.split,
        prompts_sha256=suite.prompts_sha256,
        num_prompts=len(suite.records),
        images_per_prompt=suite.images_per_prompt,
    )


def measurement_path(folder: str | Path, name: str) -> Path:
    return Path(folder) / MEASURES / f"{name.replace('@', '-')}.json"


def images_path(measurement: str | Path) -> Path:
    """Beside a measurement: the value of every image (`write_measurement`)."""
    return Path(measurement).with_suffix(".images.jsonl")


def with_images(found: Measurement, values: Sequence[tuple[int, int, float]]) -> Measurement:
    """A measurement whose checksum covers the (prompt_id, sample_id, value) of every image."""
    digest = hashlib.sha256(_as_lines(values).encode()).hexdigest() if values else ""
    return found.model_copy(update={"images_sha256": digest})


def _as_lines(values: Sequence[tuple[int, int, float]]) -> str:
    names = ("prompt_id", "sample_id", "value")
    return as_json_lines(dict(zip(names, value, strict=True)) for value in sorted(values))


def read_images(measurement: str | Path) -> dict[tuple[int, int], float]:
    """(prompt_id, sample_id) -> value; {} for a measure that is no mean over images.

    Raises:
        ValueError: if the file is missing or not the one that was measured, a line has not these
            three numbers, or an image occurs twice.
    """
    path = images_path(measurement)
    problem = images_problem(measurement, read_measurement(measurement))
    if problem:
        raise ValueError(problem)
    if not path.is_file():
        return {}
    found: dict[tuple[int, int], float] = {}
    for number, row in read_json_lines(path):
        try:
            key, value = (int(row["prompt_id"]), int(row["sample_id"])), float(row["value"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}, line {number}: not an image with its value") from None
        if key in found:
            raise ValueError(f"{path}, line {number}: a second value of image {key}")
        found[key] = value
    return found


def images_problem(measurement: str | Path, found: Measurement) -> str:
    """What is wrong with the file of a measurement's images, or ""."""
    path = images_path(measurement)
    if not found.images_sha256:  # of no mean over images, or of an earlier version
        return ""
    if not path.is_file():
        return f"{path} is missing: measure again"
    if file_sha256(path) != found.images_sha256:
        return f"{path} was changed after {Path(measurement).name} was written: measure again"
    return ""


def write_measurement(
    folder: str | Path, found: Measurement, values: Sequence[tuple[int, int, float]] = ()
) -> Path:
    """Write measures/NAME.json, sealed, below a result folder; returns its path.

    Args:
        values: (prompt_id, sample_id, value) of every image, whose mean the headline is; written
            beside it, a line each.
    """
    path = measurement_path(folder, found.instrument.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = with_images(found, values)
    if values:
        write_atomically(images_path(path), _as_lines(values))
    write_atomically(path, seal(WHAT, json.loads(found.model_dump_json())))
    return path


def read_measurement(path: str | Path) -> Measurement:
    """Raises ValueError, naming the file, if it is missing or not a measurement."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `selfe-bench measure` writes it")
    found = read_sealed(path, Measurement, WHAT)
    if found.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {found.schema_version}, this version reads "
            f"{SCHEMA_VERSION}: measure the images again"
        )
    if found.headline not in found.values or found.aspect not in ASPECTS:
        raise ValueError(
            f"{path} has no value {found.headline!r} or no known aspect: measure again"
        )
    return found


def find_measurements(roots: Sequence[str | Path]) -> dict[Path, Measurement]:
    """Every measurement below the roots, by its file, in the order of the files' names."""
    paths: dict[Path, Path] = {}
    for root in roots:
        there = (place for place, _ in walk_results(root) if place.name == MEASURES)
        for path in sorted(path for place in there for path in place.glob("*.json")):
            if not path.name.startswith("."):
                paths.setdefault(path.resolve(), path)
    return {path: read_measurement(path) for path in paths.values()}
