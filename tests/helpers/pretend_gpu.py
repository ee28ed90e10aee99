"""A GPU that is not there: tensors that say "cuda" and compute on the processor.

The meta device of `test_host_syncs` has no values, so that only a training step runs on it. Here
values are real, whole commands run, and what a GPU refuses is refused: operations on tensors of two
devices, and `.numpy()`. Not imitated: kernels, streams, memory, and autocast, which has no effect.

Inside torch the tensors are of the meta device, whose backward pass needs no driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.trace_rules
from torch import Tensor
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
"""A tensor of the device may be indexed by one of the host, which torch copies there."""


class OnDevice(Tensor):
    """A tensor of the device; `host` holds its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor, requires_grad: bool = False) -> OnDevice:
        return Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device="meta",
            requires_grad=requires_grad,
        )

    def __init__(self, host: Tensor, requires_grad: bool = False) -> None:
        self.host = host

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def __getitem__(self, place: Any) -> Tensor:
        return super().__getitem__(with_values(place))

    def __setitem__(self, place: Any, value: Any) -> None:
        super().__setitem__(with_values(place), value)

    def __repr__(self) -> str:
        return f"OnDevice({self.host!r})"

    def tolist(self) -> Any:
        return self.host.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["host"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> OnDevice:
        return OnDevice(inner["host"])

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return call(func, args, kwargs or {})


def with_values(place: Any) -> Any:
    """Lists as tensors of the host; torch would make them on the meta device, without values."""
    if isinstance(place, tuple):
        return tuple(with_values(each) for each in place)
    return torch.tensor(place) if isinstance(place, list) else place


class Device(TorchDispatchMode):
    """Makes tensors that are asked for on "cuda"; those of the meta device are made there too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return call(func, args, kwargs or {})


def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the host's values, its result where it belongs.

    Raises:
        RuntimeError: for tensors of two devices.
    """
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OnDevice)]
    first_there = bool(tensors) and isinstance(tensors[0], OnDevice)
    mixed = any(x.dim() for x in tensors if not isinstance(x, OnDevice)) and bool(there)
    if mixed and func not in COPIES and not (func in INDEXED and first_there):
        raise RuntimeError(f"{func} of tensors on cuda:0 and cpu: {[x.shape for x in tensors]}")
    on_device = first_there if func in COPIES | INDEXED else bool(there)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type in ("cuda", "meta")
        kwargs = {**kwargs, "device": torch.device("cpu")}
    host_args, host_kwargs = tree_map_only(OnDevice, lambda x: x.host, (args, kwargs))
    result = func(*host_args, **host_kwargs)
    if not on_device:
        return result
    known = {id(x.host): x for x in there}

    def wrap(x: Tensor) -> Tensor:
        return known[id(x)] if id(x) in known else OnDevice(x)

    result = tree_map_only(Tensor, wrap, result)
    return return_and_correct_aliasing(func, args, kwargs, result) if there else result


class Event:
    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def on_host(parts: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x.detach().cpu().clone(), parts)


def unpinned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, pin_memory=False, **kwargs: make(*args, **kwargs)


def answer(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


@contextlib.contextmanager
def pretend_gpu() -> Iterator[None]:
    """One GPU, for this thread."""
    # these remember functions that are others below
    torch._dynamo.trace_rules.get_torch_obj_rule_map()
    torch.utils._device._device_constructors()
    answers = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "NVIDIA H200",
        "is_bf16_supported": True,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
    }
    nothing = ("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats")
    group = torch._C._group_tensors_by_device_and_dtype

    def grouped(*args: Any) -> Any:
        found = group(*args).items()
        return {(CUDA if k[0].type == "meta" else k[0], k[1]): value for k, value in found}

    lifted = torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for name in nothing:
            patch.setattr(torch.cuda, name, answer(None))
        for name, value in answers.items():
            patch.setattr(torch.cuda, name, answer(value))
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(torch, "empty", unpinned(torch.empty))  # by threads of their own, too
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", grouped)
        # tensors of inference cannot be views of tensors of the device
        patch.setattr(torch._C, "_InferenceMode", lambda on: torch.set_grad_enabled(not on))
        patch.setattr(StateDictStager, "stage", lambda self, parts, non_blocking: on_host(parts))
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a copy
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(Device())
        yield
