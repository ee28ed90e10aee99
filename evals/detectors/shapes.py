"""Detector and colour classifier of the shapes world."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.base import Detection
from evals.detectors.batches import checked_batches
from selfe.data.shapes_world import COLORS, PRESETS
from selfe.packaged_weights import read_packaged_weights

if TYPE_CHECKING:  # where every image is judged already, nothing is loaded
    from evals.detectors.segmenter import ShapesSegmenter

ASSETS = Path(__file__).resolve().parent.parent / "assets"
# Trained on softened targets, the networks are less sure than they are right. These factors on the
# logits lift whole shapes above 0.9, GenEval's threshold for counting; chosen on clean renders.
SHARPNESS = {"grid": 1.5, "free": 2.25}


class ShapesDetector:
    """`Detector`: per-pixel classes, then connected regions of one class.

    The score of a region is the mean over its pixels of the probability of its class less that of
    the strongest rival, given that the pixel is no background (rims are background in part): near
    1 on a clean shape, low on blurred, torn or mixed ones, for which the network has a rival class
    of its own. Regions under a third of the area of the preset's smallest shape are dropped.

    Raises:
        ValueError: where weights are missing or do not match their checksum, or an image has
            another size than the preset's.
    """

    def __init__(
        self,
        preset: str = "grid",
        device: str = "cpu",
        folder: Path = ASSETS,
        batch_size: int = 64,
    ) -> None:
        self.batch_size = batch_size
        self._weights = read_packaged_weights(folder, f"shapes_detector_{preset}.safetensors")
        self.preset = PRESETS[preset]
        self.classes: Sequence[str] = self.preset.shapes
        self.identity = f"shapes-{preset}@1:{self._weights.digest[:12]}"
        self.min_area = int(self._weights.facts["min_area"])
        self.device = device

    @cached_property
    def network(self) -> ShapesSegmenter:
        """Built where it is first used: images that are judged already need no torch."""
        from evals.detectors.segmenter import build_segmenter

        network = build_segmenter(self.preset.name)
        network.load_state_dict(self._weights.tensors())
        return network.eval().requires_grad_(False).to(self.device)

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        side, name = self.preset.image_size, self.preset.name
        return [
            found
            for batch in checked_batches(images, side, name, self.batch_size)
            for found in self._detect_batch(batch)
        ]

    def _detect_batch(self, images: np.ndarray) -> list[list[Detection]]:
        import torch

        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        with torch.inference_mode():
            logits = self.network(x.float() / 127.5 - 1.0)
            label_bhw = logits.argmax(dim=1).cpu().numpy()
            top = (SHARPNESS[self.preset.name] * logits[:, 1:]).softmax(dim=1).topk(2, dim=1).values
            margin_bhw = (top[:, 0] - top[:, 1]).cpu().numpy()
        return find_regions(label_bhw, margin_bhw, self.classes, self.min_area)


def find_regions(
    label_bhw: np.ndarray, margin_bhw: np.ndarray, classes: Sequence[str], min_area: int
) -> list[list[Detection]]:
    """Four-connected regions of equal class in (B, H, W) label maps, as detections per image.

    Label 0 is background; labels beyond the classes are ignored.
    """
    from scipy import ndimage  # which takes as long to load as everything else here

    # One labelling for the whole batch and all classes: pixels of different images or classes are
    # kept apart by giving every class a plane of its own and connecting within planes only.
    planes = np.arange(1, len(classes) + 1)[None, :, None, None] == label_bhw[:, None]
    b, c, h, w = planes.shape
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    regions, count = ndimage.label(planes.reshape(b * c, h, w), structure=in_plane)
    found: list[list[Detection]] = [[] for _ in range(b)]
    if count == 0:
        return found
    area = np.bincount(regions.ravel(), minlength=count + 1)
    margin = np.broadcast_to(margin_bhw[:, None], planes.shape).ravel()
    score = np.bincount(regions.ravel(), weights=margin, minlength=count + 1) / area
    for number, window in enumerate(ndimage.find_objects(regions), start=1):
        if area[number] < min_area:
            continue
        plane, rows, cols = window
        n, label = divmod(plane.start, c)
        mask = np.zeros((h, w), bool)
        mask[rows, cols] = regions[plane.start, rows, cols] == number
        found[n].append(
            Detection(
                label=classes[label],
                box=(float(cols.start), float(rows.start), float(cols.stop), float(rows.stop)),
                score=float(np.clip(score[number], 0.0, 1.0)),
                mask=mask,
            )
        )
    for detections in found:
        detections.sort(key=lambda d: -d.score)
    return found


class ShapesColorClassifier:
    """`ColorClassifier`: the median colour of the mask, and the nearest of ten in CIE Lab.

    Where a mask has an interior (pixels whose four neighbours belong to it, at least 4 of them),
    only the interior counts: the rim is mixed with the background. Nothing is trained.
    """

    identity = "shapes-lab-median@1"

    def __init__(self, device: str = "cpu") -> None:  # numpy does it all, whatever the device
        self.names = tuple(COLORS)
        self._reference = srgb_to_lab(np.array(list(COLORS.values()), np.float64))

    def classify(
        self, images: Sequence[np.ndarray], detections: Sequence[Sequence[Detection]]
    ) -> list[list[str]]:
        return [
            [self._classify_one(image, detection) for detection in row]
            for image, row in zip(images, detections, strict=True)
        ]

    def _classify_one(self, image: np.ndarray, detection: Detection) -> str:
        if detection.mask is None:
            raise ValueError("classifying colours needs detections with masks: detect again")
        x1, y1, x2, y2 = (int(v) for v in detection.box)
        mask = np.pad(detection.mask[y1:y2, x1:x2], 1)
        inner = (
            mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        )
        chosen = inner if inner.sum() >= 4 else mask[1:-1, 1:-1]
        lab = srgb_to_lab(np.median(image[y1:y2, x1:x2][chosen], axis=0)[None].astype(np.float64))
        return self.names[int(((self._reference - lab) ** 2).sum(1).argmin())]


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB values in [0, 255] -> (N, 3) CIE L*a*b* under D65."""
    c = rgb / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )
