"""The data's side of diversity, kept on disk because detecting it takes longer than judging a small
model.

A file is named by everything its contents depend on: the world and how it renders, the records,
detector, classifier, thresholds, number of images and seed. A damaged file is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.base import ColorClassifier, Detector
from evals.scoring.diversity import DiversityReference, Observation
from evals.suites.rules import DEFAULT_RULES
from selfe.data.shapes_world import ShapesWorld
from selfe.files import writable_cache, write_atomically
from selfe.json_files import parse_json

_FORMAT = 1
_PROBES = 24
"""Scenes whose pixels stand for the renderer in the name of a file."""


def stored_reference(
    world: ShapesWorld,
    records: Sequence[Mapping[str, Any]],
    detector: Detector,
    color_classifier: ColorClassifier,
    *,
    images_per_prompt: int,
    folder: Path | None = None,
) -> DiversityReference:
    """The reference of `DiversityReference`, read from disk where it was made before.

    Args:
        folder: where references are kept; None for the user's cache, and for no keeping where
            there is none that can be written.
    """
    folder = folder or writable_cache("diversity")
    key = _key(world, records, detector, color_classifier, images_per_prompt)
    path = None if folder is None else folder / f"{key}.json"
    kept = None if path is None else _read(path, len(records))
    if kept is not None:
        return DiversityReference.from_observations(
            world, records, kept, images_per_prompt=images_per_prompt
        )
    made = DiversityReference(
        world, records, detector, color_classifier, images_per_prompt=images_per_prompt
    )
    if path is not None:
        _write(path, made.by_prompt)
    return made


def _key(
    world: ShapesWorld,
    records: Sequence[Mapping[str, Any]],
    detector: Detector,
    color_classifier: ColorClassifier,
    images_per_prompt: int,
) -> str:
    rng = np.random.default_rng(0)
    places = np.linspace(0, len(records) - 1, min(_PROBES, len(records))).astype(int)
    scenes = [world.scene_for(dict(records[i]), rng) for i in places]
    pixels = hashlib.sha256(np.ascontiguousarray(world.render_batch(scenes)).tobytes())
    parts = [
        _FORMAT,
        world.preset.name,
        pixels.hexdigest(),
        [dict(record) for record in records],
        detector.identity,
        color_classifier.identity,
        repr(DEFAULT_RULES),
        images_per_prompt,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(path: Path, by_prompt: Sequence[Sequence[Sequence[Observation]]]) -> None:
    body = json.dumps(by_prompt, separators=(",", ":"))
    digest = _checksum(path, body)
    write_atomically(path, f"{digest}\n{body}\n")


def _read(path: Path, prompts: int) -> list[list[list[Observation]]] | None:
    """The observations of a file; None where there is none, or it is not as it was written."""
    try:
        digest, _, body = path.read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    body = body.removesuffix("\n")
    if _checksum(path, body) != digest:
        return None
    by_prompt = [
        [[_observation(o) for o in image] for image in group] for group in parse_json(body, path)
    ]
    return by_prompt if len(by_prompt) == prompts else None


def _checksum(path: Path, body: str) -> str:
    """Of the content and of the name, which says what it is of."""
    return hashlib.sha256(f"{path.name}\n{body}".encode()).hexdigest()


def _observation(value: Any) -> Observation:
    (task, kind, condition), seen = value
    return (task, kind, _hashable(condition)), seen


def _hashable(value: Any) -> Hashable:
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
