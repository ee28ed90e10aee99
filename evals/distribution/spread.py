"""How much the images of one prompt differ: mean pairwise distance.

A model that follows one mode of its teacher answers every seed of a prompt alike. No measure of
single images sees that. The distance is one minus the cosine of two images' features; on the shapes
world the same is computed for rendered scenes of the same prompts, which is what a model should
reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.clustered import clustered_mean
from evals.distribution.features import (
    FeatureExtractor,
    default_spread_features,
    features_of,
    open_features,
)
from evals.distribution.reference import shapes_reference
from evals.measure import DrawnImages, Finding, MeasureOptions, Progress
from evals.measurements import DIVERSITY, Instrument
from evals.suites.base import Suite

BOUNDS = (0.0, 2.0)


def pairwise_distance(features: np.ndarray) -> float:
    """Mean over all pairs of 1 - cosine.

    Args:
        features: (n, d) unit vectors, n at least 2.
    """
    n = len(features)
    total = features.astype(np.float64).sum(axis=0)
    own = float(np.square(features.astype(np.float64)).sum())
    return 1.0 - (float(total @ total) - own) / (n * (n - 1))


def distances_by_prompt(
    features: np.ndarray, prompts: Sequence[int] | np.ndarray
) -> dict[int, float]:
    """Mean pairwise distance of every prompt with two images or more."""
    ids = np.asarray(prompts)
    mine = {int(prompt): features[ids == prompt] for prompt in np.unique(ids)}
    return {p: max(0.0, pairwise_distance(f)) for p, f in mine.items() if len(f) > 1}


class SpreadMeasure:
    """`Measure`: mean pairwise distance of a prompt's images."""

    name = "diversity"

    def __init__(self, options: MeasureOptions) -> None:
        self.options = options
        self._opened: dict[str, FeatureExtractor] = {}
        self._data: dict[str, dict[int, float]] = {}

    def prepare(self, suite: Suite) -> None:
        self._open(suite.world_preset)

    def _open(self, preset: str) -> FeatureExtractor:
        if preset not in self._opened:
            self._opened[preset] = open_features(self.options, default_spread_features(), preset)
        return self._opened[preset]

    def measure(self, drawn: DrawnImages, progress: Progress) -> Finding:
        suite = drawn.suite
        extractor = self._open(suite.world_preset)
        x, prompts = features_of(drawn, extractor, self.options.batch_size, progress)
        found = distances_by_prompt(x, prompts)
        if not found:
            raise ValueError(
                f"{suite.name} has one image per prompt here, and diversity needs two or more: "
                "draw more with --images-per-prompt"
            )
        values = {"pairwise": clustered_mean(list(found.values()), list(found), BOUNDS)}
        if suite.world_preset:
            data = self._distances_of_data(drawn, extractor)
            values["pairwise of data"] = clustered_mean(
                [data[p] for p in found], list(found), BOUNDS
            )
        left = len(suite.records) - len(found)
        notes = [f"{left} prompts have fewer than two images that are finite"] * bool(left)
        notes += getattr(extractor, "notes", ())
        settings = {**dict(extractor.settings), "distance": "1 - cosine, mean over pairs"}
        return Finding(
            Instrument(name=self.name, identity=extractor.identity, settings=settings),
            DIVERSITY,
            "pairwise",
            True,
            values,
            tuple(notes),
            tuple((prompt, 0, value) for prompt, value in found.items()),
        )

    def _distances_of_data(
        self, drawn: DrawnImages, extractor: FeatureExtractor
    ) -> dict[int, float]:
        key = drawn.suite.prompts_sha256
        if key not in self._data:
            reference = shapes_reference(drawn.suite, extractor)
            self._data[key] = distances_by_prompt(reference.features, reference.prompts)
        return self._data[key]
