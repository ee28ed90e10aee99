"""Reads the tensors of a TorchScript archive without executing anything in it.

OpenAI published CLIP as a traced program. torch.jit.load would interpret it, is deprecated and does
not promise to work from Python 3.14 on; all that is wanted are the weights. The archive is a zip
with a pickle of the module tree (`data.pkl`) and one record per storage (`data/0`, ...). The pickle
is read by an unpickler that knows module names as empty boxes, tensors as places in a storage, and
nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}


class _Module:
    """A module of the program: what it was called is forgotten, its attributes are kept."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module with a state of its own making")
        self.attributes = state


class _Storage(NamedTuple):
    record: str
    dtype: torch.dtype


class _Place(NamedTuple):
    """A tensor as the pickle states it: where in which storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _place(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> _Place:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Place(storage, offset, tuple(size), tuple(stride))


def _value(value: Any, *_: Any) -> Any:
    """A list or table without the type that the program gives it."""
    return value


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _place
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return _value
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, record, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return _Storage(str(record), dtype)


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor attribute of the module tree, by its dotted name, on the CPU.

    Parameters and buffers, like the module's `state_dict`, and tensors that are mere attributes.

    Raises:
        ValueError: if the file is no such archive, is damaged, or its pickle asks for anything but
            modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
            if len(index) != 1:
                raise ValueError("no data.pkl at its root")
            with archive.open(index[0]) as file:
                tree = _Unpickler(file).load()
            if not isinstance(tree, _Module):
                raise ValueError("no module at its root")
            root = index[0].removesuffix("data.pkl")
            return {name: _tensor(archive, root, place) for name, place in _places(tree, "")}
    except Exception as error:  # a damaged archive fails in many ways
        raise ValueError(f"{path} is refused as a TorchScript archive: {error}") from error


def _places(module: _Module, prefix: str) -> Iterator[tuple[str, _Place]]:
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            yield from _places(value, f"{prefix}{name}.")
        elif isinstance(value, _Place):
            yield f"{prefix}{name}", value


def _tensor(archive: zipfile.ZipFile, root: str, place: _Place) -> Tensor:
    data = bytearray(archive.read(f"{root}data/{place.storage.record}"))
    flat = torch.frombuffer(data, dtype=place.storage.dtype)
    return flat.as_strided(place.size, place.stride, place.offset)
