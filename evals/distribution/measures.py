"""CMMD, FID, KID, precision and recall as measures: features once, distances with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evals.clustered import resampled_intervals
from evals.distribution import distances
from evals.distribution.features import FeatureExtractor, features_of, open_features
from evals.distribution.reference import Reference, open_reference
from evals.measure import DrawnImages, Finding, MeasureOptions, Progress
from evals.measurements import DISTRIBUTION, Instrument
from evals.suites.base import Suite

SEED = 0
LARGE = 10_000
"""Images from which FID's own bias is small beside what it measures."""

ByPrompt = Callable[[np.ndarray, np.ndarray, np.ndarray], distances.Distance]


class DistanceMeasure:
    """`Measure`: one distance to a reference set.

    Args:
        name: also the headline, unless `headline` says otherwise.
        by_prompt: makes the distance from features of model, prompts and reference.
        features: name of the extractor that the measure is defined with.
        settings: what else decides the figures.
        bounds: of the values, where they have any.
    """

    def __init__(
        self,
        name: str,
        by_prompt: ByPrompt,
        features: str,
        settings: dict[str, Any],
        options: MeasureOptions,
        *,
        headline: str = "",
        higher_is_better: bool = False,
        bounds: dict[str, tuple[float, float]] | None = None,
    ) -> None:
        self.name, self.by_prompt, self.features = name, by_prompt, features
        self.settings, self.options, self.bounds = settings, options, bounds
        self.headline, self.higher_is_better = headline or name, higher_is_better
        self._opened: dict[str, FeatureExtractor] = {}
        self._references: dict[tuple[str, str], Reference] = {}

    def prepare(self, suite: Suite) -> None:
        self._open(suite)

    def _open(self, suite: Suite) -> tuple[FeatureExtractor, Reference]:
        preset, options = suite.world_preset, self.options
        if preset not in self._opened:
            self._opened[preset] = open_features(options, self.features, preset)
        key = (preset, suite.prompts_sha256 if preset else "")
        if key not in self._references:  # the same for every model and number of steps
            self._references[key] = open_reference(suite, self._opened[preset], options)
        return self._opened[preset], self._references[key]

    def measure(self, drawn: DrawnImages, progress: Progress) -> Finding:
        options = self.options
        extractor, reference = self._open(drawn.suite)
        x, prompts = features_of(drawn, extractor, options.batch_size, progress)
        _, groups = np.unique(prompts, return_inverse=True)
        values = resampled_intervals(
            self.by_prompt(x, groups, reference.features),
            int(groups.max()) + 1,
            seed=SEED,
            resamples=options.resamples,
            bounds=self.bounds,
        )
        settings = {
            **self.settings,
            **dict(extractor.settings),
            **reference.facts,
            "resamples": options.resamples,
        }
        return Finding(
            Instrument(name=self.name, identity=extractor.identity, settings=settings),
            DISTRIBUTION,
            self.headline,
            self.higher_is_better,
            values,
            (*self._notes(drawn, x, reference), *getattr(extractor, "notes", ())),
        )

    def _notes(self, drawn: DrawnImages, x: np.ndarray, reference: Reference) -> list[str]:
        notes = ["the interval is for other prompts; the reference set is taken as fixed"]
        if drawn.num_failed:
            notes.append(f"{drawn.num_failed} images were not finite and are left out")
        if self.name == "fid" and min(len(x), len(reference.features)) < LARGE:
            notes.append(
                f"FID of {len(x)} images against {len(reference.features)} is biased upwards: "
                "compare it only with FID of as many images"
            )
        return notes


def cmmd(options: MeasureOptions) -> DistanceMeasure:
    """CMMD: CLIP ViT-L/14 at 336 pixels, RBF kernel of width 10, x 1000."""
    settings = {"kernel": "RBF", "sigma": distances.SIGMA, "scale": distances.SCALE}
    return DistanceMeasure("cmmd", distances.cmmd_by_prompt, "clip-l-336", settings, options)


def fid(options: MeasureOptions) -> DistanceMeasure:
    """FID by torch-fidelity."""
    return DistanceMeasure(
        "fid", distances.fid_by_prompt, "inception", {"by": "torch-fidelity"}, options
    )


def kid(options: MeasureOptions) -> DistanceMeasure:
    """KID by torch-fidelity, x 1000."""
    settings = {
        "by": "torch-fidelity",
        "scale": 1000,
        "subsets": distances.KID_SUBSETS,
        "subset size": f"{distances.KID_SUBSET_SIZE}, or all images where there are fewer",
    }
    return DistanceMeasure("kid", distances.kid_by_prompt, "inception", settings, options)


def precision_recall(options: MeasureOptions) -> DistanceMeasure:
    """Improved precision and recall by torch-fidelity; recall is the headline, because it shows
    collapse."""
    settings = {"by": "torch-fidelity", "neighbours": distances.NEIGHBOURS}
    return DistanceMeasure(
        "precision-recall",
        distances.precision_recall_by_prompt,
        "inception",
        settings,
        options,
        headline="recall",
        higher_is_better=True,
        bounds={"precision": (0.0, 1.0), "recall": (0.0, 1.0)},
    )
