"""From a configuration to the objects it names. Names live in lazy tables: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from selfe.config.schema import RunConfig

if TYPE_CHECKING:
    from selfe.network.denoiser import DualTimeDenoiser


def build_model(config: RunConfig, device: torch.device | str) -> DualTimeDenoiser:
    """The denoiser, initialised from the run's seed alone: the same for every method."""
    from selfe.network.denoiser import DualTimeDenoiser
    from selfe.seeding import derive_seed

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "initialisation"))
        model = DualTimeDenoiser(**config.model.model_dump())
    return model.to(device)
