"""Model FLOP utilisation: FLOPs that the networks performed, over the accelerator's peak.

The counts are those of `selfe.network.flops` on the shapes that really reach the network, padding
included; a backward pass counts twice its forward pass, and what is recomputed counts nothing.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from selfe.batch import TextCondition
from selfe.config.schema import ModelConfig
from selfe.device import peak_flops
from selfe.network.flops import cost_of_pass, flops_per_image
from selfe.objectives.base import Velocity


@dataclass(frozen=True)
class Speed:
    """How fast training goes.

    Attributes:
        images_per_second: of all processes together.
        flops_per_second: model FLOPs of this process's device.
        mfu: their share of the device's peak, None where that is not known.
    """

    images_per_second: float
    flops_per_second: float
    mfu: float | None

    def as_record(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        share = "" if self.mfu is None else f" (MFU {self.mfu:.1%})"
        return (
            f"{self.images_per_second:,.0f} images/s  "
            f"{self.flops_per_second / 1e12:.3g} TFLOP/s{share}"
        )


class Throughput:
    """Images and model FLOPs per second, without waiting for the device.

    Attributes:
        images: since the last `restart`; the training loop counts them.
        flops: asked of the watched networks since then, on this process's device.
    """

    def __init__(self, model: ModelConfig, device: torch.device) -> None:
        self._model = model.model_dump()
        self._peak = peak_flops(device)
        self.restart()

    def restart(self) -> None:
        self.images, self.flops = 0, 0
        self._since = time.perf_counter()

    def watch(self, network: Velocity) -> Velocity:
        """The same function, counted."""

        def counted(x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
            height, width = x_t.shape[-2:]
            text_tokens = condition.tokens.shape[1]
            forward = flops_per_image(self._model, height, width, text_tokens, vae_factor=1)
            self.flops += cost_of_pass(x_t) * len(x_t) * forward
            return network(x_t, t, s, condition)

        return counted

    def read(self) -> Speed:
        elapsed = time.perf_counter() - self._since
        rate = self.flops / elapsed
        return Speed(self.images / elapsed, rate, None if self._peak is None else rate / self._peak)
