"""LoRA adapters by id or file, merged into a pipeline's weights, every tensor accounted for.

diffusers passes over what it cannot place and says so in a log. Here an adapter of which a tensor
finds no place is refused: images would be those of another model than the one named.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from selfe.files import file_sha256
from selfe.hub import locate_files

INSTALL = "pip install 'selfe-bench[lora]'"
_PARTS = ("lora_A", "lora_B", "lora_down", "lora_up")


@dataclass(frozen=True)
class Adapter:
    """A LoRA as it was found.

    Attributes:
        path: its safetensors file.
        name: what results record: repository@commit/file, or the file's digest.
        label: for the model's label.
    """

    path: Path
    name: str
    label: str


def find_adapter(settings: Mapping[str, Any], cache_dir: str | None) -> Adapter | None:
    """The adapter that settings name: `lora` is a hub id or a file, `lora_file` a file of the hub's
    repository.

    Raises:
        ValueError: if a file is not named or cannot be had.
    """
    target = settings["lora"]
    if not target:
        return None
    path = Path(target)
    if path.is_file():
        return Adapter(path, f"sha256:{file_sha256(path)[:12]}", path.stem)
    if path.is_dir() and settings["lora_file"]:
        inside = path / settings["lora_file"]
        if not inside.is_file():
            raise ValueError(f"{inside} does not exist")
        return Adapter(inside, f"sha256:{file_sha256(inside)[:12]}", inside.stem)
    if not settings["lora_file"]:
        raise ValueError(
            f"lora={target} is no file here; of a repository name the file, too: "
            "--model-arg lora_file=NAME.safetensors"
        )
    source = locate_files(
        target, [settings["lora_file"]], revision=settings["lora_revision"], cache_dir=cache_dir
    )
    name = f"{source.digest}/{settings['lora_file']}"
    return Adapter(source.folder / settings["lora_file"], name, target.rsplit("/", 1)[-1])


def merge_adapter(pipeline: Any, denoiser: str, adapter: Adapter, scale: float) -> None:
    """Add an adapter to the weights of a pipeline, for good.

    Args:
        denoiser: name of the component that the adapter must reach.
        scale: of the adapter.

    Raises:
        ValueError: if peft is missing, the pipeline takes no adapters, or a tensor finds no place.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError(f"LoRA adapters need peft: {INSTALL}")
    if not hasattr(pipeline, "load_lora_weights"):
        raise ValueError(f"{type(pipeline).__name__} takes no LoRA adapters")
    place = {"weight_name": adapter.path.name, "local_files_only": True}
    try:
        found = pipeline.lora_state_dict(str(adapter.path.parent), **place)
        pipeline.load_lora_weights(str(adapter.path.parent), **place)
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        message = " ".join(str(error).split())[:300]
        raise ValueError(f"{adapter.path.name} is no LoRA for this pipeline: {message}") from None
    state = found[0] if isinstance(found, tuple) else found
    given = [key for key in state if any(part in key for part in _PARTS)]
    placed = sum(_placed(part) for part in pipeline.components.values())
    if not given or placed != len(given):
        raise ValueError(
            f"{adapter.path.name} has {len(given)} LoRA tensors and {placed} found a place in "
            f"{type(pipeline).__name__}: it belongs to another model"
        )
    if not _placed(getattr(pipeline, denoiser)):
        raise ValueError(f"{adapter.path.name} does not touch the {denoiser}")
    pipeline.fuse_lora(lora_scale=scale)
    pipeline.unload_lora_weights()


def _placed(part: Any) -> int:
    if not isinstance(part, nn.Module):
        return 0
    return sum(any(p in name for p in _PARTS) for name, _ in part.named_parameters())
