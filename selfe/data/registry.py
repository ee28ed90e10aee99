"""Sources of training data by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selfe.config.schema import RunConfig
from selfe.encoders.registry import build_codec, build_text_encoder
from selfe.registry import Registry

if TYPE_CHECKING:
    from selfe.batch import BatchSource


SOURCES = Registry(
    "data source",
    {
        "shapes": "selfe.data.registry:shapes_source",
        "latents": "selfe.data.registry:latents_source",
    },
    group="selfe_bench.sources",
)


def build_source(
    config: RunConfig,
    *,
    with_fake: bool,
    device: torch.device | str,
    cache_dir: Path,
    progress: Callable[[int, int], None],
) -> BatchSource:
    return SOURCES.load(config.data.source)(
        config, with_fake=with_fake, device=device, cache_dir=cache_dir, progress=progress
    )


def shapes_source(
    config: RunConfig,
    *,
    with_fake: bool,
    device: torch.device | str,
    cache_dir: Path,
    progress: Callable[[int, int], None],
) -> Any:
    """The shapes world, encoded once and kept in memory.

    Raises:
        ValueError: if the configuration names data on disk, a codec of the other preset, or a
            network of other widths than the encoders'.
    """
    from selfe.data.in_memory import InMemoryLatents, width_problems
    from selfe.data.shapes_latents import shapes_latents
    from selfe.data.shapes_world import open_world

    if config.data.path:
        raise ValueError(
            f"data.path = {config.data.path} is not read by data.source = shapes, which draws its "
            "images: a cache that `prepare` made takes --set data.source=latents as well"
        )
    preset, name = config.data.preset, config.data.codec
    if name.startswith("shapes-") and name != f"shapes-{preset}":
        raise ValueError(f"data.codec = {name} was made for another data.preset than {preset}")
    world = open_world(preset)
    codec, text = build_codec(config, device), build_text_encoder(config, "cpu")
    widths = (codec.latent_channels, text.token_dim, text.pooled_dim)
    if problems := width_problems(config.model, *widths):
        raise ValueError(f"{name} and {config.data.text} do not fit: {'; '.join(problems)}")
    latents, captions = shapes_latents(world, codec, config.data.size, cache_dir, progress)
    source = InMemoryLatents(
        latents,
        captions,
        text,
        caption_dropout=config.train.caption_dropout,
        with_fake=with_fake,
        seed=config.seed,
    )
    return source.to(device)


def latents_source(
    config: RunConfig,
    *,
    with_fake: bool,
    device: torch.device | str,
    cache_dir: Path,
    progress: Callable[[int, int], None],
) -> Any:
    """A latent cache, memory-mapped: nothing is encoded here."""
    from selfe.data.latent_cache.source import CachedLatents

    return CachedLatents(config, with_fake=with_fake, device=device)
