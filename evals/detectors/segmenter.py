"""The network of the shapes world's detector."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from selfe.data.shapes_world import PRESETS

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
