"""Warnings about choices that are allowed and probably unintended, one line each.

`selfe.config.suspicious` has the settings that defeat each other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from selfe.config.drawing import override_sampling, sampling_facts
from selfe.config.schema import RunConfig
from selfe.objectives.registry import load_method

_LEAST_SHARE = 0.8
"""Share of the device's memory from which a batch is mentioned."""


def of_training(config: RunConfig, device: str, workers: int | None) -> Iterator[str]:
    """Warnings about a training that is about to start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if workers is not None and workers > cores:
        yield f"--workers {workers} on {cores} cores: more processes than cores wait for each other"
    if config.data.source == "latents" and config.data.workers > cores:
        yield f"data.workers = {config.data.workers} on {cores} cores"
    need, room = _memory_needed(config, workers or 1), _memory_there(device)
    if room and need > _LEAST_SHARE * room:
        yield (
            f"a step needs about {need / 1e9:.0f} GB and {device} has {room / 1e9:.0f}: "
            "lower train.micro_batch_size"
        )


def of_drawing(config: RunConfig, over: Mapping[str, object]) -> Iterator[str]:
    """Warnings about overrides of a run's sampling that change no image."""
    prediction = load_method(config.method).prediction
    drawn = override_sampling(config.sampling, dict(over))
    for key in over:
        if key in ("by_steps", "batch_slots"):
            continue
        without = override_sampling(config.sampling, {k: v for k, v in over.items() if k != key})
        starts = sorted({1, *config.sampling.by_steps})
        vain = []
        for n in starts:
            ours, its = drawn.at(n), without.at(n)
            same = sampling_facts(ours, prediction) == sampling_facts(its, prediction)
            if same and getattr(ours, key) != getattr(its, key):
                vain.append(f"from {n}")
        if vain:
            where = "" if len(vain) == len(starts) else f" {', '.join(vain)} steps on"
            yield (
                f"sampling.{key} = {over[key]} changes no image{where}: the other sampling "
                "settings there leave it without effect (`selfe-bench ls settings` explains them)"
            )


def _memory_needed(config: RunConfig, processes: int) -> int:
    """Bytes at the peak of a step, by `selfe.planning.memory`, of all processes together."""
    from selfe.config.stages import stage_at
    from selfe.planning.memory import image_tokens, memory_of, resolutions_of
    from selfe.planning.passes import passes_at

    stage = stage_at(config, 0)
    images = min(config.train.micro_batch_size or stage.batch_size, stage.batch_size)
    side = max(resolutions_of(config, stage))
    text = 24 if config.data.source == "shapes" else 256
    tokens = image_tokens(config, side) + text
    memory = memory_of(config, passes_at(config, 0), tokens, images, 1)
    return memory.activations + processes * (memory.total - memory.activations)


def _memory_there(device: str) -> int:
    """Bytes of a device; 0 where it is not known."""
    if device.startswith("cuda"):
        import torch

        try:
            return int(torch.cuda.get_device_properties(device).total_memory)
        except (RuntimeError, AssertionError, ValueError):  # a hint must not end a training
            return 0
    if device != "cpu":
        return 0
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def of_prompts(prompts: Sequence[str], preset: str) -> Iterator[str]:
    """Words that a model of the shapes world has never met, so that they mean nothing to it."""
    from selfe.data.shapes_world.presets import open_world
    from selfe.data.shapes_world.vocabulary import COLORS, NUMBERS, RELATIONS, plural

    shapes = open_world(preset).shapes
    names = " ".join([*shapes, *map(plural, shapes)]).split()
    known = {"a", "an", "photo", "of", "and", *COLORS, *names, *NUMBERS}
    known |= {word for relation in RELATIONS for word in relation.split()}
    for prompt in prompts:
        words = re.findall(r"[a-z0-9-]+", prompt.lower())
        unknown = list(dict.fromkeys(word for word in words if word not in known))
        if unknown:
            yield (
                f"{prompt!r}: the shapes world has no word {', '.join(map(repr, unknown))}; its "
                f"shapes are {', '.join(shapes)}"
            )
