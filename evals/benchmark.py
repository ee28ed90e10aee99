"""One model, one number of steps, one suite: images drawn, detected, judged, and written down."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evals.base import TASKS, ModelFacts, SamplingFacts
from evals.suites.base import Suite
from selfe.generator import GeneratorFacts, TextToImage

Progress = Callable[[str, int, int], None]


def limited(suite: Suite, per_task: int | None) -> Suite:
    """The first `per_task` prompts of every task: a smaller protocol, never mixed with the whole.

    Raises:
        ValueError: if `per_task` is below 1.
    """
    if per_task is None:
        return suite
    if per_task < 1:
        raise ValueError(f"--limit must be at least 1 prompt per task, got {per_task}")
    kept: list[int] = []
    for task in TASKS:
        kept += [i for i, r in enumerate(suite.records) if r["tag"] == task][:per_task]
    kept.sort()
    place = {old: new for new, old in enumerate(kept)}
    groups = {
        name: tuple(place[i] for i in members if i in place)
        for name, members in suite.groups.items()
    }
    return dataclasses.replace(
        suite,
        records=[suite.records[i] for i in kept],
        groups={name: members for name, members in groups.items() if members},
    )


def result_folder(
    root: Path, suite: Suite, generator: TextToImage, num_steps: int, seed: int
) -> Path:
    """Where a result lies: named by suite, split and steps, and by a digest of what else decides
    the images, so that other settings never overwrite it."""
    decisive: list[Any] = [
        generator.facts.digest,
        dict(generator.sampling_at(num_steps)),
        seed,
        suite.images_per_prompt,
        suite.prompts_sha256,
    ]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    name = "-".join(part for part in (suite.name, suite.split) if part)
    return root / name / f"steps-{num_steps:03d}-{digest}"


def model_facts(facts: GeneratorFacts) -> ModelFacts:
    values = dataclasses.asdict(facts)
    values.pop("sampling")
    return ModelFacts(**{**values, "training": dict(facts.training)})


def sampling_facts(generator: TextToImage, num_steps: int, seed: int) -> SamplingFacts:
    return SamplingFacts(
        steps=num_steps,
        nfe=generator.nfe(num_steps),
        seed=seed,
        settings=dict(generator.sampling_at(num_steps)),
    )
