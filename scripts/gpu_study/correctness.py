"""Part "correctness": does the device compute what the references do?"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scripts.bench.fixed_batch_step import TrainingStep, build_perturbed, random_batch
from scripts.gpu_study.rows import Measurement, Mismatch, Part, Row, Settings
from selfe.batch import LatentBatch
from selfe.config.resolve import resolve
from selfe.encoders.registry import build_codec, build_text_encoder
from selfe.generation.any_step import AnyStepGenerator
from selfe.generator import GeneratorFacts
from selfe.network.denoiser import DualTimeDenoiser
from selfe.run_folder.model import latent_shape_of
from selfe.seeding import SampleRng
from selfe.training.block_execution import accelerate

ABOUT = (
    "Relative errors are ||a - b|| / ||b|| over all elements; the reference is in fp64 unless the "
    "row names another. Losses and gradients of the objectives: distance of the device's fp32 from "
    "an fp64 network on the processor, beside the distance of the processor's own fp32."
)
METHODS = (
    *(("fm", ""), ("selfe", ""), ("selfe", "aux"), ("imm", "")),
    *(("shortcut", ""), ("transition", ""), ("meanflow", "")),
)
PROMPTS = ["a photo of a red circle", "a photo of two stars and a blue ring"] * 4


def relative_error(a: Tensor, b: Tensor) -> float:
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm())


def check(row: Row, limits: dict[str, float]) -> Row:
    """The row with its limits.

    Raises:
        Mismatch: if a figure is above its limit or no number.
    """
    wrong = [f"{key} = {row[key]:.3g}" for key, most in limits.items() if not row[key] <= most]
    if wrong:
        raise Mismatch(f"{', '.join(wrong)} (limits {limits})")
    return {**row, "limits": limits}


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """All gradients, 0 where there is none."""
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return torch.cat([part.double().flatten() for part in parts])


def velocity_and_gradient(
    model: DualTimeDenoiser, batch: LatentBatch, context: contextlib.AbstractContextManager
) -> tuple[Tensor, Tensor]:
    t = torch.linspace(0.1, 1.0, len(batch), dtype=torch.float64, device=batch.x_0.device)
    model.zero_grad(set_to_none=True)
    with context:
        v = model(batch.x_0, t, t / 2, batch.condition)
    v.double().square().mean().backward()
    return v.detach(), flat_gradient(model)


def as_double(batch: LatentBatch) -> LatentBatch:
    return replace(
        batch,
        x_0=batch.x_0.double(),
        condition=batch.condition.to(torch.float64),
        null=batch.null.to(torch.float64),
    )


def half_padded(batch: LatentBatch) -> LatentBatch:
    """The same with every other caption cut to half its tokens, behind a mask."""
    condition = batch.condition
    mask = condition.mask.clone()
    mask[::2, mask.shape[1] // 2 :] = False
    return replace(batch, condition=replace(condition, mask=mask, no_padding=False))


def precision(settings: Settings, bf16: bool, compiled: bool, masked: bool = False) -> Row:
    """Our network in one precision, eager or compiled, against fp64 on the same device.

    `masked`: with padding, which takes another attention kernel, and an odd number of tokens.
    """
    config = settings.config("0.5b", "fm")
    config = config.model_copy(
        update={
            "model": config.model.model_copy(
                update={} if settings.tiny else {"num_layers": 2, "num_single_layers": 4}
            )
        }
    )
    side, text = (8, 16) if settings.tiny else (32, 256)
    batch = random_batch(config, 4, side, 75 if masked else text, device=settings.device)
    batch = half_padded(batch) if masked else batch
    reference = build_perturbed(config, settings.device).double()
    v_ref, gradient_ref = velocity_and_gradient(
        reference, as_double(batch), contextlib.nullcontext()
    )
    del reference
    model = build_perturbed(config, settings.device)

    def of_model() -> tuple[Tensor, Tensor]:
        kind = torch.device(settings.device).type
        context = torch.autocast(kind, torch.bfloat16) if bf16 else contextlib.nullcontext()
        return velocity_and_gradient(model, batch, context)

    limits = {"velocity": 3e-2, "gradient": 6e-2} if bf16 else {"velocity": 1e-5, "gradient": 1e-4}
    v, gradient = of_model()
    row = {}
    if compiled:
        v_eager, gradient_eager = v, gradient
        accelerate(model, config.train)
        v, gradient = of_model()
        row = {
            "velocity_from_eager": relative_error(v, v_eager),
            "gradient_from_eager": relative_error(gradient, gradient_eager),
        }
        limits |= {f"{key}_from_eager": most for key, most in limits.items()}
    row |= {
        "velocity": relative_error(v, v_ref),
        "gradient": relative_error(gradient, gradient_ref),
    }
    return check(row, limits)


def loss_and_gradient(
    settings: Settings, method: str, variant: str, device: str, double: bool
) -> tuple[Tensor, Tensor]:
    """Of the shapes-64 network (shapes in a rehearsal), fp32 or with the networks in fp64."""
    recipe = "shapes" if settings.tiny else "shapes-64"
    assignments = ["train.precision=fp32", "train.compile=false"]
    config = resolve(recipe, method, variant=variant, assignments=assignments)
    batch = random_batch(config, 8 if settings.tiny else 32, 8, 12, device=device)
    step = TrainingStep(config, batch, device)
    if double:
        step.model.double()
        step.ema.module.double()
    loss = step.gradients()
    return loss, flat_gradient(step.model)


def objective(settings: Settings, method: str, variant: str) -> Row:
    """The device may be ten times as far from fp64 as the processor's fp32 is."""

    def of(device: str, double: bool = False) -> tuple[Tensor, Tensor]:
        return loss_and_gradient(settings, method, variant, device, double)

    reference, processor, device = of("cpu", double=True), of("cpu"), of(settings.device)
    row = {
        "loss": float(device[0]),
        "loss_error": relative_error(device[0], reference[0]),
        "loss_error_cpu": relative_error(processor[0], reference[0]),
        "gradient": relative_error(device[1], reference[1]),
        "gradient_cpu": relative_error(processor[1], reference[1]),
    }
    limits = {
        "loss_error": 10 * row["loss_error_cpu"] + 1e-6,
        "gradient": 10 * row["gradient_cpu"] + 1e-6,
    }
    return check(row, limits)


def noise(settings: Settings) -> Row:
    """The same draws on the device and on the processor."""
    position = torch.arange(64)
    here, there = SampleRng(7, position), SampleRng(7, position, settings.device)
    uniform = here.uniform("s", torch.float64), there.uniform("s", torch.float64).cpu()
    normal = here.normal("eps", (16, 32, 32)), there.normal("eps", (16, 32, 32)).cpu()
    row = {
        "uniform_difference": float((uniform[0] - uniform[1]).abs().max()),
        "normal_difference": float((normal[0] - normal[1]).abs().max()),
        "normal_bit_equal": bool(torch.equal(*normal)),
    }
    # logarithm and cosine are rounded differently on other hardware
    return check(row, {"uniform_difference": 0.0, "normal_difference": 5e-6})


def draw(settings: Settings, device: str, slots: int) -> np.ndarray:
    config = resolve("shapes", "selfe", assignments=[f"sampling.batch_slots={slots}"])
    codec = build_codec(config, device)
    generator = AnyStepGenerator(
        build_perturbed(config, device),
        codec,
        build_text_encoder(config, "cpu"),
        latent_shape=latent_shape_of(config, codec),
        settings=config.sampling,
        facts=GeneratorFacts("study", "study", "selfe", "", (32, 32)),
    )
    images = generator.generate(PROMPTS, 4, list(range(len(PROMPTS))))
    finite = [image for image in images if image is not None]
    if len(finite) < len(images):
        raise Mismatch(f"{len(images) - len(finite)} images are not finite")
    return np.stack(finite).astype(int)


def images(settings: Settings) -> Row:
    """Pixel levels of 255 by which images differ between batch sizes, and from the processor."""
    one, other = draw(settings, settings.device, 8), draw(settings, settings.device, 2)
    again = draw(settings, settings.device, 8)
    processor = draw(settings, "cpu", 8)
    row = {
        "levels_between_runs": float(np.abs(one - again).max()),
        "levels_between_batch_sizes": float(np.abs(one - other).max()),
        "levels_from_cpu": float(np.abs(one - processor).max()),
    }
    return check(
        row, {"levels_between_runs": 0, "levels_between_batch_sizes": 2, "levels_from_cpu": 2}
    )


def correctness(settings: Settings) -> Part:
    def row(name: str, seconds: float, run: Callable[[], Row]) -> Measurement:
        return Measurement(name, seconds, run)

    rows = [
        row(
            f"{'bf16' if bf16 else 'fp32'} {'compiled' if compiled else 'eager'}"
            f"{', masked captions' if masked else ''}, against fp64",
            60 if compiled else 20,
            lambda bf16=bf16, compiled=compiled, masked=masked: precision(
                settings, bf16, compiled, masked
            ),
        )
        for bf16, compiled, masked in (
            *itertools.product((False, True), (False, True), (False,)),
            (True, True, True),
        )
    ]
    rows += [
        row(
            f"{method} {variant}".strip() + " loss",
            20,
            lambda method=method, variant=variant: objective(settings, method, variant),
        )
        for method, variant in METHODS
    ]
    rows += [
        row("noise against the processor", 10, lambda: noise(settings)),
        row("images", 20, lambda: images(settings)),
    ]
    return Part(ABOUT, rows)
