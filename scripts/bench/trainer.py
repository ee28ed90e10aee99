"""A training step of ours beside one made as diffusers' Flux script makes it, in CPU seconds.

    python -m scripts.bench.trainer [--pairs 5] [--out reports/local/speed/trainer.json]

The same network (width 512, weights copied), latents and captions, flow matching in fp32 on one
thread: noise and times, forward, loss, backward, clipping, optimiser, moving average. The other
side has diffusers' transformer, `EMAModel` and time weighting, with their faster options: fused
AdamW and the average's foreach kernels, which the script does not switch on by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.training_utils import (
    EMAModel,
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)
from torch import Tensor

from scripts.bench.fixed_batch_step import TrainingStep, random_batch
from scripts.bench.objectives import SEED, wide
from scripts.bench.paired_timing import (
    Ratio,
    measurement_facts,
    paired_ratio,
    print_table,
    write_report,
)
from selfe.batch import LatentBatch
from selfe.network.flux_conversion import to_flux
from selfe.training.host_memory import keep_freed_memory

BATCH, SIDE, TEXT = 4, 32, 64
PASSES = 1 / 1.2


def flux_script_step(flux: torch.nn.Module, batch: LatentBatch) -> Callable[[], Tensor]:
    """One step on latents and features that are encoded already."""
    schedule = FlowMatchEulerDiscreteScheduler()
    optimizer = torch.optim.AdamW(flux.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    rates = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    average = EMAModel(flux.parameters(), decay=0.9999, foreach=True)
    generator = torch.Generator().manual_seed(SEED)
    count, channels, height, width = batch.x_0.shape
    image_ids = FluxPipeline._prepare_latent_image_ids(
        count, height // 2, width // 2, batch.x_0.device, batch.x_0.dtype
    )
    text_ids = torch.zeros(batch.condition.tokens.shape[1], 3)

    def step() -> Tensor:
        noise = torch.randn(batch.x_0.shape, generator=generator)
        density = compute_density_for_timestep_sampling("logit_normal", count, 0.0, 1.0, 1.29)
        place = (density * schedule.config.num_train_timesteps).long()
        sigma = schedule.sigmas[place].view(-1, 1, 1, 1)
        noisy = (1 - sigma) * batch.x_0 + sigma * noise
        packed = FluxPipeline._pack_latents(noisy, count, channels, height, width)
        predicted = flux(
            hidden_states=packed,
            timestep=schedule.timesteps[place] / 1000,
            pooled_projections=batch.condition.pooled,
            encoder_hidden_states=batch.condition.tokens,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        predicted = FluxPipeline._unpack_latents(predicted, height * 8, width * 8, 8)
        weight = compute_loss_weighting_for_sd3("none", sigma)
        squares = weight.float() * (predicted.float() - (noise - batch.x_0).float()) ** 2
        loss = squares.reshape(count, -1).mean(1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flux.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        average.step(flux.parameters())
        return loss.detach()

    return step


def measure(pairs: int) -> Ratio:
    config = wide("fm")
    batch = random_batch(config, BATCH, SIDE, TEXT)
    ours = TrainingStep(config, batch)
    theirs = flux_script_step(to_flux(ours.model), batch)
    name = f"width 512, {BATCH} x {SIDE**2 // 4 + TEXT} tokens: our step / diffusers' script's"
    return paired_ratio(name, ours, theirs, pairs=pairs, passes=PASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/trainer.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does; it serves both sides
    facts = measurement_facts(SEED)
    rows = [measure(arguments.pairs)]
    print_table(rows)
    write_report(arguments.out, rows, facts)


if __name__ == "__main__":
    main()
