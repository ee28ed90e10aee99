"""Train the shapes detector of a preset from nothing, and write its weights with a checksum.

    python -m scripts.weights.shapes_detector --preset grid
    python -m scripts.weights.shapes_detector --preset free --batch 48 --steps 1000

About three minutes each on one core with bf16 instructions. The network sees whole shapes at free
positions, blurred and noisy ones among them, and, as a class of their own, what a generator may
leave half done: two shapes morphed into each other, torn shapes, blobs, faint or very blurred
shapes. It never sees images of a generator or of the autoencoder. Writes
evals/assets/shapes_detector_PRESET.safetensors and its entry in evals/assets/shapes_weights.json.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from evals.detectors.segmenter import build_segmenter
from evals.detectors.shapes import ASSETS
from scripts.weights.shapes_vae import write_weights
from selfe.data.shapes_world import COLORS, PRESETS, Preset, Scene, ShapesWorld
from selfe.data.shapes_world.renderer import coverage, object_distances
from selfe.data.shapes_world.scenes import ShapeObject

TRAIN_STREAM, QUALITY_STREAM = 201, 202
RGB = np.array(list(COLORS.values()), np.float32)


def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high` on, linear between."""
    return np.clip((value - low) / (high - low), 0.0, 1.0)


def scattered_scene(world: ShapesWorld, rng: np.random.Generator) -> Scene:
    """Up to four objects of any class and colour, anywhere, a little smaller and larger too."""
    low, high = world.preset.radius
    objects: list[ShapeObject] = []
    for _ in range(int(rng.integers(0, 5))):
        r = float(rng.uniform(0.9 * low, high))
        cx, cy = rng.uniform(r, world.image_size - r, 2).tolist()
        if all(max(abs(cx - o.cx), abs(cy - o.cy)) >= r + o.radius for o in objects):
            shape = world.shapes[int(rng.integers(len(world.shapes)))]
            color = world.colors[int(rng.integers(len(world.colors)))]
            objects.append(ShapeObject(shape, color, cx, cy, r))
    return Scene({}, tuple(objects), float(rng.uniform(100, 156)))


def training_batch(world: ShapesWorld, step: int, batch: int) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [-1, 1], and the target distribution per pixel (B, C + 2, H, W)."""
    rng = np.random.default_rng([TRAIN_STREAM, step])
    scenes = [
        world.training_example(TRAIN_STREAM, step * batch + n)
        if n % 2
        else scattered_scene(world, rng)
        for n in range(batch)
    ]
    preset, size = world.preset, world.image_size
    images = np.empty((batch, size, size, 3), np.float32)
    images[:] = np.array([s.background for s in scenes], np.float32)[:, None, None, None]
    target = np.zeros((batch, len(preset.shapes) + 2, size, size), np.float32)
    target[:, 0] = 1.0
    draw_objects(preset, scenes, images, target, rng)
    blur_images(preset, images, target, rng)
    noise = rng.standard_normal(images.shape, np.float32)
    images += noise * rng.uniform(0, 14, (batch, 1, 1, 1)).astype(np.float32)
    coarse = rng.standard_normal((batch, 3, 4, 4), np.float32)
    coarse *= rng.uniform(0, 10, (batch, 1, 1, 1)).astype(np.float32)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = x + F.interpolate(torch.from_numpy(coarse), size=(size, size), mode="bilinear")
    x = x.round().clamp(0, 255) / 127.5 - 1.0
    return x, torch.from_numpy(target)


def draw_objects(
    preset: Preset,
    scenes: list[Scene],
    images: np.ndarray,
    target: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Lay the objects over `images` and write their classes into `target`, both in place."""
    flat = [(n, o) for n, scene in enumerate(scenes) for o in scene.objects]
    count, num_classes = len(flat), len(preset.shapes)
    if not count:
        return
    shape = np.array([preset.shapes.index(o.shape) for _, o in flat])
    cx, cy, r = (np.array([getattr(o, k) for _, o in flat]) for k in ("cx", "cy", "radius"))
    rgb = RGB[[list(COLORS).index(o.color) for _, o in flat]]
    rgb = rgb + rng.normal(0, 12, rgb.shape).astype(np.float32)
    fate = rng.choice(5, size=count, p=[0.6, 0.14, 0.12, 0.05, 0.09])
    distance, rows, cols = object_distances(preset, shape, cx, cy, r)
    # 1: morphed into another class
    other = (shape + rng.integers(1, num_classes, count)) % num_classes
    other_distance, _, _ = object_distances(preset, other, cx, cy, r)
    mix = np.where(fate == 1, rng.random(count), 0.0)
    distance += mix[:, None, None] * (other_distance - distance)
    own, foreign = 1 - ramp(mix, 0.15, 0.35), ramp(mix, 0.65, 0.85)
    # 2: torn along a line, 3: a blob
    y = (rows + 0.5 - cy[:, None])[:, :, None] / r[:, None, None]
    x = (cols + 0.5 - cx[:, None])[:, None, :] / r[:, None, None]
    angle, cut = rng.uniform(0, 2 * np.pi, count), rng.uniform(-0.6, 1.0, count)
    half_plane = x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]
    torn = np.maximum(distance, (half_plane - cut[:, None, None]) * r[:, None, None])
    distance = np.where((fate == 2)[:, None, None], torn, distance)
    own = np.where(fate == 2, ramp(cut, 0.45, 0.8), own)
    theta = np.arctan2(y, x)
    waves = sum(
        rng.uniform(-0.16, 0.16, (count, 1, 1))
        * np.sin(k * theta + rng.uniform(0, 6.28, (count, 1, 1)))
        for k in (1, 2, 3, 5)
    )
    blob = (np.hypot(x, y) - 0.65 - waves) * r[:, None, None]
    distance = np.where((fate == 3)[:, None, None], blob, distance)
    own = np.where(fate == 3, 0.0, own)
    # 4: faint
    opacity = np.where(fate == 4, rng.uniform(0.1, 1.0, count), 1.0)
    own = np.where(fate == 4, ramp(opacity, 0.35, 0.65), own)

    owner = np.array([n for n, _ in flat])
    alpha = coverage(distance).astype(np.float32)
    inside = alpha > 0.5
    for i in range(count):
        window = np.ix_(rows[i], cols[i])
        patch = images[owner[i]]
        a = (alpha[i] * opacity[i])[:, :, None]
        patch[window] = patch[window] * (1 - a) + rgb[i] * a
        classes = np.zeros(num_classes + 2, np.float32)
        classes[1 + shape[i]] += own[i]
        classes[1 + other[i]] += foreign[i] * (fate[i] == 1)
        classes[-1] = 1 - classes.sum()
        pixels = target[owner[i]][:, rows[i][:, None], cols[i][None, :]]
        pixels[:, inside[i]] = classes[:, None]
        target[owner[i]][:, rows[i][:, None], cols[i][None, :]] = pixels


def blur_images(
    preset: Preset, images: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> None:
    """Blur half of the images in place; strong blur turns whole shapes into the rival class."""
    unit = preset.radius[0] / 5.0
    for n in np.flatnonzero(rng.random(len(images)) < 0.5):
        sigma = float(rng.uniform(0.2, 0.9) if rng.random() < 0.75 else rng.uniform(0.9, 2.5))
        images[n] = ndimage.gaussian_filter(images[n], (sigma * unit, sigma * unit, 0))
        lost = float(ramp(np.array(sigma), 0.9, 1.5))
        moved = target[n, 1:-1] * lost
        target[n, 1:-1] -= moved
        target[n, -1] += moved.sum(0)


def train(preset: str, steps: int, batch: int, lr: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    world = ShapesWorld(preset)
    model = build_segmenter(preset)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-3)
    ema = copy.deepcopy(model)
    began = time.time()
    for step in range(steps):
        rate = lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        images, target = training_batch(world, step, batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        per_pixel = -(target * F.log_softmax(logits.float(), dim=1)).sum(1)
        loss = (per_pixel * (1.0 + 3.0 * (1.0 - target[:, 0]))).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        decay = min(0.995, (step + 1) / (step + 20))
        for slow, fast in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            slow.lerp_(fast, 1 - decay) if slow.is_floating_point() else slow.copy_(fast)
        if step % 100 == 99:
            speed = (step + 1) * batch / (time.time() - began)
            print(
                f"step {step + 1}/{steps}  loss {loss.item():.4f}  {speed:.0f} images/s", flush=True
            )
    return ema


def smallest_area(preset: Preset) -> int:
    """Pixels of the smallest whole shape."""
    n = len(preset.shapes)
    middle = np.full(n, preset.image_size / 2)
    distance, _, _ = object_distances(
        preset, np.arange(n), middle, middle, np.full(n, preset.radius[0])
    )
    return int((coverage(distance) > 0.5).sum((1, 2)).min())


@torch.no_grad()
def pixel_accuracy(model: nn.Module, preset: str, count: int) -> float:
    """Share of object pixels of clean renders that get their class."""
    world = ShapesWorld(preset)
    scenes = [world.training_example(QUALITY_STREAM, i) for i in range(count)]
    images = torch.from_numpy(world.render_batch(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1
    right = total = 0
    for n, scene in enumerate(scenes):
        labels = model(images[n : n + 1]).argmax(1)[0].numpy()
        for o in scene.objects:
            k = world.shapes.index(o.shape)
            distance, rows, cols = object_distances(
                world.preset, np.array([k]), *(np.array([v]) for v in (o.cx, o.cy, o.radius))
            )
            inside = distance[0] < 0
            right += int((labels[np.ix_(rows[0], cols[0])][inside] == k + 1).sum())
            total += int(inside.sum())
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="grid")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ASSETS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = train(args.preset, args.steps, args.batch, args.lr, args.seed)
    stored = copy.deepcopy(model).half().float().eval()
    facts = {
        "min_area": smallest_area(PRESETS[args.preset]) // 3,
        "pixel_accuracy": round(pixel_accuracy(stored, args.preset, 500), 5),
        "steps": args.steps,
        "batch": args.batch,
        "seed": args.seed,
    }
    name = f"shapes_detector_{args.preset}.safetensors"
    print(name, write_weights(args.folder, name, stored, facts)[:12], facts)


if __name__ == "__main__":
    main()
