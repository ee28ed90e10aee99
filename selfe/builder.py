"""From a configuration to the objects it names. Names live in lazy tables: one line each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selfe.config import RunConfig
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.registry import Registry

if TYPE_CHECKING:
    from selfe.network.denoiser import DualTimeDenoiser
    from selfe.trainer import BatchSource

CODECS = Registry(
    "codec",
    {
        "shapes-grid": "selfe.builder:shapes_grid_codec",
        "shapes-free": "selfe.builder:shapes_free_codec",
        "flux": "selfe.encoders.flux:load_flux_vae",
    },
)
TEXT_ENCODERS = Registry(
    "text encoder",
    {
        "shapes": "selfe.encoders.shapes:ShapesTextEncoder",
        "flux": "selfe.encoders.flux:load_flux_text",
    },
)
SOURCES = Registry(
    "data source",
    {"shapes": "selfe.builder:shapes_source", "latents": "selfe.builder:latents_source"},
)


def build_codec(config: RunConfig, device: torch.device | str) -> LatentCodec:
    data = config.data
    return load_codec(data.codec, device, data.revision, data.signal)


def load_codec(
    name: str, device: torch.device | str, revision: str = "", signal: float = 1.0
) -> LatentCodec:
    """Raises ValueError for an unknown name, and for a revision or a signal of what has none."""
    options: dict[str, Any] = {"revision": revision or None}
    if signal != 1:
        if "signal" not in inspect.signature(CODECS.load(name)).parameters:
            raise ValueError(f"data.signal is of the shapes world: the codec {name!r} has none")
        options["signal"] = signal
    return _load(CODECS, name, **options).to(str(device))


def load_text_encoder(
    name: str, device: torch.device | str, revision: str = "", max_tokens: int | None = None
) -> TextEncoder:
    """Raises ValueError for an unknown name, and for options that the encoder does not have."""
    options = {"revision": revision or None, "max_tokens": max_tokens}
    return _load(TEXT_ENCODERS, name, **options).to(str(device))


def _load(table: Registry, name: str, **options: Any) -> Any:
    """Call what a name stands for with the options that are given."""
    given = {key: value for key, value in options.items() if value is not None}
    make = table.load(name)
    parameters = inspect.signature(make).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in parameters and not takes_all:
            raise ValueError(f"the {table.kind} {name!r} has no option {key}")
    return make(**given)


def shapes_grid_codec(signal: float = 1.0) -> LatentCodec:
    from selfe.encoders.shapes import ShapesVAE

    return ShapesVAE("grid", signal=signal)


def shapes_free_codec(signal: float = 1.0) -> LatentCodec:
    from selfe.encoders.shapes import ShapesVAE

    return ShapesVAE("free", signal=signal)


def build_text_encoder(config: RunConfig, device: torch.device | str) -> TextEncoder:
    data = config.data
    return load_text_encoder(data.text, device, data.revision, data.text_tokens)


def build_model(config: RunConfig, device: torch.device | str) -> DualTimeDenoiser:
    """The denoiser, initialised from the run's seed alone: the same for every method."""
    from selfe.network.denoiser import DualTimeDenoiser
    from selfe.seeding import derive_seed

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "initialisation"))
        model = DualTimeDenoiser(**config.model.model_dump())
    return model.to(device)


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
    from selfe.data.latents import InMemoryLatents, width_problems
    from selfe.data.shapes_latents import shapes_latents
    from selfe.data.shapes_world import ShapesWorld

    if config.data.path:
        raise ValueError(
            f"data.path = {config.data.path} is not read by data.source = shapes, which draws its "
            "images: a cache that `prepare` made takes --set data.source=latents as well"
        )
    preset, name = config.data.preset, config.data.codec
    if name.startswith("shapes-") and name != f"shapes-{preset}":
        raise ValueError(f"data.codec = {name} was made for another data.preset than {preset}")
    world = ShapesWorld(preset)
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
    from selfe.data.cached_latents import CachedLatents

    return CachedLatents(config, with_fake=with_fake, device=device)
