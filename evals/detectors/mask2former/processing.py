"""What mmdet does before and after the network, in torch: resizing, padding, reading out objects.

Two versions of the preparation exist. mmdet 3.x resizes in floating point and pads the normalised
image with 0; mmdet 2.x, which GenEval was published with, resizes in 8 bits and pads with grey
(128) before normalising. Square images need no padding at 800 x 800, so there the two differ by
the rounding only.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Preparation = Literal["mmdet-3", "mmdet-2"]

LONG_EDGE, SHORT_EDGE = 1333, 800
PAD_MULTIPLE = 32
# Red, green, blue; the files list them so, and mmdet turns its BGR images round before using them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class Objects(NamedTuple):
    """What one image holds, by falling score.

    labels (N,) int64; scores (N,) float32 in [0, 1]; boxes (N, 4) float32, x1 y1 x2 y2 in pixels
    with x2 and y2 one past the last pixel; masks (N, H, W) bool.
    """

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor


def resized_shape(
    height: int, width: int, long_edge: int = LONG_EDGE, short_edge: int = SHORT_EDGE
) -> tuple[int, int]:
    """The largest size of the same shape within (long_edge, short_edge), as mmcv rounds it."""
    factor = min(long_edge / max(height, width), short_edge / min(height, width))
    return int(height * float(factor) + 0.5), int(width * float(factor) + 0.5)


def resize_bilinear(images: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W) float32 -> (B, C, height, width), as OpenCV's linear interpolation.

    Like torch's without antialiasing, but places are computed in double precision and the two
    axes one after the other, so that results equal OpenCV 5's to the last bits. OpenCV 4 rounds
    places to single precision, which comes to 0.005 of 256 grey levels in images 1,000 wide.
    """
    if images.shape[-2:] == (height, width):
        return images
    low, high, weight = _places(images.shape[-1], width, images.device)
    images = images[..., low] * (1 - weight) + images[..., high] * weight
    low, high, weight = _places(images.shape[-2], height, images.device)
    weight = weight[:, None]
    return images[..., low, :] * (1 - weight) + images[..., high, :] * weight


def _places(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    low = np.floor(place).astype(np.int64)
    weight = place - low
    weight[(low < 0) | (low >= old - 1)] = 0
    low = low.clip(0, old - 1)
    high = (low + 1).clip(0, old - 1)
    return (
        torch.from_numpy(low).to(device),
        torch.from_numpy(high).to(device),
        torch.from_numpy(weight.astype(np.float32)).to(device),
    )


def prepare(
    images: Tensor,
    preparation: Preparation = "mmdet-3",
    long_edge: int = LONG_EDGE,
    short_edge: int = SHORT_EDGE,
) -> tuple[Tensor, tuple[int, int]]:
    """(B, H, W, 3) uint8 RGB of one size -> the network's input and the size before padding.

    Returns:
        (B, 3, H', W') float32, normalised, padded at the right and below to multiples of 32;
        and (height, width) of the part that is image.
    """
    height, width = resized_shape(images.shape[1], images.shape[2], long_edge, short_edge)
    pixels = resize_bilinear(images.permute(0, 3, 1, 2).float(), height, width)
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(STD, device=pixels.device)[:, None, None]
    pad = (0, -width % PAD_MULTIPLE, 0, -height % PAD_MULTIPLE)
    if preparation == "mmdet-2":
        pixels = F.pad(pixels.round().clamp(0, 255), pad, value=128.0)
        return (pixels - mean) / std, (height, width)
    return F.pad((pixels - mean) / std, pad), (height, width)


def read_out(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
    top: int = 100,
    min_score: float = 0.0,
) -> Objects:
    """Objects of one image out of the network's answers, as mmdet's instance mode reads them.

    The `top` best pairs of class and query are kept; each is scored by its class probability times
    the mean mask probability inside the mask; boxes are drawn round masks.

    Args:
        class_logits: (Q, C + 1), "no object" last.
        mask_logits: (Q, h, w) at a quarter of the padded size.
        padded, resized, original: (height, width) of the input, of its image part, of the image.
        min_score: pairs whose class probability (an upper bound of the score) or score is below
            are left out before the costly part.
    """
    num_classes = class_logits.shape[-1] - 1
    probability = _single_or_double(class_logits).softmax(dim=-1)[:, :-1].flatten()
    class_score, pair = probability.topk(min(top, probability.numel()), sorted=False)
    if min_score > 0:
        pair, class_score = pair[class_score >= min_score], class_score[class_score >= min_score]
    queries, position = (pair // num_classes).unique(return_inverse=True)
    if len(queries):
        logits = _at_original_size(
            _single_or_double(mask_logits[queries]), padded, resized, original
        )
    else:
        logits = mask_logits.new_zeros((0, *original), dtype=torch.float32)
    masks = logits > 0
    area = masks.flatten(1).sum(1).float()
    certainty = (logits.sigmoid() * masks).flatten(1).sum(1) / (area + 1e-6)
    boxes = boxes_round(masks)

    scores = class_score * certainty[position]
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= min_score]
    rows = position[order]
    return Objects((pair % num_classes)[order], scores[order], boxes[rows], masks[rows])


def _single_or_double(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _at_original_size(
    logits: Tensor, padded: tuple[int, int], resized: tuple[int, int], original: tuple[int, int]
) -> Tensor:
    """Two interpolations, as mmdet: to the padded input, cut, and from there to the image."""
    logits = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)
    logits = logits[..., : resized[0], : resized[1]]
    return F.interpolate(logits, size=original, mode="bilinear", align_corners=False)[0]


def boxes_round(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) float32: x1, y1, x2, y2, the latter one past; empty masks give 0."""
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    x1, x2 = _span(columns)
    y1, y2 = _span(rows)
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def _span(hit: Tensor) -> tuple[Tensor, Tensor]:
    """(N, L) bool -> first True and one past the last True of each row, 0 and 0 without any."""
    if not len(hit):
        empty = torch.zeros(0, dtype=torch.long, device=hit.device)
        return empty, empty
    length = hit.shape[1]
    first = hit.int().argmax(dim=1)
    last = length - hit.flip(1).int().argmax(dim=1)
    found = hit.any(dim=1)
    return first * found, last * found
