"""Detector and colour classifier of the shapes world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from evals.base import Detection
from selfe.data.shapes_world import COLORS, PRESETS
from selfe.encoders.shapes import read_checked_weights

ASSETS = Path(__file__).resolve().parent.parent / "assets"
# Trained on softened targets, the networks are less sure than they are right. These factors on the
# logits lift whole shapes above 0.9, GenEval's threshold for counting; chosen on clean renders.
SHARPNESS = {"grid": 1.5, "free": 2.25}
WIDTHS = {"grid": (16, 32, 48), "free": (24, 40, 56)}
FOLDS = {"grid": 1, "free": 2}


class ShapesSegmenter(nn.Module):
    """A small U-Net: (B, 3, H, W) in [-1, 1] -> (B, C + 2, H, W) logits per pixel.

    Channel 0 is background, channels 1 to C are the classes, channel C + 1 is whatever is no whole
    shape. With fold = 2 it works on squares of 2x2 pixels and enlarges its logits linearly. H and
    W are multiples of fold * 2 ** (number of widths - 1).
    """

    def __init__(self, widths: Sequence[int], num_classes: int, fold: int = 1) -> None:
        super().__init__()
        self.fold = fold
        self.stem = _conv(3 * fold * fold, widths[0])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(_conv(a, b, stride=2), _conv(b, b)) for a, b in pairs
        )
        self.middle = _conv(widths[-1], widths[-1])
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in reversed(pairs))
        self.up = nn.ModuleList(_conv(a, a) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(widths[0], num_classes + 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(x, self.fold))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for narrow, up, skip in zip(self.narrow, self.up, reversed(skips), strict=True):
            x = up(skip + F.interpolate(narrow(x), scale_factor=2))
        x = self.head(x)
        if self.fold == 1:
            return x
        return F.interpolate(x, scale_factor=self.fold, mode="bilinear")


def build_segmenter(preset: str) -> ShapesSegmenter:
    """The untrained network of a preset."""
    return ShapesSegmenter(WIDTHS[preset], len(PRESETS[preset].shapes), FOLDS[preset])


def _conv(a: int, b: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
    )


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
        state, facts, digest = read_checked_weights(folder, f"shapes_detector_{preset}.safetensors")
        self.preset = PRESETS[preset]
        self.classes: Sequence[str] = self.preset.shapes
        self.identity = f"shapes-{preset}@1:{digest[:12]}"
        self.min_area = int(facts["min_area"])
        self.device = device
        self.network = build_segmenter(preset)
        self.network.load_state_dict(state)
        self.network.eval().requires_grad_(False).to(device)

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        found: list[list[Detection]] = []
        for start in range(0, len(images), self.batch_size):
            found += self._detect_batch(images[start : start + self.batch_size])
        return found

    def _detect_batch(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        side = self.preset.image_size
        for image in images:
            if image.shape != (side, side, 3) or image.dtype != np.uint8:
                raise ValueError(
                    f"the shapes detector of preset {self.preset.name!r} takes uint8 images of "
                    f"({side}, {side}, 3), got {image.dtype} {image.shape}"
                )
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device)
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
