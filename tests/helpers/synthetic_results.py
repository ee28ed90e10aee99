"""Result folders with made-up verdicts, written as `geneval` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evals.base import ImageVerdict
from evals.scoring.score import summarize

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SHAPES_DETECTOR = "shapes-grid@1:0123456789ab"
LABELS = {"selfe": "Self-E", "fm": "Flow Matching", "imm": "IMM"}
SETTINGS: dict[str, dict[str, Any]] = {
    "selfe": {"sampler": "any-step", "guidance": "none", "guidance_scale": 1.0, "eta": 1.0,
              "update": "ancestral", "s_fraction": 0.0},
    "fm": {"sampler": "any-step", "guidance": "linear", "guidance_scale": 3.0, "eta": 0.0,
           "update": "ancestral", "s_fraction": 0.0},
    "imm": {"sampler": "pushforward", "guidance": "linear", "guidance_scale": 2.0},
}  # fmt: skip
DIVERSITY: dict[str, Any] = {
    "tasks": {
        "counting": {"place": {"tv": 0.125, "tv_data": 0.1, "objects": 40},
                     "color": {"tv": 0.375, "tv_data": 0.2, "objects": 40}},
        "colors": {"place": {"tv": 0.25, "tv_data": 0.1, "objects": 40}},
    },
    "tv": 0.25, "tv_data": 0.1333, "reference_images_per_prompt": 24,
}  # fmt: skip
RATES = {
    "selfe": (0.45, 0.55, 0.6, 0.65),
    "imm": (0.3, 0.42, 0.5, 0.55),
    "fm": (0.1, 0.45, 0.6, 0.66),
}


def write_result(
    folder: Path,
    method: str = "selfe",
    *,
    steps: int = 2,
    rate: float = 0.5,
    rates: dict[str, float] | None = None,
    iterations: int | None = 3000,
    variant: str = "",
    label: str | None = None,
    recipe: str = "shapes",
    suite: str = "shapes@1",
    split: str = "heldout",
    detector: str = SHAPES_DETECTOR,
    prompts_per_task: int = 5,
    images_per_prompt: int = 4,
    keep: int | None = None,
    allow_partial: bool = True,
    settings: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    command: str = "selfe-bench geneval --steps 2,4,8,50",
    images: bool = False,
    diversity: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write one result folder; verdicts are coin flips at `rate`, fixed by `seed`.

    Args:
        rates: of tasks whose rate is another one.
        keep: images kept of the whole set; the result is then partial.
        images: write PNGs of flat colours as well.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, steps, iterations or 0, *method.encode(), *variant.encode()])

    def rate_of(task: str) -> float:
        return (rates or {}).get(task, rate)

    verdicts = [
        {
            "prompt_id": prompt,
            "sample_id": sample,
            "tag": TASKS[prompt // prompts_per_task],
            "correct": bool(rng.random() < rate_of(TASKS[prompt // prompts_per_task])),
            "reason": "",
        }
        for prompt in range(6 * prompts_per_task)
        for sample in range(images_per_prompt)
    ]
    partial = keep is not None
    verdicts = verdicts[:keep]
    (folder / "images.jsonl").write_text("".join(json.dumps(v) + "\n" for v in verdicts))
    scores = summarize(
        [ImageVerdict.model_validate(v) for v in verdicts],
        partial=partial,
        allow_partial=allow_partial,
    )
    chosen = SETTINGS.get(method, {"guidance": "cfg", "guidance_scale": 5.0}) | (settings or {})
    guided = chosen.get("guidance") != "none"
    result = {
        "protocol": {
            "suite": suite,
            "split": split,
            "prompts_sha256": f"{prompts_per_task:064x}",
            "num_prompts": 6 * prompts_per_task,
            "images_per_prompt": images_per_prompt,
            "detector": detector,
            "color_classifier": "colors@1",
            "rules": {"threshold": 0.3},
        },
        "model": {
            "name": f"{recipe}-{method}@{iterations}" if iterations else method,
            "label": label or LABELS.get(method, method),
            "method": method,
            "digest": f"digest-{method}-{variant}-{iterations}",
            "resolution": [32, 32],
            "variant": variant,
            "iterations": iterations,
            "training": ({"recipe": recipe, "seed": 0} if iterations else {}) | (training or {}),
        },
        "sampling": {
            "steps": steps,
            "nfe": steps * (2 if guided else 1),
            "seed": 0,
            "settings": chosen,
        },
        "scores": {
            **scores.model_dump(),
            "groups": {
                "seen": {"mean": 0.6, "low": 0.5, "high": 0.7},
                "unseen": {"mean": 0.4, "low": 0.2, "high": 0.6},
            },
        },
        "diversity": DIVERSITY if diversity is None else diversity,
        "environment": {"commit": "0123456789ab", "versions": {"torch": "2.11"}},
        "command": command,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    if images:
        _write_images(folder, method, steps, verdicts, rng)
    return folder


def _write_images(
    folder: Path, method: str, steps: int, verdicts: list[dict[str, Any]], rng: np.random.Generator
) -> None:
    grid = np.mgrid[:32, :32]
    for verdict in verdicts:
        sub = folder / f"{verdict['prompt_id']:05d}"
        (sub / "samples").mkdir(parents=True, exist_ok=True)
        prompt = f"a photo of prompt {verdict['prompt_id']}"
        (sub / "metadata.jsonl").write_text(
            json.dumps({"tag": verdict["tag"], "prompt": prompt}) + "\n"
        )
        picture = np.full((32, 32, 3), 128, np.uint8)
        where = np.hypot(grid[0] - rng.integers(8, 24), grid[1] - rng.integers(8, 24)) < 7
        picture[where] = rng.integers(0, 255, 3)
        noise = rng.normal(0, 60 / steps, picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(sub / "samples" / f"{verdict['sample_id']:05d}.png")


def write_study(root: Path, *, images: bool = False) -> Path:
    """Three methods with milestones at 1000, 2000 and 3000 iterations, both ablations at 1000."""
    for method, rates in RATES.items():
        for iterations in (1000, 2000, 3000):
            for steps, rate in zip((2, 4, 8, 50), rates, strict=True):
                write_result(
                    root / f"shapes-{method}" / "results" / f"step-{iterations}" / f"steps-{steps}",
                    method,
                    steps=steps,
                    rate=rate * (0.7 + 0.1 * iterations / 1000),
                    iterations=iterations,
                    images=images and iterations == 3000,
                )
    for variant, rate in (("no-target-norm", 0.4), ("aux", 0.2)):
        for steps in (2, 4, 8, 50):
            write_result(
                root / f"shapes-selfe-{variant}" / "results" / "step-1000" / f"steps-{steps}",
                "selfe",
                variant=variant,
                steps=steps,
                rate=rate + 0.05 * steps**0.5,
                iterations=1000,
            )
    return root
