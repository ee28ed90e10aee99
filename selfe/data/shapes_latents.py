"""The shapes world as training data: rendered and encoded once, then read from a cache file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from selfe.data.shapes_world import ShapesWorld
from selfe.encoders.base import LatentCodec
from selfe.files import write_atomically
from selfe.json_files import fit, parse_json

TRAINING_SEED = 20_512
"""Seed of the training scenes: part of the data set, not of a run."""
_CHUNK = 1024


def images_to_float(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def shapes_latents(
    world: ShapesWorld,
    codec: LatentCodec,
    size: int,
    cache_dir: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, list[str]]:
    """Latents (size, C, h, w) fp16 and captions of the first `size` training scenes.

    The cache file is named by everything its content depends on, the renderer included; a damaged
    one is made again.
    """
    probe = [world.training_example(TRAINING_SEED, index) for index in range(min(size, 64))]
    pixels = hashlib.sha256(world.render_batch(probe).tobytes()).hexdigest()
    key = [world.preset.name, pixels, [scene.prompt for scene in probe], codec.digest, size]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = cache_dir / f"shapes-{world.preset.name}-{name}.safetensors"
    side = world.image_size // codec.downsample
    cached = _read(path, name, (size, codec.latent_channels, side, side))
    if cached is not None:
        return cached

    parts, captions = [], []
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        scenes = [world.training_example(TRAINING_SEED, index) for index in range(start, stop)]
        images = images_to_float(torch.from_numpy(world.render_batch(scenes)))
        parts.append(codec.encode(images).half().cpu().contiguous())
        captions += [scene.prompt for scene in scenes]
        progress(stop, size)
    latents = torch.cat(parts).contiguous()
    cache_dir.mkdir(parents=True, exist_ok=True)
    checksum = _checksum(latents, captions, name)
    metadata = {"captions": json.dumps(captions), "name": name, "sha256": checksum}
    write_atomically(path, save({"latents": latents}, metadata))
    return latents, captions


def _checksum(latents: Tensor, captions: list[str], name: str | None) -> str:
    """Of content, type and shape of the numbers, and of the name of what they are.

    Args:
        name: None for a file of an earlier version, whose checksum covers the content alone.
    """
    digest = hashlib.sha256(latents.numpy().tobytes())
    digest.update(json.dumps(captions).encode())
    if name is not None:
        digest.update(f"{name} {latents.dtype} {tuple(latents.shape)}".encode())
    return digest.hexdigest()


def _read(path: Path, name: str, shape: tuple[int, ...]) -> tuple[Tensor, list[str]] | None:
    """The cached data, or None where there is no intact file of that name, type and shape."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            latents, metadata = file.get_tensor("latents"), file.metadata()
        captions = fit(list[str], parse_json(metadata["captions"], path), path)
        recorded = metadata["sha256"]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        return None
    stated = metadata.get("name")
    if latents.dtype != torch.float16 or latents.shape != shape or len(captions) != shape[0]:
        return None
    if stated not in (None, name) or _checksum(latents, captions, stated) != recorded:
        return None
    return latents, captions
