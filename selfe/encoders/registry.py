"""Image codecs and text encoders by name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from selfe.config.schema import RunConfig
from selfe.registry import Registry

if TYPE_CHECKING:  # names alone need neither
    import torch

    from selfe.encoders.base import LatentCodec, TextEncoder

CODECS = Registry(
    "codec",
    {
        "shapes-grid": "selfe.encoders.registry:shapes_grid_codec",
        "shapes-free": "selfe.encoders.registry:shapes_free_codec",
        "shapes-squares": "selfe.encoders.rings:RingCodec",
        "flux": "selfe.encoders.flux:load_flux_vae",
    },
    group="selfe_bench.codecs",
)


TEXT_ENCODERS = Registry(
    "text encoder",
    {
        "shapes": "selfe.encoders.shapes:ShapesTextEncoder",
        "flux": "selfe.encoders.flux:load_flux_text",
    },
    group="selfe_bench.text_encoders",
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
