"""Drawing a suite's images: GenEval's folder layout, resumable at any instant.

Work is cut into chunks of fixed composition, decided by the list of prompts alone. A chunk with a
missing or damaged image is drawn again whole, so that an image meets the same neighbours in a
batch whatever happened before: what a resumed run writes is byte-equal to an uninterrupted one.
Files of a chunk are written while the next one is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from evals.image_identity import ImageIdentity
from evals.images import (
    image_is_intact,
    sample_path,
    write_failed_marker,
    write_metadata,
    write_png,
)
from evals.scoring.drawing_cost import DrawingMeter
from selfe.generator import GeneratedImage, TextToImage, image_seed, told_while_drawing

Progress = Callable[[int, int], None]
WRITERS = 4
"""Threads that compress images, which leaves the interpreter free."""


@dataclass(frozen=True)
class Job:
    """One image: prompt `prompt_id` of the suite, sample number `sample_id`."""

    prompt_id: int
    sample_id: int


def plan_chunks(num_prompts: int, images_per_prompt: int, chunk_size: int) -> list[list[Job]]:
    """All images in order, cut into chunks that depend on nothing else."""
    jobs = [Job(p, i) for p in range(num_prompts) for i in range(images_per_prompt)]
    return [jobs[start : start + chunk_size] for start in range(0, len(jobs), chunk_size)]


def draw_images(
    generator: TextToImage,
    records: Sequence[dict[str, Any]],
    *,
    num_steps: int,
    images_per_prompt: int,
    seed: int,
    folder: Path,
    progress: Progress = lambda done, total: None,
    rank: int = 0,
    world_size: int = 1,
    image_set: str = "",
) -> DrawingMeter:
    """Draw what is missing under `folder`.

    Args:
        records: the suite's prompts, in order; their place is their prompt_id.
        seed: of the benchmark run; with prompt text and sample number it fixes an image.
        rank, world_size: chunk k is drawn by process k mod world_size.
        image_set: name of the set, which every image says it belongs to.

    Returns:
        What it cost, over the images drawn now (not those found).
    """
    chunks = plan_chunks(len(records), images_per_prompt, generator.chunk_size)
    total = sum(len(chunk) for chunk in chunks)
    done = 0
    meter = DrawingMeter(generator)
    writing: list[Future[None]] = []

    def identity(job: Job) -> ImageIdentity:
        prompt = records[job.prompt_id]["prompt"]
        return ImageIdentity(image_set, job.prompt_id, job.sample_id, prompt)

    with ThreadPoolExecutor(WRITERS) as writers:
        for number, chunk in enumerate(chunks):
            if number % world_size == rank:
                if not all(
                    image_is_intact(folder, job.prompt_id, job.sample_id, identity(job))
                    for job in chunk
                ):
                    with told_while_drawing(_in_whole_images(progress, done, total)):
                        images = _draw_chunk(generator, records, chunk, num_steps, seed, meter)
                    _finish(writing)  # never more than one chunk waits for the disk
                    pairs = zip(chunk, images, strict=True)
                    writing = [
                        writers.submit(
                            _write_prompt, folder, prompt_id, records[prompt_id], list(g), identity
                        )
                        for prompt_id, g in groupby(pairs, key=lambda pair: pair[0].prompt_id)
                    ]
            done += len(chunk)
            progress(done, total)
        _finish(writing)
    return meter


def _in_whole_images(progress: Progress, done: int, total: int) -> Callable[[float], None]:
    """Tells `progress` of every further image of the chunk that begins after `done` images."""
    told = 0

    def listener(images: float) -> None:
        nonlocal told
        if int(images) > told:
            told = int(images)
            progress(done + told, total)

    return listener


def _draw_chunk(
    generator: TextToImage,
    records: Sequence[dict[str, Any]],
    chunk: Sequence[Job],
    num_steps: int,
    seed: int,
    meter: DrawingMeter,
) -> list[GeneratedImage]:
    prompts = [records[job.prompt_id]["prompt"] for job in chunk]
    seeds = [
        image_seed(seed, prompt, job.sample_id) for job, prompt in zip(chunk, prompts, strict=True)
    ]
    with meter.watch(len(chunk)):
        return generator.generate(prompts, num_steps, seeds)


def _write_prompt(
    folder: Path,
    prompt_id: int,
    record: dict[str, Any],
    images: Sequence[tuple[Job, GeneratedImage]],
    identity: Callable[[Job], ImageIdentity],
) -> None:
    write_metadata(folder, prompt_id, record)
    for job, image in images:
        if image is None:
            reason = "latents are not finite"
            write_failed_marker(folder, prompt_id, job.sample_id, reason, identity(job))
        else:
            write_png(sample_path(folder, prompt_id, job.sample_id), image, identity(job))


def _finish(writing: Sequence[Future[None]]) -> None:
    """Wait for writers, and raise what went wrong in one."""
    for each in writing:
        each.result()
