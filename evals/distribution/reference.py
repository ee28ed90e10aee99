"""Reference sets: the images that distances are taken to, with features computed once."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.distribution.features import FeatureExtractor, image_files
from evals.measure import MeasureOptions
from evals.suites.base import Suite
from selfe.data.shapes_world import open_world
from selfe.files import file_sha256, write_atomically
from selfe.images import DamagedImage, decode_image

SHAPES_IMAGES = 8
"""Rendered scenes per prompt of the shapes world's reference."""
SHAPES_SEED = 0
_CHUNK = 512
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Reference:
    """Features of the reference set, and what a result must record of it.

    Attributes:
        features: (m, dimensions) float32.
        prompts: (m,) the prompt of each image where it has one, else -1.
        facts: where it is, how many images, and a digest of their contents.
    """

    features: np.ndarray
    prompts: np.ndarray
    facts: dict[str, Any]


def open_reference(suite: Suite, extractor: FeatureExtractor, options: MeasureOptions) -> Reference:
    """The user's folder, or renders of the suite's own prompts on the shapes world.

    Raises:
        ValueError: if there is neither, or the folder holds fewer than two pictures.
    """
    if options.reference is not None:
        return folder_reference(options.reference, extractor, options)
    if suite.world_preset:
        return shapes_reference(suite, extractor)
    raise ValueError(
        "a distance needs reference images: give --reference FOLDER with photographs such as "
        f"COCO's (this choice decides the values of {suite.name})"
    )


def shapes_reference(suite: Suite, extractor: FeatureExtractor) -> Reference:
    """Scenes of the suite's own records, rendered as training data are."""
    world = open_world(suite.world_preset)
    rng = np.random.default_rng(SHAPES_SEED)
    prompts = np.repeat(np.arange(len(suite.records)), SHAPES_IMAGES)
    parts = []
    for start in range(0, len(prompts), _CHUNK):
        chosen = prompts[start : start + _CHUNK]
        scenes = [world.scene_for(dict(suite.records[i]), rng) for i in chosen]
        parts.append(extractor.features(list(world.render_batch(scenes))))
    facts = {
        "reference": f"{SHAPES_IMAGES} rendered scenes of every prompt, seed {SHAPES_SEED}",
        "images": len(prompts),
    }
    return Reference(np.concatenate(parts), prompts, facts)


def folder_reference(
    folder: Path, extractor: FeatureExtractor, options: MeasureOptions
) -> Reference:
    """Every picture below a folder; features are kept in `options.cache`, part by part."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of reference images")
    files = image_files(folder)
    if len(files) < 2:
        raise ValueError(f"{folder} holds {len(files)} pictures; a reference set needs thousands")
    contents = [file_sha256(path) for path in files]
    digest = hashlib.sha256("".join(contents).encode()).hexdigest()
    identity = json.dumps([extractor.identity, dict(extractor.settings)], sort_keys=True)
    place = hashlib.sha256(identity.encode()).hexdigest()
    kept = options.cache / f"{digest[:16]}-{extractor.name}-{place[:12]}"
    kept.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(files), _CHUNK):
        parts.append(
            _part(
                kept / f"{start:07d}.features",
                lambda start=start: _features(  # type: ignore[misc]
                    files[start : start + _CHUNK], extractor, options.batch_size
                ),
            )
        )
    facts = {"reference": folder.name, "sha256": digest, "images": len(files)}
    return Reference(np.concatenate(parts), np.full(len(files), -1), facts)


def _part(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that was kept; one that is not as it was written is computed again."""
    part = _kept(path)
    if part is None:
        part = compute()
        buffer = io.BytesIO()
        np.save(buffer, part)
        content = buffer.getvalue()
        write_atomically(path, _digest(path, content) + content)
    return part


def _kept(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if _digest(path, content) != digest:
        return None
    part: np.ndarray = np.load(io.BytesIO(content))
    return part


def _digest(path: Path, content: bytes) -> bytes:
    """Of the content and of its place, which says what it is of."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode() + content).digest()


def _features(files: Sequence[Path], extractor: FeatureExtractor, batch_size: int) -> np.ndarray:
    return np.concatenate([extractor.features(batch) for batch in _same_sizes(files, batch_size)])


def _same_sizes(files: Sequence[Path], batch_size: int) -> Iterator[list[np.ndarray]]:
    """Consecutive pictures of one size, at most so many."""
    batch: list[np.ndarray] = []
    for path in files:
        image = _read(path)
        if batch and (batch[0].shape != image.shape or len(batch) == batch_size):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _read(path: Path) -> np.ndarray:
    try:
        return np.asarray(decode_image(path.read_bytes()))
    except DamagedImage as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); take it out of the set") from None
