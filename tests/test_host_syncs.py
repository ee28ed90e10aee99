"""A training step never makes the host wait for the device.

Torch's meta device stands in for an accelerator: reading a value or choosing rows by a mask raises
on it. `watch` adds what meta forgives: operations on tensors of two devices, and copies from the
host that wait until the device has caught up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfe.config.resolve import build_objective
from selfe.generation.any_step import guided_velocity
from selfe.guidance import Guidance
from selfe.objectives.base import Nets
from selfe.run_folder.model import build_model
from selfe.sampler import SamplerSettings, draw_samples
from selfe.seeding import SampleRng
from selfe.training.ema import Ema
from tests.helpers.tiny import tiny_config, tiny_source

DEVICE = torch.device("meta")
METHODS = [
    ("fm", ""),
    ("selfe", ""),
    ("selfe", "no-target-norm"),
    ("selfe", "aux"),
    ("imm", ""),
    ("shortcut", ""),
    ("transition", ""),
    ("meanflow", ""),
]

COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


def devices(values: Any) -> set[str]:
    """Where the tensors are. Numbers in tensors of the host may meet any device's."""
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
    return {t.device.type for t in tensors if t.dim() or t.device == DEVICE}


def waits(func: Any, args: Any, kwargs: dict[str, Any], result: Tensor) -> bool:
    """Whether a call copies from the host until the device has caught up."""
    if func not in COPIES or result.device != DEVICE:
        return False
    source = args[1] if func is torch.ops.aten.copy_.default else args[0]
    non_blocking = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
    return source.device != DEVICE and not non_blocking


class WatchMaking(TorchFunctionMode):
    """Raises AssertionError for tensors of the device made from numbers: a copy that waits."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            assert result.device != DEVICE, f"{func} waits for the device"
        return result


class WatchRunning(TorchDispatchMode):
    """Raises AssertionError for operations across devices and for copies that wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        assert not waits(func, args, kwargs, result), f"{func} waits for the device"
        if func not in COPIES:
            given = devices((args, kwargs))
            assert len(given) < 2, f"{func} was given tensors of {given}"
        return result


@contextlib.contextmanager
def watch() -> Iterator[None]:
    with WatchMaking(), WatchRunning():
        yield


def step(method: str, variant: str) -> Callable[[], None]:
    """A batch, its loss and gradients, with everything but positions on the device."""
    config = tiny_config(method, variant=variant)
    model = build_model(config, DEVICE)
    ema = Ema(model, config.optim)
    source = tiny_source(config).to(DEVICE)
    objective = build_objective(config)

    def run() -> None:
        rng = SampleRng(0, torch.arange(8), DEVICE)
        batch = source.batch(rng)
        output = objective.loss(batch, Nets(model, ema.module), 100, rng)
        output.loss.backward()
        ema.update(model, 100, where=torch.isfinite(output.loss))

    return run


@pytest.mark.parametrize(("method", "variant"), METHODS)
def test_a_step_makes_nobody_wait(method: str, variant: str) -> None:
    run = step(method, variant)
    run()  # tables that are made once may be copied as they like
    with watch():
        run()


@pytest.mark.parametrize("kind", ["none", "linear", "ep-v", "ep-x0"])
def test_sampling_makes_nobody_wait_between_steps(kind: Any) -> None:
    config = tiny_config()
    model = build_model(config, DEVICE)
    batch = tiny_source(config).to(DEVICE).batch(SampleRng(0, torch.arange(4)))
    null = batch.null.expand(4)
    rng = SampleRng(0, torch.arange(4), DEVICE)
    x = rng.normal("start", (4, 4, 4))

    def noise(k: int) -> Tensor:
        return rng.normal(f"step {k}", (4, 4, 4))

    def sample() -> None:
        velocity = guided_velocity(model, batch.condition, null, Guidance(kind, 3.0))
        draw_samples(velocity, x, 3, 4, SamplerSettings(), noise)
        draw_samples(velocity, x, 3, 4, SamplerSettings("restart"), noise)

    with torch.no_grad():
        sample()
        with watch():
            sample()


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda device, host: host.to(DEVICE), id="copy"),
        pytest.param(lambda device, host: host[0, 0].to(DEVICE), id="copy of a number"),
        pytest.param(lambda device, host: device.copy_(host), id="copy in place"),
        pytest.param(lambda device, host: torch.tensor([1.0], device=DEVICE), id="from numbers"),
        pytest.param(lambda device, host: device @ host, id="product across devices"),
        pytest.param(lambda device, host: device[host.long()[0]], id="rows chosen on the host"),
    ],
)
def test_the_watch_sees(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    device, host = torch.zeros(4, 4, device=DEVICE), torch.zeros(4, 4)
    with watch(), pytest.raises(AssertionError):
        operation(device, host)


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda x: x.sum().item(), id="item"),
        pytest.param(lambda x: bool(x.any()), id="bool"),
        pytest.param(lambda x: x[x > 0], id="rows chosen by a mask"),
        pytest.param(lambda x: x.cpu(), id="copy to the host"),
    ],
)
def test_meta_refuses(operation: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="meta"):
        operation(torch.zeros(4, 4, device=DEVICE))
