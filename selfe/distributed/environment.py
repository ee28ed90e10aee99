"""Reads the environment variables of a launcher such as torchrun: which process this is."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from selfe.device import may_have_gpu

_NAMES = {
    "rank": ("RANK", 0),
    "size": ("WORLD_SIZE", 1),
    "local_rank": ("LOCAL_RANK", 0),
    "local_size": ("LOCAL_WORLD_SIZE", 0),
}


@dataclass(frozen=True)
class Place:
    """One process among those that were started together.

    Attributes:
        rank: its number, from 0, of `size`.
        local_rank: its number on its machine, which is that of its GPU.
        local_size: processes on its machine; all of them where the launcher does not say.
        placed: whether the launcher says which GPU is this process's.
        address: of the process where all meet; "" where the launcher does not say.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    placed: bool = False
    address: str = ""


def place_of_process() -> Place:
    """Read from RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE and MASTER_ADDR; alone without them.

    Raises:
        ValueError: if one is no number, or the rank lies outside the size; names the variable.
    """
    numbers = {field: _number(*named) for field, named in _NAMES.items()}
    if numbers["size"] < 1:
        raise ValueError(f"WORLD_SIZE must be at least 1, got {numbers['size']}")
    if numbers["rank"] >= numbers["size"]:
        raise ValueError(
            f"RANK is {numbers['rank']}, but WORLD_SIZE says that there are {numbers['size']} "
            "processes, numbered from 0"
        )
    numbers["local_size"] = numbers["local_size"] or numbers["size"]
    return Place(
        **numbers,
        placed="LOCAL_RANK" in os.environ,
        address=os.environ.get("MASTER_ADDR", ""),
    )


def launched() -> bool:
    """Whether a launcher has started several processes."""
    return place_of_process().size > 1


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"the environment variable {name} must be a number from 0, got {text!r}")
    return int(text)


def best_device(name: str) -> str:
    """ "auto" -> a GPU where there is one; under a launcher, "auto" and "cuda" are the GPU of this
    process. Any other name is left as it is.

    Raises:
        ValueError: if torch does not know or does not have the device.
    """
    if name in ("auto", "cpu") and "torch" not in sys.modules and not may_have_gpu():
        return "cpu"  # which is known without torch
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        place = place_of_process()
        return f"cuda:{place.local_rank}" if place.placed else "cuda"
    if name == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason})") from None
    return name
