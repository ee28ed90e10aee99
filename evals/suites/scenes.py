"""Suite scenes@1: prompts about many squares of very different sizes (preset "squares").

Three tasks: one square of a colour; two to eight of one colour; one to four of each of two. Every
number is exact. `validation` has 20 prompts of the last two tasks, which `heldout` has not; both
have all ten of the first.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from evals.suites.base import Suite
from selfe.data.shapes_world.squares import CLASSES, draw_record, single_object

NAME = "scenes@1"
SPLITS = ("validation", "heldout")
VALIDATION_PER_TASK = 20
HELDOUT_PER_TASK = {"counting": 50, "two_object": 100}
_SEED = 45


def scenes_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`scenes@1`; without a split, `heldout`.

    Raises:
        ValueError: where the split is unknown, or a file of prompts is given.
    """
    if prompts is not None:
        raise ValueError(f"{NAME} draws its own prompts; --prompts belongs to geneval-long@1")
    split = split or "heldout"
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {NAME}; the splits are {', '.join(SPLITS)}")
    return Suite(
        NAME,
        json.loads(_drawn())[split],
        detector="squares",
        color_classifier="shapes",
        split=split,
        world_preset="squares",
    )


@functools.cache
def _drawn() -> str:
    """Both splits as JSON, so that no caller can change the cached records."""
    rng = np.random.default_rng(_SEED)
    found: dict[str, list[dict[str, Any]]] = {
        s: [single_object(c) for c in CLASSES] for s in SPLITS
    }
    for task, heldout in HELDOUT_PER_TASK.items():
        drawn: dict[str, dict[str, Any]] = {}
        while len(drawn) < VALIDATION_PER_TASK + heldout:
            record = draw_record(task, rng)
            drawn.setdefault(record["prompt"], record)
        records = list(drawn.values())
        found["validation"] += records[:VALIDATION_PER_TASK]
        found["heldout"] += records[VALIDATION_PER_TASK:]
    return json.dumps(found)
