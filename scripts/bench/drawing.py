"""Drawing with the exported pipeline beside diffusers' FluxPipeline, in CPU seconds.

    python -m scripts.bench.drawing [--pairs 5] [--out reports/local/speed/drawing.json]

The same transformer (width 256, 64 image tokens), autoencoder, text encoders, guidance and number
of steps, from captions to pixels. FluxPipeline's captions are padded to the length that ours have,
so that neither side has more tokens to work on; a row shows what its usual 256 cost. An image of
ours does not depend on its neighbours, because batches have a fixed size: 16 at the paper's
recipes, which one image alone pays for where the call asks for them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline

from scripts.bench.denoiser import WIDE, build_model
from scripts.bench.paired_timing import (
    Ratio,
    measurement_facts,
    paired_ratio,
    print_table,
    write_report,
)
from selfe.export.pipeline import SelfEPipeline
from selfe.export.scheduler import AnyStepScheduler
from selfe.generation.fixed_batches import CAPTION_LENGTH_STEP
from selfe.network.flux_conversion import to_flux
from tests.helpers.tiny_pipelines import WIDTH, build_tiny

SEED, STEPS, LATENTS, SLOTS, USUAL_TOKENS = 0, 4, 16, 16, 256
PROMPT = "a photo of a bench"


def pipelines(folder: Path) -> tuple[SelfEPipeline, FluxPipeline]:
    """Both around one network, with tiny encoders of the real classes."""
    theirs = FluxPipeline.from_pretrained(build_tiny("flux-dev", folder, SEED))
    channels = theirs.vae.config.latent_channels
    sizes = {"in_channels": 4 * channels, "num_attention_heads": 4}
    features = {"joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH}
    model = build_model({**WIDE, **sizes, **features}).eval()
    theirs.register_modules(transformer=to_flux(model))
    shared = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    ours = SelfEPipeline(
        denoiser=model,
        scheduler=AnyStepScheduler(),
        **{name: getattr(theirs, name) for name in shared},
        max_tokens=USUAL_TOKENS,
        latent_channels=channels,
        latent_height=LATENTS,
        latent_width=LATENTS,
        batch_slots=SLOTS,
    )
    for pipeline in (ours, theirs):
        pipeline.set_progress_bar_config(disable=True)
    return ours, theirs


def row(
    ours: SelfEPipeline,
    theirs: FluxPipeline,
    name: str,
    images: int,
    scale: float | None,
    tokens: int,
    pairs: int,
    slots: int,
    passes: float | None = 1.0,
) -> Ratio:
    """`scale`: of guidance, None for none. `tokens`: that FluxPipeline pads to."""

    def drawn(pipeline: Any, **own: Any) -> Callable[[], Any]:
        return lambda: pipeline([PROMPT] * images, num_inference_steps=STEPS, **own)

    guided = {"guidance": "none"} if scale is None else {"guidance": "linear"}
    if scale is not None:
        guided["guidance_scale"] = scale
    side = LATENTS * theirs.vae_scale_factor
    avoided = {} if scale is None else {"negative_prompt": [""] * images, "true_cfg_scale": scale}
    return paired_ratio(
        name,
        drawn(ours, **guided, batch_slots=slots),
        drawn(theirs, height=side, width=side, max_sequence_length=tokens, **avoided),
        pairs=pairs,
        passes=passes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs per row")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/drawing.json"))
    arguments = parser.parse_args()
    pairs = arguments.pairs
    torch.set_num_threads(1)
    facts = measurement_facts(SEED)
    with tempfile.TemporaryDirectory() as folder:
        sides = pipelines(Path(folder))
        length = sides[0]._build_text_encoder().encode([PROMPT]).tokens.shape[1]
        same = -(-length // CAPTION_LENGTH_STEP) * CAPTION_LENGTH_STEP
        what = "ours / FluxPipeline"
        rows = [
            row(*sides, f"batch 1, one slot: {what}", 1, None, same, 2 * pairs, 1),
            row(*sides, f"batch 1, one slot, guided: {what}", 1, 2.0, same, 2 * pairs, 1),
            row(*sides, f"batch 1 in 16 slots: {what}", 1, None, same, 3, SLOTS, None),
            row(*sides, f"batch 16: {what}", 16, None, same, pairs, SLOTS),
            row(*sides, f"batch 16, guided: {what}", 16, 2.0, same, pairs, SLOTS),
            row(*sides, f"batch 1, one slot: {what} at 256 tokens", 1, None, 256, pairs, 1, None),
        ]
    print_table(rows)
    write_report(arguments.out, rows, facts)


if __name__ == "__main__":
    main()
