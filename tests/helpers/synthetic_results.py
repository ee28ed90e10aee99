"""Result folders with made-up verdicts, written as `geneval` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class MadeUpResult:
    """A result with verdicts that are coin flips; `write_result` takes any of these by name.

    Attributes:
        method, variant, iterations, label, recipe: the model; a published one has no iterations.
        steps, settings: how it was drawn; settings are added to `SETTINGS` of the method.
        rate: share of correct images, `rates` of tasks whose rate is another one.
        suite, split, detector, prompts_per_task, images_per_prompt: the protocol.
        keep: images kept of the whole set; the result is then partial.
        allow_partial: whether a partial set has an overall score.
        training: added to the facts of the training.
        run: name of the training run; that of recipe and method if not given.
        images: whether PNGs of flat colours are written as well.
        seed: of the coins.
    """

    method: str = "selfe"
    steps: int = 2
    rate: float = 0.5
    rates: Mapping[str, float] = field(default_factory=dict)
    iterations: int | None = 3000
    variant: str = ""
    label: str | None = None
    recipe: str = "shapes"
    suite: str = "shapes@1"
    split: str = "heldout"
    detector: str = SHAPES_DETECTOR
    prompts_per_task: int = 5
    images_per_prompt: int = 4
    keep: int | None = None
    allow_partial: bool = True
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    training: Mapping[str, Any] | None = field(default_factory=dict)
    run: str = ""
    command: str = "selfe-bench geneval --steps 2,4,8,50"
    images: bool = False
    diversity: Mapping[str, Any] = field(default_factory=lambda: DIVERSITY)
    seed: int = 0

    def write(self, folder: Path) -> Path:
        """Write result.json and images.jsonl, and images where they are asked for."""
        folder.mkdir(parents=True)
        names = (*self.method.encode(), *self.variant.encode())
        rng = np.random.default_rng([self.seed, self.steps, self.iterations or 0, *names])
        verdicts = self._verdicts(rng)
        lines = "".join(json.dumps(verdict) + "\n" for verdict in verdicts)
        (folder / "images.jsonl").write_text(lines)
        (folder / "result.json").write_text(json.dumps(self._record(verdicts), indent=1))
        if self.images:
            _write_images(folder, self.method, self.steps, verdicts, rng)
        return folder

    def _verdicts(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        verdicts = []
        for prompt in range(len(TASKS) * self.prompts_per_task):
            task = TASKS[prompt // self.prompts_per_task]
            for sample in range(self.images_per_prompt):
                correct = bool(rng.random() < self.rates.get(task, self.rate))
                place = {"prompt_id": prompt, "sample_id": sample, "tag": task}
                verdicts.append({**place, "correct": correct, "reason": ""})
        return verdicts[: self.keep]

    def _record(self, verdicts: list[dict[str, Any]]) -> dict[str, Any]:
        scores = summarize(
            [ImageVerdict.model_validate(verdict) for verdict in verdicts],
            partial=self.keep is not None,
            allow_partial=self.allow_partial,
        )
        seen = {"mean": 0.6, "low": 0.5, "high": 0.7}
        unseen = {"mean": 0.4, "low": 0.2, "high": 0.6}
        return {
            "protocol": self._protocol(),
            "model": self._model(),
            "sampling": self._sampling(),
            "scores": {**scores.model_dump(), "groups": {"seen": seen, "unseen": unseen}},
            "diversity": self.diversity,
            "environment": {"commit": "0123456789ab", "versions": {"torch": "2.11"}},
            "command": self.command,
        }

    def _protocol(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "split": self.split,
            "prompts_sha256": f"{self.prompts_per_task:064x}",
            "num_prompts": len(TASKS) * self.prompts_per_task,
            "images_per_prompt": self.images_per_prompt,
            "detector": self.detector,
            "color_classifier": "colors@1",
            "rules": {"threshold": 0.3},
        }

    def _model(self) -> dict[str, Any]:
        method, iterations = self.method, self.iterations
        trained = {"recipe": self.recipe, "seed": 0} if iterations else {}
        run = self.run or f"{self.recipe}-{method}"
        return {
            "name": f"{run}@{iterations}" if iterations else method,
            "label": self.label or LABELS.get(method, method),
            "method": method,
            "digest": f"digest-{method}-{self.variant}-{iterations}",
            "resolution": [32, 32],
            "variant": self.variant,
            "iterations": iterations,
            "training": {**trained, **(self.training or {})},
        }

    def _sampling(self) -> dict[str, Any]:
        usual = SETTINGS.get(self.method, {"guidance": "cfg", "guidance_scale": 5.0})
        chosen = {**usual, **(self.settings or {})}
        passes = 1 if chosen.get("guidance") == "none" else 2
        return {"steps": self.steps, "nfe": self.steps * passes, "seed": 0, "settings": chosen}


def write_result(folder: Path, method: str = "selfe", **changes: Any) -> Path:
    """Write one result folder, as `MadeUpResult` has it but for `changes`."""
    return MadeUpResult(method, **changes).write(folder)


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
