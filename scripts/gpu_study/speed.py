"""Parts "network", "steps" and "checkpoint": what training costs on the device."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from scripts.bench.denoiser import flux_step, our_step
from scripts.bench.fixed_batch_step import LATE, TrainingStep, build_perturbed, random_batch
from scripts.gpu_study.rows import (
    PEAK_TFLOPS,
    Measurement,
    Part,
    Row,
    Settings,
    largest_that_fits,
    median_seconds,
    wall_seconds,
)
from selfe.batch import LatentBatch
from selfe.config.resolve import build_objective
from selfe.config.schema import RunConfig
from selfe.device import autocast, used_on, uses_bf16
from selfe.network.flops import flops_per_image
from selfe.network.flux_conversion import to_flux
from selfe.planning.passes import passes_of
from selfe.seeding import SampleRng
from selfe.training.block_execution import accelerate
from selfe.training.callbacks import Callbacks, Progress
from selfe.training.loop import train

RESOLUTION = 256
GROUP = 4
"""IMM's particles: every batch is a multiple."""
BATCHES = {"0.5b": 64, "2b": 16}
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
METHODS = (("fm", ""), ("selfe", ""), ("selfe", "aux"), ("imm", ""))
STATIC = ("selfe", "")
"""Measured with a graph for each shape as well, before the usual way, which compiles longer."""


def recipes_of(settings: Settings) -> list[str]:
    """Shrunk, both recipes are the same network."""
    return list(BATCHES)[:1] if settings.tiny else list(BATCHES)


def side_of(settings: Settings) -> int:
    return 4 if settings.tiny else RESOLUTION // 8


def flops_per_step(config: RunConfig, settings: Settings, text: int) -> float:
    """Matrix products of one image's step, every pass counted; the null prompt is one token."""
    pixels = 8 * side_of(settings)
    tokens = {"own": text, "fake": text, "null": 1}
    model = config.model.model_dump()
    return sum(
        p.share * p.cost * flops_per_image(model, pixels, pixels, tokens[p.caption])
        for p in passes_of(build_objective(config), LATE)
    )


def gib(number: float) -> float:
    return round(number / 2**30, 3)


@contextmanager
def empty_compile_cache() -> Iterator[None]:
    """Whatever was compiled before, by this process or another, is not found."""
    before = {name: os.environ.pop(name, None) for name in CACHES}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ |= dict.fromkeys(CACHES, folder)
        torch.compiler.reset()
        try:
            yield
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value


def network_row(settings: Settings, recipe: str, batch: int) -> Row:
    """Forward and backward of one batch: ours and diffusers', eager and compiled, in turn."""
    config = settings.config(recipe, "fm")
    text = 16 if settings.tiny else 256
    data = random_batch(config, batch, side_of(settings), text, device=settings.device)
    t = torch.linspace(0.05, 1.0, batch, device=settings.device)
    model = build_perturbed(config, settings.device, drawn_there=True)
    inputs = (data.x_0, t, data.condition)
    cast = partial(autocast, torch.device(settings.device), config.train.precision)
    with torch.device(settings.device):  # its own initialisation takes minutes on a processor
        flux = to_flux(model)
    ours, theirs = our_step(model, *inputs, cast), flux_step(flux, *inputs, cast)
    difference = (ours() - theirs()).abs().max().item()
    budget = 0.0 if settings.tiny else 10.0
    eager = median_seconds([ours, theirs], settings.device, budget)
    with empty_compile_cache():
        accelerate(model, config.train)
        cold = wall_seconds(ours, settings.device)
        flux.compile_repeated_blocks(fullgraph=True)
        compiled = median_seconds([ours, theirs], settings.device, budget)
    images = {
        "ours_compiled": batch / compiled[0],
        "ours_eager": batch / eager[0],
        "diffusers_compiled": batch / compiled[1],
        "diffusers_eager": batch / eager[1],
    }
    return {
        "text": text,
        **{f"{name}_images_s": value for name, value in images.items()},
        "ours_compiled_over_diffusers_eager": images["ours_compiled"] / images["diffusers_eager"],
        "ours_over_diffusers_both_compiled": images["ours_compiled"] / images["diffusers_compiled"],
        "cold_start_s": cold,
        "largest_difference": difference,
    }


def network(settings: Settings) -> Part:
    return Part(
        "Images per second, forward and backward alone, text 256; targets: compiled blocks at "
        "least 1.4 times eager diffusers, cold start within 90 s. All four in one process, under "
        "the same autocast with weights in fp32.",
        [
            Measurement(
                recipe,
                240,
                lambda recipe=recipe: largest_that_fits(
                    GROUP if settings.tiny else BATCHES[recipe] // 2,
                    GROUP,
                    lambda batch: network_row(settings, recipe, batch),
                    settings.device,
                ),
            )
            for recipe in recipes_of(settings)
        ],
    )


@dataclass(frozen=True)
class StepCase:
    """What is trained in a row of the part "steps".

    Attributes:
        static: a graph is compiled for each shape, where usually the second shape makes the batch
            a variable of the graph; Self-E has three shapes, Flow Matching one.
    """

    recipe: str
    text: int
    method: str
    variant: str = ""
    static: bool = False
    precision: str = "auto"

    @property
    def name(self) -> str:
        method = f"{self.recipe} {self.method} {self.variant}".strip()
        name = f"{method}, text {self.text}" + (", a graph for each shape" if self.static else "")
        return name if self.precision == "auto" else f"{name}, {self.precision}"

    @property
    def expected_seconds(self) -> float:
        """Compiling included, of which graphs for any batch need most: Self-E has several."""
        many = 60 if self.method == "selfe" and not self.static else 0
        return (90 if self.recipe == "0.5b" else 140) + many


def step_row(settings: Settings, case: StepCase, batch: int) -> Row:
    """Whole training steps: objective, backward, clipping, Adam and moving average.

    Peak memory is that of steps after the first, in which the compiler tries out kernels. What a
    step adds to the state is divided by the images, less the gradients and the copies of the
    weights that autocast makes.
    """
    config = settings.config(case.recipe, case.method, case.variant, case.precision)
    data = random_batch(config, batch, side_of(settings), case.text, device=settings.device)
    step = TrainingStep(config, data, settings.device, drawn_there=True)
    dynamo = torch._dynamo.config
    shapes = dynamo.patch(automatic_dynamic_shapes=False) if case.static else nullcontext()
    with shapes:
        cold = wall_seconds(step, settings.device)
        if settings.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        (seconds,) = median_seconds([step], settings.device, 0.0 if settings.tiny else 6.0)
    flops = flops_per_step(config, settings, case.text)
    row: Row = {
        "recipe": case.recipe,
        "method": f"{case.method} {case.variant}".strip(),
        "text": case.text,
        "graphs": "static" if case.static else "automatic",
        "precision": used_on(step.device, case.precision),
        "step_ms": 1000 * seconds,
        "images_s": batch / seconds,
        "tflops": flops * batch / seconds / 1e12,
        "mfu_of_790": flops * batch / seconds / 1e12 / PEAK_TFLOPS,
        "first_step_s": cold,
    }
    if settings.on_gpu:
        numbers = sum(p.numel() for p in step.model.parameters())
        copies = 2 * numbers if uses_bf16(step.device, config.train.precision) else 0
        step.optimizer.zero_grad(set_to_none=True)
        state, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        row |= {
            "peak_gib": gib(peak),
            "state_gib": gib(state),
            "activations_gib_per_image": gib((peak - state - 4 * numbers - copies) / batch),
        }
    return row


def add_ratios(rows: list[Row]) -> None:
    """Seconds per image over those of flow matching with the same network and text."""
    flow = {(row["recipe"], row["text"]): row for row in rows if row["method"] == "fm"}
    for row in rows:
        base = flow.get((row["recipe"], row["text"]))
        row["over_fm"] = base["images_s"] / row["images_s"] if base else float("nan")


def steps(settings: Settings) -> Part:
    texts = (16,) if settings.tiny else (256, 64, 128)
    cases = [
        StepCase(recipe, text, method, variant, static)
        for text in texts
        for recipe in recipes_of(settings)
        for method, variant in METHODS
        for static in ((True, False) if text == texts[0] else (False,))
        if not static or (method, variant) == STATIC
    ]
    # what the recipes train IMM in; above it computes as the others do
    cases += [
        StepCase(recipe, texts[0], "imm", precision="tf32") for recipe in recipes_of(settings)
    ]
    return Part(
        "Whole training steps with compiled blocks and cached latents; MFU counts the matrix "
        "products of every pass of the step (those that our last block skips too, 1.8% of the 0.5b "
        "network's). Targets: FM at text 256 at least 50% (0.5b) and 55% "
        "(2b) of 790 TFLOP/s, Self-E / FM at most 1.40. TF32 has half the peak of bf16, and MFU is "
        "over the latter all the same.",
        [
            Measurement(
                case.name,
                case.expected_seconds,
                lambda case=case: largest_that_fits(
                    GROUP if settings.tiny else BATCHES[case.recipe],
                    GROUP,
                    lambda batch: step_row(settings, case, batch),
                    settings.device,
                ),
            )
            for case in cases
        ],
        add_ratios,
    )


class OneBatch:
    """A `BatchSource` that gives the same samples whatever it is asked for."""

    def __init__(self, batch: LatentBatch) -> None:
        self.samples = batch

    def batch(self, rng: SampleRng) -> LatentBatch:
        return self.samples


def checkpoint_row(settings: Settings, recipe: str) -> Row:
    """How much longer an iteration with a checkpoint takes, in the trainer's own loop.

    The first reserves pinned memory for the copy; the second is what a run sees from then on,
    unless the first is not written yet, for which it waits.
    """
    every, batch = (6, GROUP) if settings.tiny else (200, 32)
    config = settings.config(recipe, "fm")
    config = config.model_copy(
        update={
            "train": config.train.model_copy(
                update={
                    "iterations": 2 * every + 1,
                    "batch_size": batch,
                    "micro_batch_size": None,
                    "checkpoint_every": every,
                    "milestone_every": None,
                    "log_every": 1,
                    "compile": False,
                }
            )
        }
    )
    text = 16 if settings.tiny else 256
    data = random_batch(config, batch, side_of(settings), text, device=settings.device)
    stamps: list[float] = []

    def stamp(progress: Progress) -> None:
        stamps.append(time.perf_counter())

    folder = settings.work / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        train(
            config,
            model=build_perturbed(config, settings.device, drawn_there=True),
            objective=build_objective(config),
            source=OneBatch(data),
            run_dir=folder,
            callbacks=Callbacks(progress=stamp),
        )
        total = time.perf_counter() - stamps[-1]
        (newest,) = folder.glob(f"checkpoints/step-{2 * every + 1:08d}")
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    # progress n is told before checkpoint n is written: the gap that follows holds the save
    gaps = [b - a for a, b in zip(stamps, stamps[1:], strict=False)]
    usual = statistics.median(gaps[1 : every - 1])
    return {
        "batch": batch,
        "iteration_s": usual,
        "iteration_while_writing_s": statistics.median(gaps[every : every + 4]),
        "first_stall_s": gaps[every - 1] - usual,
        "stall_s": gaps[2 * every - 1] - usual,
        "seconds_between": every * usual,
        "last_saves_s": total,
        "checkpoint_gib": gib(size),
    }


def checkpoint(settings: Settings) -> Part:
    rows: dict[str, Callable[[], Any]] = {"0.5b": partial(checkpoint_row, settings, "0.5b")}
    return Part(
        "Stall of training by a checkpoint between two iterations, copied to the host and written "
        "in the background; target: at most 1 s. The last two saves, of two iterations in a row, "
        "are waited for.",
        [Measurement(name, 300, run) for name, run in rows.items()],  # two saves follow each other
    )
