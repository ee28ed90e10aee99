"""Preference models as measures: a score per image, kept line by line, paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from evals.clustered import clustered_mean
from evals.images import FoundImage
from evals.measure import DrawnImages, Finding, MeasureOptions, Progress
from evals.measurements import MEASURES, PREFERENCE, Instrument
from evals.scoring.stored_rows import StoredRows
from evals.suites.base import Suite


class PreferenceModel(Protocol):
    """`identity` names the weights, `settings` everything else that decides a score. A model may
    have `notes`: sentences for readers of its scores."""

    name: str
    identity: str
    settings: Mapping[str, Any]

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[float]:
        """One score per (H, W, 3) uint8 image and its prompt; higher is better."""
        ...


class PreferenceMeasure:
    """`Measure` over a preference model."""

    def __init__(self, model: PreferenceModel, options: MeasureOptions) -> None:
        self.model, self.options = model, options
        self.name = model.name

    def prepare(self, suite: Suite) -> None:
        """Nothing is left to open."""

    def measure(self, drawn: DrawnImages, progress: Progress) -> Finding:
        model, records = self.model, drawn.suite.records
        instrument = Instrument(
            name=model.name, identity=model.identity, settings=dict(model.settings)
        )
        stored = StoredRows(
            drawn.out / MEASURES / f"scores-{model.name}.jsonl",
            {**instrument.model_dump(), "prompts": drawn.suite.prompts_sha256},
            drawn.folder.images,
            self.options.batch_size,
        )

        def look(
            found: Sequence[FoundImage], pixels: Sequence[np.ndarray]
        ) -> list[dict[str, float]]:
            prompts = [records[image.prompt_id]["prompt"] for image in found]
            return [{"score": score} for score in model.score(pixels, prompts)]

        stored.look(look, progress)
        rows = [row for row in stored.finish() if not row.get("failed")]
        if not rows:
            raise ValueError(
                f"{drawn.out} holds no image that is finite: there is nothing to score"
            )
        mean = clustered_mean([r["score"] for r in rows], [r["prompt_id"] for r in rows])
        failed = drawn.num_failed
        notes = [f"{failed} images were not finite and have no score"] * bool(failed)
        notes += getattr(model, "notes", ())
        scores = tuple((r["prompt_id"], r["sample_id"], r["score"]) for r in rows)
        return Finding(instrument, PREFERENCE, "mean", True, {"mean": mean}, tuple(notes), scores)
