"""Does a world have headroom under any time grid? The exact model alone, nothing is trained.

    python -m scripts.studies.headroom_worlds --out reports/studies/headroom/worlds.json

With one factor on all latents a grid shifted towards the data wins everything back. With a factor
for each spatial frequency no single shift suits all of them. Every world is drawn under many shifts
of the grid, at 4 and 8 steps under random grids too, and its best score counts: at 2 steps, where a
grid has one free time, no grid is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

import selfe.sampler
from evals.registry import open_suite
from evals.scoring.diversity import DiversityReference
from evals.scoring.in_memory import InMemoryScorer, mean_over_tasks
from evals.suites.limit import limited
from scripts import command_line
from selfe.data.shapes_world import ShapesWorld
from selfe.encoders.registry import load_codec
from selfe.files import write_atomically
from selfe.generation.exact import ExactGenerator
from selfe.provenance import provenance
from selfe.sampler import SamplerSettings
from selfe.times import length_shift, warp_time

SHIFTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.41, 1.0, 1.5, 2.0, 2.5, 3.0)
STEPS = (2, 4, 8)
RANDOM_GRIDS = 16
IMAGES = 8


class Filtered:
    """A codec whose latents have another spectrum: DCT coefficients times (1 + f)^-power, then all
    times one number, so that the variance stays 1."""

    def __init__(self, codec: Any, power: float, sample: Tensor) -> None:
        self.codec, self.latent_channels = codec, codec.latent_channels
        self.downsample, self.digest = codec.downsample, f"{codec.digest} {power}"
        side = sample.shape[-1]
        f = np.hypot(*np.meshgrid(np.arange(side), np.arange(side)))
        self.gain = (1 + f) ** -power
        self.gain /= self._filter(sample, self.gain).square().mean().sqrt().item()

    @staticmethod
    def _filter(z: Tensor, gain: np.ndarray) -> Tensor:
        coefficients = dctn(z.double().numpy(), axes=(-2, -1), norm="ortho") * gain
        return torch.from_numpy(idctn(coefficients, axes=(-2, -1), norm="ortho")).float()

    def from_plain(self, z: Tensor) -> Tensor:
        return self._filter(z, self.gain)

    def encode(self, images: Tensor) -> Tensor:
        return self.from_plain(self.codec.encode(images))

    def decode(self, latents: Tensor) -> Tensor:
        return self.codec.decode(self._filter(latents, 1 / self.gain))


def grids(steps: int, rng: np.random.Generator) -> list[tuple[str, list[float]]]:
    """Named grids of N + 1 times from 1 to 0."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    found = [(f"shift {mu:g}", warp_time(even, mu).tolist()) for mu in SHIFTS]
    if steps == 2:
        return [(f"t = {t:.3f}", [1.0, t, 0.0]) for t in np.linspace(0.02, 0.98, 25)]
    for number in range(RANDOM_GRIDS):
        # times with odds evenly spread between random ends in the logarithm
        low, high = np.sort(rng.uniform(-4, 4, 2))
        logits = np.sort(rng.uniform(low, high, steps - 1))[::-1]
        found.append((f"random {number}", [1.0, *(1 / (1 + np.exp(-logits))).tolist(), 0.0]))
    return found


def best_grid(
    model: ExactGenerator, scorer: InMemoryScorer, reference: DiversityReference, steps: int
) -> dict[str, Any]:
    usual = selfe.sampler.time_grid
    own = warp_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), length_shift(16))
    named = {"the recipe's": own.tolist(), **dict(grids(steps, np.random.default_rng(steps)))}

    def score_on(name: str) -> float:
        selfe.sampler.time_grid = lambda *_, **__: named[name]
        return mean_over_tasks(scorer(model, steps))

    def described(name: str) -> dict[str, Any]:
        score = score_on(name)
        spread = reference.measure(scorer.rows)
        tv = {key: spread.get(key) for key in ("tv", "tv_data")}
        return {"grid": name, "times": named[name], "score": score, **tv}

    try:
        scores = {name: score_on(name) for name in named}
        best = max(scores, key=lambda name: scores[name])
        return {"recipe": described("the recipe's"), "best": described(best), "all": scores}
    finally:
        selfe.sampler.time_grid = usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=1024)
    parser.add_argument("--per-task", type=int, default=4)
    parser.add_argument("--presets", nargs="+", default=["grid", "free"])
    parser.add_argument("--powers", nargs="+", type=float, default=[0, 1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("reports/studies/headroom/worlds.json"))
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {"worlds": {}}
    known = provenance()
    made = {"command": command_line()}
    made |= {"commit": known["commit"], "machine": known["machine"]}
    names = {"grid": "shapes@1", "free": "shapes-free@1"}
    for preset in args.presets:
        suite = limited(open_suite(names[preset]), args.per_task)
        scorer = InMemoryScorer(dataclasses.replace(suite, images_per_prompt=IMAGES))
        world, codec = ShapesWorld(preset), load_codec(f"shapes-{preset}", "cpu")
        reference = DiversityReference(
            world,
            suite.records,
            scorer.detector,
            scorer.color_classifier,
            images_per_prompt=max(24, 2 * IMAGES),
        )

        def model_of(codec: Any, world=world, suite=suite) -> ExactGenerator:
            return ExactGenerator(
                world,
                suite.records,
                codec,
                num_scenes=args.scenes,
                settings=SamplerSettings(eta=0.0),
            )

        plain = model_of(codec)
        sample = torch.cat([plain._scenes(r["prompt"], 32) for r in suite.records])
        for power in args.powers:
            name = f"{preset}, (1 + f)^-{power:g}" if power else f"{preset}, as it is"
            if name in found["worlds"]:
                continue
            filtered = Filtered(codec, power, sample)
            model = model_of(filtered if power else codec)
            if power:  # the scenes are encoded once
                model._scenes = lambda prompt, count, own=filtered, scenes=plain._scenes: (
                    own.from_plain(scenes(prompt, count))
                )
            by_steps = {n: best_grid(model, scorer, reference, n) for n in STEPS}
            found["worlds"][name] = {
                "scenes": args.scenes,
                "prompts": len(suite.records),
                "images_per_prompt": IMAGES,
                "steps": by_steps,
                "made": made,
            }
            write_atomically(args.out, json.dumps(found, indent=0))
            for n, rows in by_steps.items():
                usual, best = rows["recipe"], rows["best"]
                print(
                    f"{name}, {n} steps: {usual['score']:.3f} on the recipe's grid, "
                    f"{best['score']:.3f} on {best['grid']} (TV {best['tv']:.3f}, of data "
                    f"{best['tv_data']:.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
