"""Diversity: does a model vary what the caption leaves open as much as the data does?

The verdicts cannot see a model that draws every red circle in one corner. In the shapes world the
nuisance factors are known: place, size, and every colour the caption does not name. For each
caption type and factor this module measures the total variation between their distribution in the
detections of generated images and in data, both seen through the same detector. Total variation of
a finite sample is never 0, so beside it stands what equally many images of the data would score.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evals.base import ColorClassifier, Detector
from evals.scoring.detections import Row
from evals.suites.rules import DEFAULT_RULES, RuleSettings
from selfe.data.shapes_world import ShapesWorld

REFERENCE_IMAGES = 24
"""Images of data per prompt; a sample of the data is compared with those left over."""
_RESAMPLES = 20
_BATCH = 256

Cell = tuple[str, str, Hashable]
"""(task, kind of factor, condition): one distribution that is compared."""
Observation = tuple[Cell, str]
"""A factor of one object took this value."""


def observations(
    world: ShapesWorld,
    record: Mapping[str, Any],
    row: Row,
    settings: RuleSettings = DEFAULT_RULES,
) -> list[Observation]:
    """What one image shows of the factors its caption leaves open.

    Of every class the most confident objects count, as many as the caption names. Values are
    conditioned on the class; under "position", where places depend on the relation, on the
    relation and the part played in it.

    Args:
        row: detections with colours for every class the record names.
    """
    record = dict(record)
    threshold = settings.score_threshold(record["tag"])
    clauses = {clause["class"]: clause for clause in record["include"]}
    relation = record["include"][-1].get("position", [None])[0]
    found: list[Observation] = []
    for factor in world.nuisance_factors(record):
        mine = [d for d in row["detections"] if d["label"] == factor.label]
        mine = sorted((d for d in mine if d["score"] > threshold), key=lambda d: -d["score"])
        condition: Hashable = factor.label
        if relation is not None and factor.kind == "place":
            condition = (relation, "position" in clauses[factor.label])
        for item in mine[: factor.count]:
            value = world.factor_value(factor.kind, tuple(item["box"]), item.get("color"))
            found.append(((record["tag"], factor.kind, condition), value))
    return found


def total_variation(a: Counter[str], b: Counter[str]) -> float:
    """Half the summed difference of two empirical distributions, in [0, 1]."""
    n, m = a.total(), b.total()
    # fsum: a set of texts has another order in every process
    return 0.5 * math.fsum(abs(a[value] / n - b[value] / m) for value in a.keys() | b.keys())


class DiversityReference:
    """The data's side: scenes of the same records, rendered and detected once for all methods."""

    def __init__(
        self,
        world: ShapesWorld,
        records: Sequence[Mapping[str, Any]],
        detector: Detector,
        color_classifier: ColorClassifier,
        *,
        settings: RuleSettings = DEFAULT_RULES,
        images_per_prompt: int = REFERENCE_IMAGES,
        seed: int = 0,
    ) -> None:
        """Draw and detect `images_per_prompt` scenes of every record."""
        self.world, self.records, self.settings = world, records, settings
        self.images_per_prompt, self.seed = images_per_prompt, seed
        jobs = [i for i in range(len(records)) for _ in range(images_per_prompt)]
        rng = np.random.default_rng(seed)
        self.by_prompt: list[list[list[Observation]]] = [[] for _ in records]
        for start in range(0, len(jobs), _BATCH):
            chunk = jobs[start : start + _BATCH]
            scenes = [world.scene_for(dict(records[i]), rng) for i in chunk]
            images = list(world.render_batch(scenes))
            detections = detector.detect(images)
            colors = color_classifier.classify(images, detections)
            for i, found, names in zip(chunk, detections, colors, strict=True):
                items = [
                    {"label": d.label, "box": d.box, "score": d.score, "color": name}
                    for d, name in zip(found, names, strict=True)
                ]
                self.by_prompt[i].append(
                    observations(world, records[i], {"detections": items}, settings)
                )

    @classmethod
    def from_observations(
        cls,
        world: ShapesWorld,
        records: Sequence[Mapping[str, Any]],
        by_prompt: list[list[list[Observation]]],
        *,
        settings: RuleSettings = DEFAULT_RULES,
        images_per_prompt: int = REFERENCE_IMAGES,
        seed: int = 0,
    ) -> DiversityReference:
        """A reference whose scenes were detected before.

        Args:
            by_prompt: `by_prompt` of the earlier one: prompt, image, observations.
        """
        reference = cls.__new__(cls)
        reference.world, reference.records, reference.settings = world, records, settings
        reference.images_per_prompt, reference.seed = images_per_prompt, seed
        reference.by_prompt = by_prompt
        return reference

    def measure(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Diversity of a model from its stored detections.

        Args:
            rows: of detections.jsonl; images that were not finite show nothing.

        Returns:
            {"tasks": {task: {kind: {"tv", "tv_data", "objects"}}}, "tv", "tv_data",
            "reference_images_per_prompt"}: total variation to the data, the mean that equally many
            images of the data reach, and the number of objects seen. The outer pair is the mean
            over tasks and kinds.
        """
        images = [
            observations(self.world, self.records[r["prompt_id"]], r, self.settings) for r in rows
        ]
        prompts = [r["prompt_id"] for r in rows]
        everything = _count(o for group in self.by_prompt for image in group for o in image)
        model = _count(o for image in images for o in image)
        measured = _by_factor(model, everything)
        data = self._data_level(prompts, model)
        tasks: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        for (task, kind), tv in measured.items():
            objects = sum(c.total() for cell, c in model.items() if cell[:2] == (task, kind))
            tasks[task][kind] = {
                "tv": tv,
                "tv_data": data.get((task, kind), 0.0),
                "objects": objects,
            }
        leaves = [leaf for kinds in tasks.values() for leaf in kinds.values()]
        if not leaves:
            return {}
        return {
            "tasks": {task: dict(kinds) for task, kinds in tasks.items()},
            "tv": float(np.mean([leaf["tv"] for leaf in leaves])),
            "tv_data": float(np.mean([leaf["tv_data"] for leaf in leaves])),
            "reference_images_per_prompt": self.images_per_prompt,
        }

    def _data_level(
        self, prompts: Sequence[int], model: Mapping[Cell, Counter[str]]
    ) -> dict[tuple[str, str], float]:
        """Mean total variation of samples of the data to the rest of it.

        A sample has as many images per prompt as the model, and no more objects in any cell: a
        model that draws few objects is compared with few.
        """
        wanted = Counter(prompts)
        if max(wanted.values()) >= self.images_per_prompt:
            raise ValueError(
                f"a reference of {self.images_per_prompt} images per prompt cannot judge "
                f"{max(wanted.values())}; ask for a larger one"
            )
        rng = np.random.default_rng(self.seed + 1)
        sums: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(_RESAMPLES):
            sample: list[Observation] = []
            rest: list[Observation] = []
            for prompt_id, group in enumerate(self.by_prompt):
                order = rng.permutation(len(group))
                taken = wanted[prompt_id]
                sample += [o for k in order[:taken] for o in group[k]]
                rest += [o for k in order[taken:] for o in group[k]]
            thinned = _thin(sample, model, rng)
            for factor, tv in _by_factor(_count(thinned), _count(rest)).items():
                sums[factor].append(tv)
        return {factor: float(np.mean(values)) for factor, values in sums.items()}


def _thin(
    seen: Sequence[Observation], model: Mapping[Cell, Counter[str]], rng: np.random.Generator
) -> list[Observation]:
    """At most as many observations of every cell as the model has, drawn at random."""
    left = {cell: counts.total() for cell, counts in model.items()}
    kept = []
    for k in rng.permutation(len(seen)):
        cell = seen[k][0]
        if left.get(cell, 0) > 0:
            left[cell] -= 1
            kept.append(seen[k])
    return kept


def _count(seen: Iterable[Observation]) -> dict[Cell, Counter[str]]:
    counts: dict[Cell, Counter[str]] = defaultdict(Counter)
    for cell, value in seen:
        counts[cell][value] += 1
    return counts


def _by_factor(
    model: Mapping[Cell, Counter[str]], data: Mapping[Cell, Counter[str]]
) -> dict[tuple[str, str], float]:
    """Total variation per (task, kind): the mean over conditions, weighted by the objects seen."""
    sums: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for cell, counts in model.items():
        if cell in data:
            sums[cell[:2]].append((counts.total(), total_variation(counts, data[cell])))
    return {
        factor: sum(n * tv for n, tv in parts) / sum(n for n, _ in parts)
        for factor, parts in sorted(sums.items())
    }
