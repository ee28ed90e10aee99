"""Judging images that lie in memory, without a folder: the part of GenEval that a reward needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.base import ColorClassifier, Detection, Detector
from evals.scoring.detect import DetectionParts, find_and_color
from evals.scoring.detections import FAILED_REASON
from evals.suites.rules import DEFAULT_RULES, RuleSettings, judge

CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Verdict:
    """What was decided of one image, and why.

    Attributes:
        correct: whether every clause of the record is met.
        reason: "" for a correct image, else a line per broken clause.
        met: share of the record's clauses that are met, in [0, 1]: a softer reward.
        prompt, tag: of the record.
        detections: everything found above the stored score, the most confident first; colours
            where a clause asks for one.
    """

    correct: bool
    reason: str
    met: float
    prompt: str
    tag: str
    detections: tuple[Detection, ...] = ()

    def __bool__(self) -> bool:
        return self.correct


def as_array(image: Any) -> np.ndarray | None:
    """An image as uint8 (H, W, 3); None where it holds a number that is not finite.

    Args:
        image: a PIL image; or numpy array or tensor, (H, W, 3) or (3, H, W), uint8 in [0, 255] or
            floating point in [0, 1]. One channel is repeated, a fourth (alpha) is left out.

    Raises:
        ValueError: for another shape or range.
    """
    if hasattr(image, "convert"):  # PIL
        return np.asarray(image.convert("RGB"))
    if hasattr(image, "detach"):  # torch; bf16 has no counterpart in numpy
        image = image.detach()
        image = (image.float() if image.is_floating_point() else image).cpu().numpy()
    if isinstance(image, str | Path):
        raise ValueError(f"{image} is the name of a file: open it with PIL.Image.open")
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(f"an image has 3 dimensions, (H, W, 3) or (3, H, W); got {array.shape}")
    if array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.shape[-1] not in CHANNELS:
        raise ValueError(f"an image has 1, 3 or 4 channels, first or last; got {array.shape}")
    if not array.size:
        raise ValueError(f"an image without pixels, of shape {array.shape}")
    array = array[..., :3] if array.shape[-1] != 1 else np.repeat(array, 3, axis=-1)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"an image is uint8 in [0, 255] or floating point in [0, 1]; got {array.dtype}"
        )
    if not np.isfinite(array).all():
        return None
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise ValueError(
            f"a floating point image lies in [0, 1]; this one in [{array.min():.3g}, "
            f"{array.max():.3g}]: rescale it, (x + 1) / 2 for one in [-1, 1]"
        )
    return (array.clip(0, 1) * 255).round().astype(np.uint8)


def judge_images(
    images: Sequence[np.ndarray | None],
    records: Sequence[Mapping[str, Any]],
    detector: Detector,
    color_classifier: ColorClassifier,
    *,
    rules: RuleSettings = DEFAULT_RULES,
    batch_size: int = 16,
) -> list[Verdict]:
    """One verdict per image, in order; the same that a folder of these images would get.

    Args:
        images: uint8 (H, W, 3), of any sizes; None is wrong because it is not finite.
        records: of each image, as GenEval's metadata have them.
        batch_size: images of one size that the detector is given at once.
    """
    parts = DetectionParts(detector, color_classifier, max_objects=rules.max_objects)
    found: dict[int, list[Detection]] = {}
    sizes: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        if image is not None:
            sizes.setdefault(image.shape, []).append(place)
    for places in sizes.values():
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            chosen = [image for place in batch if (image := images[place]) is not None]
            detected, colors = find_and_color(chosen, [records[i] for i in batch], parts)
            for place, objects, names in zip(batch, detected, colors, strict=True):
                found[place] = [
                    d.model_copy(update={"color": names.get(n), "mask": None})
                    for n, d in enumerate(objects)
                ]
    return [_verdict(record, found.get(i), rules) for i, record in enumerate(records)]


def _verdict(
    record: Mapping[str, Any], found: list[Detection] | None, rules: RuleSettings
) -> Verdict:
    prompt, tag = str(record.get("prompt", "")), str(record["tag"])
    if found is None:
        return Verdict(False, FAILED_REASON, 0.0, prompt, tag)
    correct, reason = judge(record, found, rules)
    clauses = len(record["include"]) + len(record.get("exclude", ()))
    broken = len(reason.splitlines())
    return Verdict(correct, reason, 1 - broken / clauses, prompt, tag, tuple(found))
