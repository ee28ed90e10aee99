"""Folders of results, and the facts that a result records of its model and images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.base import ModelFacts, SamplingFacts
from evals.images import FoundImage
from evals.suites.base import Suite
from selfe.generator import TextToImage


def result_folder(
    root: Path, suite: Suite, generator: TextToImage, num_steps: int, seed: int
) -> Path:
    """The folder of a model's result (`result_folder_of`)."""
    sampling = generator.sampling_at(num_steps)
    return result_folder_of(root, suite, generator.facts.digest, sampling, num_steps, seed)


def result_folder_of(
    root: Path, suite: Suite, weights: str, sampling: Mapping[str, Any], num_steps: int, seed: int
) -> Path:
    """The folder of a result: named by suite, split and steps, and by a digest of what else decides
    the images, so that other settings never overwrite it.

    Args:
        weights: digest of the model's weights.
        sampling: the settings that decide an image at this number of steps.
    """
    decisive: list[Any] = [
        weights,
        dict(sampling),
        seed,
        suite.images_per_prompt,
        suite.prompts_sha256,
    ]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    name = "-".join(part for part in (suite.drawn_as or suite.name, suite.split) if part)
    return root / name / f"steps-{num_steps:03d}-{digest}"


def sampling_facts(generator: TextToImage, num_steps: int, seed: int) -> SamplingFacts:
    return SamplingFacts(
        steps=num_steps,
        nfe=generator.nfe(num_steps),
        seed=seed,
        settings=dict(generator.sampling_at(num_steps)),
    )


def own_folder(images: Path, suite: Suite, runs_dir: Path) -> Path:
    """The folder of findings on a user's own folder of images."""
    place = hashlib.sha256(str(images.resolve()).encode()).hexdigest()[:8]
    protocol = f"{len(suite.records)}x{suite.images_per_prompt}-{suite.prompts_sha256[:6]}"
    out = runs_dir / "images" / f"{images.resolve().name}-{place}"
    return out / "-".join(filter(None, (suite.name, suite.split, protocol)))


def facts_of_images(images: Path, found: Sequence[FoundImage]) -> ModelFacts:
    """What is known of the model that drew a user's own images: nothing but the images."""
    contents = hashlib.sha256("".join(image.digest for image in found).encode()).hexdigest()
    sizes = [image.size for image in found if image.path is not None] or [(0, 0)]
    return ModelFacts(
        name=str(images),
        label=images.resolve().name,
        method="images",
        digest=contents,
        resolution=sizes[0][::-1],
    )
