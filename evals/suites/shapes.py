"""Suite shapes@1: prompts about the shapes world, drawn as GenEval draws its own.

Two splits: `validation`, about 100 prompts, on which guidance and samplers are chosen, and
`heldout`, on which results are reported. They share no prompt, except in `single_object`: there
are only as many such prompts as shapes (6 in preset grid, 12 in free), so both splits hold all of
them. A task with few prompts (two_object has 30 in grid, counting 18) gives validation at most a
third of them.

Held-out pairs of shape and colour (see `ShapesWorld.heldout_pairs`) occur in color_attr prompts of
the heldout split only, in at least 25 of them: after GenEval's 100 draws, drawing goes on for such
prompts alone until there are 25. `ShapesWorld.is_unseen` tells them apart.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from evals.suites.base import Suite
from selfe.data.shapes_world import TASKS, ShapesWorld, draw_record

NAME = "shapes@1"
SPLITS = ("validation", "heldout")
DRAWS_PER_TASK = 100
VALIDATION_PER_TASK = 20
LEAST_UNSEEN = 25
ROUND_TRIP_SCORE = {"shapes@1": 0.9975, "scenes@1": 1.0}
"""Share of correct renders still judged right after a round trip through the codec, the ceiling of
any model in its latents: `python -m scripts.checks.ruler --preset grid --images 2400`. The codec
of scenes@1 loses nothing."""
_SEEDS = {"validation": 44, "heldout": 43}


def records(split: str, preset: str = "grid") -> list[dict[str, Any]]:
    """The records of a split, task by task, in GenEval's key order.

    Raises:
        ValueError: where split or preset is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {NAME}; the splits are {', '.join(SPLITS)}")
    return json.loads(_drawn(preset)[SPLITS.index(split)])


def grid_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`shapes@1`; without a split, `heldout`."""
    return _suite("shapes@1", "grid", split, prompts)


def free_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`shapes-free@1`: the larger world, at the price of a larger network; else as `shapes@1`."""
    return _suite("shapes-free@1", "free", split, prompts)


def _suite(name: str, preset: str, split: str, prompts: str | Path | None) -> Suite:
    if prompts is not None:
        raise ValueError(f"{name} draws its own prompts; --prompts belongs to geneval-long@1")
    split = split or "heldout"
    drawn = records(split, preset)
    world = ShapesWorld(preset)
    pairs = [i for i, record in enumerate(drawn) if record["tag"] == "color_attr"]
    groups = {
        "seen": [i for i in pairs if not world.is_unseen(drawn[i])],
        "unseen": [i for i in pairs if world.is_unseen(drawn[i])],
    }
    return Suite(
        name,
        drawn,
        detector="shapes",
        color_classifier="shapes",
        detector_options={"preset": preset},
        split=split,
        groups={group: ids for group, ids in groups.items() if ids},
        world_preset=preset,
    )


@functools.cache
def _drawn(preset: str) -> tuple[str, str]:
    """Both splits as JSON, so that no caller can change the cached records."""
    world = ShapesWorld(preset)
    rngs = {split: np.random.default_rng(seed) for split, seed in _SEEDS.items()}
    validation: list[dict[str, Any]] = []
    heldout: list[dict[str, Any]] = []
    for tag in TASKS:
        if tag == "single_object":
            for split, prompts in (("validation", validation), ("heldout", heldout)):
                prompts += _every_single_object(world, rngs[split])
            continue
        chosen = _validation_prompts(world, tag, rngs["validation"])
        validation += chosen
        heldout += _heldout_prompts(world, tag, rngs["heldout"], {r["prompt"] for r in chosen})
    return json.dumps(validation), json.dumps(heldout)


def _every_single_object(world: ShapesWorld, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Every shape once, in a drawn order: GenEval's choice without replacement."""
    found: dict[str, dict[str, Any]] = {}
    while len(found) < len(world.shapes):
        record = draw_record("single_object", world.shapes, rng)
        found.setdefault(record["prompt"], record)
    return list(found.values())


def _validation_prompts(
    world: ShapesWorld, tag: str, rng: np.random.Generator
) -> list[dict[str, Any]]:
    n = len(world.shapes)
    distinct = {"two_object": n * (n - 1), "counting": 3 * n}.get(tag, 10 * n)
    wanted = min(VALIDATION_PER_TASK, distinct // 3)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < wanted:
        record = draw_record(tag, world.shapes, rng)
        if not world.is_unseen(record):
            found.setdefault(record["prompt"], record)
    return list(found.values())


def _heldout_prompts(
    world: ShapesWorld, tag: str, rng: np.random.Generator, taken: set[str]
) -> list[dict[str, Any]]:
    drawn = [draw_record(tag, world.shapes, rng) for _ in range(DRAWS_PER_TASK)]
    found = {r["prompt"]: r for r in drawn if r["prompt"] not in taken}
    unseen = sum(world.is_unseen(r) for r in found.values())
    while tag == "color_attr" and unseen < LEAST_UNSEEN:
        record = draw_record(tag, world.shapes, rng)
        if world.is_unseen(record) and record["prompt"] not in found:
            found[record["prompt"]] = record
            unseen += 1
    return list(found.values())
