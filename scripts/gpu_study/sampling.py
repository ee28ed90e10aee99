"""Part "sampling": images per second at every number of steps, written as PNG."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evals.scoring.draw import draw_images
from evals.suites.geneval import geneval_records
from scripts.bench.fixed_batch_step import build_perturbed
from scripts.gpu_study.rows import Measurement, Part, Row, Settings, synchronize
from selfe.batch import TextCondition
from selfe.encoders.flux import FluxVAE
from selfe.generation.any_step import AnyStepGenerator
from selfe.generator import GeneratorFacts
from selfe.seeding import derive_seed
from selfe.training.block_execution import accelerate

PROMPTS, IMAGES_PER_PROMPT = 553, 4
TARGET_MINUTES = 6
TEXT_TOKENS = 16
"""About what T5 makes of GenEval's prompts."""
STEP_COUNTS = (2, 4, 8, 50)


class Under(nn.Module):
    """A network under bf16 autocast, as it was trained."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network, self.kind = network, torch.device(device).type

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            return self.network(x_t, t, s, condition)


class RandomText:
    """A `TextEncoder` whose features are noise of the right shapes: nothing to download."""

    max_tokens = TEXT_TOKENS
    digest = "random"

    def __init__(self, token_dim: int, pooled_dim: int) -> None:
        self.token_dim, self.pooled_dim = token_dim, pooled_dim

    def encode(self, captions: Sequence[str]) -> TextCondition:
        """(B, 16, D) for captions; the null prompt is one token."""
        tokens = torch.zeros(len(captions), TEXT_TOKENS, self.token_dim)
        pooled = torch.zeros(len(captions), self.pooled_dim)
        mask = torch.zeros(len(captions), TEXT_TOKENS, dtype=torch.bool)
        for row, caption in enumerate(captions):
            length = TEXT_TOKENS if caption else 1
            generator = torch.Generator().manual_seed(derive_seed(caption))
            tokens[row, :length] = torch.randn(length, self.token_dim, generator=generator)
            pooled[row] = torch.randn(self.pooled_dim, generator=generator)
            mask[row, :length] = True
        return TextCondition(tokens, mask, pooled)

    def count_truncated(self, captions: Sequence[str]) -> int:
        return 0

    def to(self, device: str) -> RandomText:
        return self


def random_vae(settings: Settings) -> FluxVAE:
    """The autoencoder of FLUX.1 with random weights."""
    from diffusers import AutoencoderKL

    widths = (8, 8, 8, 8) if settings.tiny else (128, 256, 512, 512)
    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=1 if settings.tiny else 2,
        latent_channels=16,
        norm_num_groups=8 if settings.tiny else 32,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return FluxVAE(autoencoder, "random").to(settings.device)


def sampling_row(
    settings: Settings, recipe: str, num_steps: int, images: int, slots: int, fast: bool
) -> Row:
    """`images` images of GenEval's prompts with guidance, from captions to PNG files."""
    config = settings.config(recipe, "selfe")
    network = build_perturbed(config, settings.device, drawn_there=True)
    if fast:
        accelerate(network, config.train)
        network = Under(network, settings.device)
    side = 4 if settings.tiny else 32
    generator = AnyStepGenerator(
        network,
        random_vae(settings),
        RandomText(config.model.joint_attention_dim, config.model.pooled_projection_dim),
        latent_shape=(16, side, side),
        settings=config.sampling.model_copy(update={"batch_slots": slots}),
        facts=GeneratorFacts("study", "study", "selfe", "", (8 * side, 8 * side)),
    )
    records = geneval_records()[: max(1, images // IMAGES_PER_PROMPT)]
    generator.generate([records[0]["prompt"]], 1, [0])  # compiles
    folder = settings.work / "sampling"
    shutil.rmtree(folder, ignore_errors=True)
    synchronize(settings.device)
    started = time.perf_counter()
    cost = draw_images(
        generator,
        records,
        num_steps=num_steps,
        images_per_prompt=IMAGES_PER_PROMPT,
        seed=0,
        folder=folder,
    )
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return {
        "steps": num_steps,
        "nfe": generator.nfe(num_steps),
        "slots": slots,
        "precision": "bf16, compiled" if fast else "as runs are sampled, eager",
        "images": cost.images,
        "images_s": cost.images / seconds,
        "minutes_per_2212": PROMPTS * IMAGES_PER_PROMPT * seconds / cost.images / 60,
    }


def add_total(rows: list[Row]) -> None:
    """Minutes for the whole suite at all four numbers of steps, beside the rows it is made of."""
    for recipe in {row["name"].partition(",")[0] for row in rows}:
        fast = [
            row for row in rows if row["name"].startswith(recipe) and "bf16" in row["precision"]
        ]
        if {row["steps"] for row in fast} >= set(STEP_COUNTS):
            total = sum(row["minutes_per_2212"] for row in fast)
            for row in fast:
                row["minutes_all_steps"] = total


def sampling(settings: Settings) -> Part:
    rows = []
    for recipe in ("0.5b",) if settings.tiny else ("0.5b", "2b"):
        for steps in STEP_COUNTS:
            images = 8 if settings.tiny else {2: 1024, 4: 1024, 8: 512, 50: 128}[steps]
            slots = 4 if settings.tiny else 64
            rows.append(
                Measurement(
                    f"{recipe}, {steps} steps",
                    60 if recipe == "0.5b" else 120,
                    lambda r=recipe, k=steps, n=images, b=slots: sampling_row(
                        settings, r, k, n, b, fast=True
                    ),
                )
            )
    rows.insert(
        len(STEP_COUNTS),
        Measurement(
            "0.5b, 4 steps, as runs are sampled",
            60,
            lambda: sampling_row(settings, "0.5b", 4, 8 if settings.tiny else 64, 16, fast=False),
        ),
    )
    return Part(
        "Images per second from captions to PNG files: energy-preserving guidance, random FLUX VAE "
        f"and text of {TEXT_TOKENS} tokens; minutes are extrapolated to GenEval's 2,212 images. "
        f"Target: 2, 4, 8 and 50 steps together within {TARGET_MINUTES} minutes (0.5b).",
        rows,
        add_total,
    )
