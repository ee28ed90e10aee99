"""Forward and backward of the denoiser against diffusers' FLUX, and the price of text tokens.

    python -m scripts.bench.denoiser [--pairs 9] [--out reports/local/speed/denoiser.json]

Both networks hold the same weights and see the same batch; every row is forward + backward in fp32
on one CPU thread.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FluxPipeline
from torch import Tensor

from scripts.bench.fixed_batch_step import counted_flops
from scripts.bench.paired_timing import (
    Ratio,
    measurement_facts,
    paired_ratio,
    print_table,
    write_report,
)
from selfe.batch import TextCondition
from selfe.config.recipes import RECIPES
from selfe.network.denoiser import DualTimeDenoiser
from selfe.network.flux_conversion import to_flux
from selfe.training.host_memory import keep_freed_memory

SEED = 0
WIDE = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 64,
    "num_attention_heads": 8,
    "joint_attention_dim": 256,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (8, 28, 28),
}
SHAPES_TEXT_TOKENS = 12
TEXT_BATCH = 8
"""Images of a step where the price of text is measured. One image alone pays for reading weights
and writing gradients, whatever its number of tokens."""


def build_model(config: dict) -> DualTimeDenoiser:
    """A denoiser whose zero-initialised layers hold small values, so that no work is trivial."""
    torch.manual_seed(SEED)
    model = DualTimeDenoiser(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def make_batch(config: dict, batch: int, side: int, lengths: Tensor, no_padding: bool):
    """Latents (batch, C, side, side), times, and captions of the given lengths."""
    rng = torch.Generator().manual_seed(SEED)
    longest = int(lengths.max())
    x_t = torch.randn(batch, config["in_channels"] // 4, side, side, generator=rng)
    t = torch.rand(batch, generator=rng)
    condition = TextCondition(
        torch.randn(batch, longest, config["joint_attention_dim"], generator=rng),
        torch.arange(longest) < lengths[:, None],
        torch.randn(batch, config["pooled_projection_dim"], generator=rng),
        no_padding,
    )
    return x_t, t, condition


Context = Callable[[], contextlib.AbstractContextManager]
"""Under what a forward pass runs, autocast for example."""


def our_step(
    model: DualTimeDenoiser,
    x_t: Tensor,
    t: Tensor,
    condition: TextCondition,
    context: Context = contextlib.nullcontext,
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        with context():
            v = model(x_t, t, t, condition)
        v.float().square().mean().backward()
        return v.detach()

    return step


def flux_step(
    flux,
    x_t: Tensor,
    t: Tensor,
    condition: TextCondition,
    context: Context = contextlib.nullcontext,
) -> Callable[[], Tensor]:
    batch, channels, height, width = x_t.shape
    image_ids = FluxPipeline._prepare_latent_image_ids(
        batch, height // 2, width // 2, x_t.device, x_t.dtype
    )
    text_ids = torch.zeros(condition.tokens.shape[1], 3, device=x_t.device)

    def step() -> Tensor:
        flux.zero_grad(set_to_none=True)
        packed = FluxPipeline._pack_latents(x_t, batch, channels, height, width)
        with context():
            v = flux(
                hidden_states=packed,
                encoder_hidden_states=condition.tokens,
                pooled_projections=condition.pooled,
                timestep=t,
                img_ids=image_ids,
                txt_ids=text_ids,
                return_dict=False,
            )[0]
        v.float().square().mean().backward()
        return FluxPipeline._unpack_latents(v.detach(), height * 8, width * 8, 8)

    return step


def compare_with_diffusers(
    name: str, config: dict, batch: int, side: int, text_tokens: int, passes: float, pairs: int
) -> Ratio:
    model = build_model(config)
    inputs = make_batch(config, batch, side, torch.full((batch,), text_tokens), no_padding=True)
    ours, theirs = our_step(model, *inputs), flux_step(to_flux(model), *inputs)
    difference = (ours() - theirs()).abs().max().item()
    print(f"{name}: largest difference of outputs {difference:.1e}", flush=True)
    if difference > 1e-5:
        raise SystemExit("the two networks do not compute the same thing; nothing was timed")
    return paired_ratio(name, ours, theirs, pairs=pairs, passes=passes)


def price_of_masks(pairs: int) -> Ratio:
    config = dict(RECIPES["shapes"]["model"])
    model = build_model(config)
    lengths = torch.randint(4, SHAPES_TEXT_TOKENS + 1, (128,))
    lengths[0] = SHAPES_TEXT_TOKENS
    masked = make_batch(config, 128, 8, lengths, no_padding=False)
    full = make_batch(config, 128, 8, torch.full((128,), SHAPES_TEXT_TOKENS), no_padding=True)
    return paired_ratio(
        "shapes: masked captions / unmasked",
        our_step(model, *masked),
        our_step(model, *full),
        pairs=pairs,
        ideal=1.0,
    )


def price_of_text(pairs: int) -> list[Ratio]:
    """Text 64 against 256 tokens: trimmed, and left in place behind a mask."""
    model = build_model(WIDE)

    def step(length: int, real: int) -> Callable[[], Tensor]:
        lengths = torch.full((TEXT_BATCH,), length)
        x_t, t, condition = make_batch(WIDE, TEXT_BATCH, 32, lengths, real == length)
        mask = (torch.arange(length) < real).expand(TEXT_BATCH, -1)
        condition = TextCondition(condition.tokens, mask, condition.pooled, real == length)
        return our_step(model, x_t, t, condition)

    ideal = counted_flops(WIDE, 32, 64) / counted_flops(WIDE, 32, 256)
    return [
        paired_ratio(
            "width 512: text 64 trimmed / 256",
            step(64, 64),
            step(256, 256),
            pairs=pairs,
            ideal=ideal,
            passes=0.63,
        ),
        paired_ratio(
            "width 512: text 64 trimmed / masked at 256",
            step(64, 64),
            step(256, 64),
            pairs=pairs,
            ideal=ideal,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs per row")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/denoiser.json"))
    arguments = parser.parse_args()
    if arguments.pairs < 7:
        parser.error("--pairs must be at least 7")
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    facts = measurement_facts(SEED)
    rows = [
        compare_with_diffusers(
            "width 512, 512 tokens: ours / diffusers", WIDE, 1, 32, 256, 1.00, arguments.pairs
        ),
        compare_with_diffusers(
            "shapes, batch 128: ours / diffusers",
            dict(RECIPES["shapes"]["model"]),
            128,
            8,
            SHAPES_TEXT_TOKENS,
            0.85,
            2 * arguments.pairs + 1,
        ),
        price_of_masks(arguments.pairs),
        *price_of_text(arguments.pairs),
    ]
    print_table(rows)
    write_report(arguments.out, rows, facts)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
