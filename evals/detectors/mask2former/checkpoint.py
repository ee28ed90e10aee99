"""The weights in an mmdet checkpoint, read without running anything of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Classes that training tools store beside the weights. They load as empty objects.
_BOOKKEEPING = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.logging.message_hub.MessageHub",
    "builtins.getattr",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
)


class _NotLoaded:
    """Stands for an object of a training tool; takes any state and keeps none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __new__(cls, *args: Any, **kwargs: Any) -> _NotLoaded:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in an mmdet checkpoint. Nothing in the file is ever executed.

    Raises:
        ValueError: if the file holds anything but tensors, plain values and known bookkeeping.
    """
    placeholders: list[Any] = [(_NotLoaded, name) for name in _BOOKKEEPING]
    try:
        with torch.serialization.safe_globals(placeholders):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is refused as detector weights: {str(error).splitlines()[0]}"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no table of weights; expected an mmdet checkpoint")
    return dict(state)
