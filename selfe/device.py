"""What `train.precision` means on a device: how matrices are multiplied. Weights stay in fp32.

"bf16" is autocast; "auto" is bf16 where the device has instructions for it, else fp32. "tf32"
stores what fp32 stores, but a GPU rounds the factors of matrix products to 10 bits of mantissa
(bf16 has 7); elsewhere it is fp32. It is for objectives that subtract from a prediction a near copy
of it, whose gradients bf16 spoils (reports/checks/README.md).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # plans name GPUs without starting torch
    import torch

PEAK_SHARES = {"bf16": 1.0, "tf32": 1 / 2, "fp32": 1 / 16}
"""Peak of a GPU's matrix products over that of dense bf16: an A100's; an H100's fp32 is 1 / 15."""


CPU_FACTS = Path("/proc/cpuinfo")
DRIVERS, DRIVER_FILES = Path("/dev"), ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")


def without_device(precision: str) -> str:
    """The precision that a current GPU uses for it: a key of `PEAK_SHARES`."""
    return "bf16" if precision == "auto" else precision


def used_on(device: torch.device, precision: str) -> str:
    """The precision that a device uses for it: "bf16", "tf32" or "fp32"."""
    if uses_bf16(device, precision):
        return "bf16"
    return "tf32" if precision == "tf32" and device.type == "cuda" else "fp32"


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether it means autocast to bf16 here."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_multiplies_bf16()


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for it; others are slower than in fp32.

    As torch says; as the kernel lists them where torch is not loaded, so that plans need not load
    it.
    """
    if "torch" not in sys.modules and CPU_FACTS.is_file():
        words = set(CPU_FACTS.read_text(errors="replace").split())
        return not words.isdisjoint({"avx512_bf16", "amx_bf16"})
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where `uses_bf16`; for the forward pass."""
    import torch

    if not uses_bf16(device, precision):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def matrix_products(device: torch.device, precision: str) -> Iterator[None]:
    """TF32 where it is asked for and there; for whole iterations, backward pass included."""
    import torch

    if used_on(device, precision) != "tf32":
        yield
        return
    # not `torch.backends.cuda.matmul.fp32_precision`: compiled blocks read the older setting, and
    # fail where only the newer one was set
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Gpu:
    """An accelerator.

    Attributes:
        flops: denominator of the MFU, dense bf16 FLOP/s.
        memory: bytes.
    """

    flops: float
    memory: float


GPUS = {
    "a100": Gpu(312e12, 80e9),
    "h100": Gpu(790e12, 80e9),
    "h200": Gpu(790e12, 141e9),
    # as those of the H100: four fifths of the published peak, here of 2,250 TFLOP/s
    "b200": Gpu(1800e12, 180e9),
}


def may_have_gpu() -> bool:
    """Whether there may be a GPU that torch can use: False only where Linux shows the files of no
    driver (NVIDIA's, on a board or under Windows, and AMD's). Does not load torch."""
    if sys.platform != "linux":
        return True
    return any(next(DRIVERS.glob(pattern), None) for pattern in DRIVER_FILES)


def gpu_named(device_name: str) -> str | None:
    """Key in `GPUS` of a device as its driver names it ("NVIDIA H200"); None for any other."""
    words = device_name.lower().replace("-", " ").split()
    return next((name for name in GPUS if name in words), None)


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a device, None where it is not known."""
    import torch

    if device.type != "cuda":
        return None
    name = gpu_named(torch.cuda.get_device_name(device))
    return None if name is None else GPUS[name].flops
