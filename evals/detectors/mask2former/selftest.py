"""Weights, images and answers made of a name, to test the detector without any download.

Everything is drawn from Philox streams of raw integers, which numpy keeps stable for ever, so the
same network can be rebuilt beside any version of torch, transformers or mmdet.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from evals.detectors.mask2former import processing
from evals.suites.geneval import COCO_CLASSES

# A network of the same build, small enough for a test: feature maps of 32 channels.
SMALL = dict(
    embed_dim=16,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    window_size=7,
    feature_size=32,
    attention_heads=4,
    pixel_layers=2,
    pixel_feedforward=64,
    decoder_layers=4,
    decoder_feedforward=64,
    num_queries=24,
    num_classes=80,
)


def uniform(name: str, count: int) -> np.ndarray:
    """(count,) float64 in [0, 1), a function of the name alone."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    raw = np.random.Philox(key=key).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53


def weights_by_name(
    shapes: Mapping[str, tuple[int, ...]], class_gain: float = 1.0, attention_gain: float = 1.0
) -> dict[str, Tensor]:
    """Weights for the names of an mmdet 3 checkpoint (position indices are left out).

    Matrices keep the variance of their input, normalisations stay near 1, the offsets of the
    deformable attention span a few places. `class_gain` multiplies the class head,
    `attention_gain` what the decoder's attentions add to a query: unhindered, nine random layers
    make all hundred queries alike, and then one class and one mask is all there is to compare.
    """
    filled = {}
    for name, shape in shapes.items():
        if name.endswith("relative_position_index"):
            continue
        centred = 2 * uniform(name, math.prod(shape)) - 1
        if len(shape) == 1 and name.endswith("weight"):
            value = 1 + 0.2 * centred
        elif "sampling_offsets.bias" in name:
            value = 3 * centred
        elif len(shape) == 1:
            value = 0.1 * centred
        elif "relative_position_bias_table" in name or "_embed." in name and "cls" not in name:
            value = centred
        else:
            value = centred * math.sqrt(3 / math.prod(shape[1:]))
        if "cls_embed" in name:
            value = class_gain * value
        if "transformer_decoder" in name and ".attn.out_proj." in name:
            value = attention_gain * value
        filled[name] = torch.from_numpy(value.reshape(shape).astype(np.float32))
    return filled


def image_by_name(name: str, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: blocks of flat colour with a little noise, edges everywhere."""
    cells = uniform(f"{name} cells", 8 * 8 * 3).reshape(8, 8, 3) * 230
    rows = np.arange(height) * 8 // height
    columns = np.arange(width) * 8 // width
    noise = uniform(f"{name} noise", height * width * 3).reshape(height, width, 3) * 25
    return (cells[rows][:, columns] + noise).astype(np.uint8)


def check_read_out(device: str | torch.device = "cpu") -> str | None:
    """Three synthetic objects through the real post-processing; what went wrong, or None.

    A mask of logits +8 inside and -8 outside a rectangle, at a quarter of an input of 96 x 128
    whose image part is 90 x 120, must come back as that rectangle in an image twice the size.
    """
    wanted = (
        ("dog", (16, 16, 80, 96), 0.97),
        ("cat", (120, 40, 200, 160), 0.91),
        ("pizza", (0, 96, 64, 176), 0.62),
    )
    class_logits = torch.full((5, len(COCO_CLASSES) + 1), -12.0)
    class_logits[:, -1] = 0.0
    masks = torch.full((5, 24, 32), -8.0)
    for query, (label, (x1, y1, x2, y2), probability) in enumerate(wanted):
        class_logits[query, COCO_CLASSES.index(label)] = math.log(probability / (1 - probability))
        masks[query, round(y1 / 8) : round(y2 / 8), round(x1 / 8) : round(x2 / 8)] = 8.0
    objects = processing.read_out(
        class_logits.to(device),
        masks.to(device),
        padded=(96, 128),
        resized=(90, 120),
        original=(180, 240),
        min_score=0.3,
    )
    found = [COCO_CLASSES[i] for i in objects.labels.tolist()]
    if found != [label for label, _, _ in wanted]:
        return f"found {found} instead of {[label for label, _, _ in wanted]}"
    for row, (label, box, probability) in enumerate(wanted):
        got, score = objects.boxes[row].tolist(), float(objects.scores[row])
        if max(abs(a - b) for a, b in zip(got, box, strict=True)) > 4:
            return f"{label}: box {got} instead of {list(box)}"
        if not probability - 0.06 < score <= probability + 1e-3:
            return f"{label}: score {score:.3f}, class probability {probability}"
    return None
