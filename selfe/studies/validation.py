"""Scores on validation prompts, of images that are not kept: what a search decides by.

Images are detected, judged and averaged as `geneval` does it (`evals.scoring`); they are drawn with
another seed than the benchmark's 0, so that what is searched on is not what is reported on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from evals.base import TASKS
from evals.registry import open_suite, suite_for
from evals.scoring.detections import FAILED_SIZE, Row, judge_row
from evals.scoring.scorer import Scorers
from evals.suites.limit import limited
from selfe.generator import TextToImage, image_seed
from selfe.json_files import JsonFault
from selfe.sealed_files import read_sealed

SEED = 1
"""Of the images."""


def read_found(
    path: Path, schema: type[BaseModel], what: str, empty: dict[str, Any]
) -> dict[str, Any]:
    """Content of the sealed file of a search; `empty` where there is none.

    Raises:
        ValueError: if it is damaged; names it.
    """
    if not path.exists():
        return empty
    try:
        return read_sealed(path, schema, what).model_dump(exclude_unset=True)
    except JsonFault as fault:
        raise ValueError(
            f"{path} is damaged ({fault.detail}): choose another folder with --out"
        ) from None


class ValidationScorer:
    """The validation prompts of a preset of the shapes world, with their detector, opened once.

    Args:
        preset: of the shapes world.
        per_task: the first so many prompts of every task.
        samples: images per prompt.

    Attributes:
        suite: those prompts.

    Raises:
        ValueError: for counts below 1.
    """

    def __init__(self, preset: str, per_task: int, samples: int, device: str = "cpu") -> None:
        if samples < 1:
            raise ValueError(f"--samples must be at least 1 image per prompt, got {samples}")
        suite = limited(open_suite(suite_for(preset), "validation"), per_task)
        self.suite = replace(suite, images_per_prompt=samples)
        self._scorer = Scorers(device).open(self.suite)

    def rows(self, generator: TextToImage, steps: int) -> list[Row]:
        """Detections with colours of every image, as `geneval` stores them."""
        owners = [
            (prompt_id, sample_id)
            for prompt_id in range(len(self.suite.records))
            for sample_id in range(self.suite.images_per_prompt)
        ]
        prompts = [self.suite.records[prompt_id]["prompt"] for prompt_id, _ in owners]
        seeds = [
            image_seed(SEED, prompt, sample_id)
            for prompt, (_, sample_id) in zip(prompts, owners, strict=True)
        ]
        images = generator.generate(prompts, steps, seeds)
        drawn = [image for image in images if image is not None]
        found = self._scorer.detector.detect(drawn)
        named = iter(zip(found, self._scorer.color_classifier.classify(drawn, found), strict=True))
        rows: list[Row] = []
        for (prompt_id, sample_id), image in zip(owners, images, strict=True):
            size = list(FAILED_SIZE if image is None else image.shape[:2])
            row: Row = {"prompt_id": prompt_id, "sample_id": sample_id, "size": size}
            pairs = [] if image is None else zip(*next(named), strict=True)
            row["detections"] = [
                detection.model_copy(update={"color": color}).model_dump()
                for detection, color in pairs
            ]
            rows.append(row)
        return rows

    def score(self, generator: TextToImage, steps: int) -> float:
        """Mean of the task means."""
        correct: dict[str, list[bool]] = {task: [] for task in TASKS}
        for row in self.rows(generator, steps):
            record = self.suite.records[row["prompt_id"]]
            correct[record["tag"]].append(judge_row(record, row).correct)
        means = [sum(values) / len(values) for values in correct.values() if values]
        return sum(means) / len(means)

    def diversity(self, generator: TextToImage, steps: int) -> dict[str, float]:
        """Total variation to the data of what captions leave open, and what the data reach; {}
        where nothing was found."""
        measured = self._scorer.diversity(self.suite, self.rows(generator, steps))
        return {name: measured[name] for name in ("tv", "tv_data")} if measured else {}
