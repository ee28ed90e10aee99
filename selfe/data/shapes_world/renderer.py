"""Anti-aliased drawing of many scenes at once, by signed distances.

Every object is drawn in its own small patch; patches of one shape are computed together, then laid
over the images slot by slot. Coordinates: pixel (row i, column j) has its centre at
(x, y) = (j + 0.5, i + 0.5), x to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from selfe.data.shapes_world.scenes import Scene
from selfe.data.shapes_world.vocabulary import COLORS, Preset

# Signed distance in units of the radius, negative inside, of points (x, y) in the same units.
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 0.95


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, 0.85, 0.85)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Isosceles, point up: from (0, -0.95) to (+-1, 0.85)."""
    slope = np.hypot(1.8, 1.0)
    return np.maximum(y - 0.85, (1.8 * np.abs(x) - (y + 0.95)) / slope)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points, one up; the plane is folded onto half a point."""
    outer, inner = 1.0, 0.42
    angle = np.arctan2(x, -y)
    sector = 2 * np.pi / 5
    folded = np.abs((angle + sector / 2) % sector - sector / 2)
    r = np.sqrt(x * x + y * y)
    px, py = r * np.cos(folded), r * np.sin(folded)
    # Distance to the line through the tip (outer, 0) and the notch beside it.
    ex, ey = outer - inner * np.cos(sector / 2), -inner * np.sin(sector / 2)
    return (ex * py - ey * (px - outer)) / np.hypot(ex, ey)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Upright plus."""
    return np.minimum(_box(x, y, 0.95, 0.32), _box(x, y, 0.32, 0.95))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.74) - 0.24


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) + 0.7 * np.abs(y) - 0.7) / np.hypot(1.0, 0.7)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two discs over a downward wedge tangent to them."""
    ax = np.abs(x)
    lobe = np.hypot(ax - 0.45, y + 0.35) - 0.5
    wedge = np.maximum(-(y + 0.35), (ax * 0.75 + y * 0.66 - 0.62))
    return np.minimum(lobe, np.maximum(wedge, ax - 0.95))


def _moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A crescent open to the right."""
    return np.maximum(np.sqrt(x * x + y * y) - 0.95, 0.72 - np.sqrt((x - 0.5) * (x - 0.5) + y * y))


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pointing right: a shaft and a head."""
    shaft = np.maximum(np.abs(y) - 0.24, np.abs(x + 0.4) - 0.55)
    head = np.maximum(-x, (np.abs(y) * 0.95 + (x - 0.95) * 0.9) / np.hypot(0.95, 0.9))
    return np.minimum(shaft, head)


def _frame(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A hollow square."""
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.68) - 0.2


def _pill(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An upright capsule."""
    rest = np.maximum(np.abs(y) - 0.55, 0.0)
    return np.sqrt(x * x + rest * rest) - 0.4


DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "heart": _heart,
    "moon": _moon,
    "arrow": _arrow,
    "frame": _frame,
    "pill": _pill,
}


def object_distances(
    preset: Preset, shapes: np.ndarray, cx: np.ndarray, cy: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distances of n objects, each in a window of its own that lies inside the image.

    Args:
        shapes: (n,) indices into `preset.shapes`.
        cx, cy, radius: (n,) pixels.

    Returns:
        (n, p, p) float32 distances in pixels, negative inside; the (n, p) int row numbers and the
        (n, p) int column numbers of the windows.
    """
    p = int(np.ceil(2 * preset.radius[1])) + 3
    steps = np.arange(p)
    top = np.clip(np.floor(cy - p / 2 + 0.5), 0, preset.image_size - p).astype(np.int64)
    left = np.clip(np.floor(cx - p / 2 + 0.5), 0, preset.image_size - p).astype(np.int64)
    rows, cols = top[:, None] + steps, left[:, None] + steps
    r = radius.astype(np.float32)[:, None, None]
    y = (rows + 0.5 - cy[:, None]).astype(np.float32)[:, :, None] / r
    x = (cols + 0.5 - cx[:, None]).astype(np.float32)[:, None, :] / r
    out = np.empty((len(shapes), p, p), np.float32)
    for index, name in enumerate(preset.shapes):
        k = np.flatnonzero(shapes == index)
        if len(k):
            grid = (len(k), p, p)
            out[k] = DISTANCES[name](np.broadcast_to(x[k], grid), np.broadcast_to(y[k], grid))
    return out * r, rows, cols


def coverage(distance: np.ndarray) -> np.ndarray:
    """Share of a pixel that is covered, in [0, 1], from the distance at its centre."""
    return np.clip(0.5 - distance, 0.0, 1.0)


def render_batch(preset: Preset, scenes: Sequence[Scene]) -> np.ndarray:
    """Scenes -> (N, H, W, 3) uint8 images."""
    size = preset.image_size
    images = np.empty((len(scenes), size, size, 3), np.float32)
    images[:] = np.array([scene.background for scene in scenes], np.float32)[:, None, None, None]
    order = {name: index for index, name in enumerate(preset.shapes)}
    flat = [
        (n, slot, order[o.shape], o.cx, o.cy, o.radius, *COLORS[o.color])
        for n, scene in enumerate(scenes)
        for slot, o in enumerate(scene.objects)
    ]
    if flat:
        table = np.array(flat, np.float64)
        owner, slots = table[:, 0].astype(np.int64), table[:, 1]
        distance, rows, cols = object_distances(
            preset, table[:, 2].astype(np.int64), table[:, 3], table[:, 4], table[:, 5]
        )
        alpha = coverage(distance)
        rgb = table[:, 6:].astype(np.float32)
        # One slot at a time: within a slot each image appears once, so no write is lost.
        for slot in np.unique(slots):
            k = np.flatnonzero(slots == slot)
            where = (owner[k, None, None], rows[k, :, None], cols[k, None, :])
            below = images[where]
            below += alpha[k, :, :, None] * (rgb[k, None, None, :] - below)
            images[where] = below
    return np.rint(images).astype(np.uint8)
