"""One training step on one fixed batch of random latents and captions: what benchmarks time.

The parts are the trainer's: objective, autocast, clipping, Adam, moving average. Left out are the
data source, logging, and the host's wait for the loss, which are no property of an objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from selfe.batch import LatentBatch, TextCondition
from selfe.config.resolve import build_objective
from selfe.config.schema import RunConfig
from selfe.device import autocast, matrix_products
from selfe.network.denoiser import DualTimeDenoiser
from selfe.network.embeddings import PATCH
from selfe.objectives.base import Nets
from selfe.run_folder.model import build_model
from selfe.seeding import SampleRng, derive_seed
from selfe.training.block_execution import accelerate
from selfe.training.ema import Ema
from selfe.training.optim import build_optimizer, clip_gradients

LATE = 1_000_000
"""Iteration at which every schedule of an objective has come to its end."""


def build_perturbed(
    config: RunConfig, device: torch.device | str, *, drawn_there: bool = False
) -> DualTimeDenoiser:
    """A run's network with small values in its zero-initialised layers: no work is trivial.

    `drawn_there`: from the device's own generator, which takes a billion weights no time, but has
    other values than another device's.
    """
    if drawn_there:
        with torch.device(device), torch.no_grad():
            model = DualTimeDenoiser(**config.model.model_dump())
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        return model
    model = build_model(config, device)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "perturbation"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator).to(device))
    return model


def random_text(config: RunConfig, batch: int, tokens: int, seed: int = 0) -> TextCondition:
    """Captions of `tokens` real tokens each, on the host."""
    generator = torch.Generator().manual_seed(seed)
    return TextCondition(
        torch.randn(batch, tokens, config.model.joint_attention_dim, generator=generator),
        torch.ones(batch, tokens, dtype=torch.bool),
        torch.randn(batch, config.model.pooled_projection_dim, generator=generator),
        no_padding=True,
    )


def random_batch(
    config: RunConfig,
    batch: int,
    side: int,
    text_tokens: int,
    null_tokens: int = 1,
    device: torch.device | str = "cpu",
) -> LatentBatch:
    """Latents of `side` x `side`; captions, fake captions and the null prompt without padding.

    `null_tokens = 1` is the null prompt trimmed to its end token.
    """
    generator = torch.Generator().manual_seed(config.seed)
    channels = config.model.in_channels // PATCH**2
    return LatentBatch(
        x_0=torch.randn(batch, channels, side, side, generator=generator).to(device),
        condition=random_text(config, batch, text_tokens, 1).to(device),
        null=random_text(config, 1, null_tokens, 2).to(device),
        fake=random_text(config, batch, text_tokens, 3).to(device),
        dropped=torch.zeros(batch, dtype=torch.bool, device=device),
        index=torch.arange(batch, device=device),
    )


def counted_flops(model: Mapping[str, Any], side: int, text_tokens: int) -> int:
    """FLOPs of a forward pass of one image, counted as the network runs (on the meta device).

    Unlike the nominal count (`selfe.network.flops`) it leaves out what our last block skips, which
    is a large part of what text costs where blocks are few.
    """
    with torch.device("meta"):
        network = DualTimeDenoiser(**model)
    latents = torch.empty(1, network.config.in_channels // PATCH**2, side, side, device="meta")
    time = torch.empty(1, device="meta")
    text = TextCondition(
        torch.empty(1, text_tokens, network.config.joint_attention_dim, device="meta"),
        torch.empty(1, text_tokens, dtype=torch.bool, device="meta"),
        torch.empty(1, network.config.pooled_projection_dim, device="meta"),
        no_padding=True,
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(latents, time, time, text)
    return counter.get_total_flops()


class TrainingStep:
    """Calling it makes one step; `gradients` stops before clipping, Adam and moving average.

    Args:
        config: of method, precision, compilation and optimiser; the step is its `LATE`th.
        drawn_there: see `build_perturbed`.
    """

    def __init__(
        self,
        config: RunConfig,
        batch: LatentBatch,
        device: torch.device | str = "cpu",
        *,
        drawn_there: bool = False,
    ) -> None:
        self.config, self.batch = config, batch
        self.device = torch.device(device)
        self.model = build_perturbed(config, device, drawn_there=drawn_there)
        self.ema = Ema(self.model, config.optim)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.objective = build_objective(config)
        self.rng = SampleRng(config.seed, torch.arange(len(batch)), device)
        for network in (self.model, self.ema.module):
            accelerate(network, config.train)

    def gradients(self) -> Tensor:
        """The loss, on the device; gradients are left in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        nets = Nets(self.model, self.ema.module)
        precision = self.config.train.precision
        with matrix_products(self.device, precision):
            with autocast(self.device, precision):
                loss = self.objective.loss(self.batch, nets, LATE, self.rng).loss
            loss.backward()
        return loss.detach()

    def __call__(self) -> Tensor:
        loss = self.gradients()
        clip_gradients(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        self.ema.update(self.model, LATE)
        return loss
