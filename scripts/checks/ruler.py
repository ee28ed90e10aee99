"""How far the shapes benchmark can be trusted: its detector and rules on images known to be right
or wrong.

    python -m scripts.checks.ruler --preset grid --images 2400

Right: renders of records, and the same after a round trip through the autoencoder. Wrong by a
little (near-misses): one object missing, one too many, colours swapped, relation swapped. Prints a
table and writes reports/checks/ruler.json, one entry per preset.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.base import Detection
from evals.detectors.shapes import ShapesColorClassifier, ShapesDetector
from evals.suites.rules import RuleSettings, judge
from scripts import command_line
from selfe.data.shapes_world import PRESETS, TASKS, Scene, ShapesWorld, draw_record
from selfe.encoders.shapes import ShapesVAE
from selfe.files import write_atomically

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def near_misses(
    world: ShapesWorld, record: dict[str, Any], rng: np.random.Generator
) -> dict[str, Scene]:
    """Scenes that are wrong for `record` in one respect, by the name of the fault."""
    scene = world.scene_for(record, rng)
    dropped = int(rng.integers(len(scene.objects)))
    kept = tuple(o for i, o in enumerate(scene.objects) if i != dropped)
    faults = {"object missing": Scene(record, kept, scene.background)}
    other = copy.deepcopy(record)
    clauses = other["include"]
    if record["tag"] == "counting":
        for step, name in ((-1, "count one less"), (1, "count one more")):
            changed = copy.deepcopy(record)
            changed["include"][0]["count"] += step
            if world.preset.cells == 0 or changed["include"][0]["count"] <= world.preset.cells**2:
                faults[name] = world.scene_for(changed, rng)
        del faults["object missing"]
    elif record["tag"] == "colors":
        names = [c for c in world.colors if c != clauses[0]["color"]]
        clauses[0]["color"] = names[int(rng.integers(len(names)))]
        faults["another color"] = world.scene_for(other, rng)
    elif record["tag"] == "color_attr":
        clauses[0]["color"], clauses[1]["color"] = clauses[1]["color"], clauses[0]["color"]
        faults["colors swapped"] = world.scene_for(other, rng)
    elif record["tag"] == "position":
        clauses[1]["position"][0] = OPPOSITE[clauses[1]["position"][0]]
        faults["relation swapped"] = world.scene_for(other, rng)
    if record["tag"] in ("single_object", "two_object"):
        names = [s for s in world.shapes if s not in {c["class"] for c in clauses}]
        clauses[0]["class"] = names[int(rng.integers(len(names)))]
        faults["another shape"] = world.scene_for(other, rng)
    return faults


class Ruler:
    """Detector, colours and rules of one preset, applied to images as `geneval` applies them."""

    def __init__(self, preset: str) -> None:
        self.detector = ShapesDetector(preset)
        self.colors = ShapesColorClassifier()
        self.settings = RuleSettings()

    def judge(self, images: np.ndarray, records: list[dict[str, Any]]) -> list[tuple[bool, str]]:
        found = self.detector.detect(list(images))
        names = self.colors.classify(list(images), found)
        return [
            judge(record, _with_colors(row, row_names), self.settings)
            for record, row, row_names in zip(records, found, names, strict=True)
        ]


def _with_colors(detections: list[Detection], names: list[str]) -> list[Detection]:
    return [d.model_copy(update={"color": c}) for d, c in zip(detections, names, strict=True)]


def round_trip(vae: ShapesVAE, images: np.ndarray) -> np.ndarray:
    """Encode, decode, back to uint8."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    out = torch.cat([vae.decode(vae.encode(part)) for part in x.split(64)])
    pixels = ((out.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def check(preset: str, count: int, seed: int, wrong_trips: int | None = None) -> dict[str, Any]:
    """Shares of images judged right, by task and kind; `count` right renders in all, and round
    trips of `wrong_trips` near-misses (None: of all)."""
    world, ruler, vae = ShapesWorld(preset), Ruler(preset), ShapesVAE(preset)
    rng = np.random.default_rng(seed)
    records = [draw_record(TASKS[i % 6], world.shapes, rng) for i in range(count)]
    images = world.render_batch([world.scene_for(r, rng) for r in records])
    began = time.process_time()
    ruler.detector.detect(list(images[:500]))
    speed = min(count, 500) / (time.process_time() - began)
    wrong = [(r, name, s) for r in records for name, s in near_misses(world, r, rng).items()]
    wrong_images = world.render_batch([scene for _, _, scene in wrong])
    kinds = {
        "renders": (images, [(r, r["tag"]) for r in records]),
        "round_trips": (round_trip(vae, images), [(r, r["tag"]) for r in records]),
        "near_misses": (wrong_images, [(r, name) for r, name, _ in wrong]),
        "near_miss_round_trips": (
            round_trip(vae, wrong_images[:wrong_trips]),
            [(r, n) for r, n, _ in wrong[:wrong_trips]],
        ),
    }
    result: dict[str, Any] = {"detector_images_per_s": round(speed)}
    for kind, (pictures, labelled) in kinds.items():
        groups: dict[str, list[bool]] = defaultdict(list)
        reasons: dict[str, int] = defaultdict(int)
        verdicts = ruler.judge(pictures, [r for r, _ in labelled])
        for (_, group), (correct, reason) in zip(labelled, verdicts, strict=True):
            groups["all"].append(correct)
            groups[group].append(correct)
            if not correct and kind in ("renders", "round_trips"):
                reasons[f"{group}: {reason}"] += 1
        result[kind] = {g: [round(float(np.mean(v)), 5), len(v)] for g, v in groups.items()}
        if reasons:
            result[kind + "_failures"] = dict(sorted(reasons.items(), key=lambda kv: -kv[1])[:8])
    result |= {"detector": ruler.detector.identity, "vae": vae.digest[:12], "seed": seed}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=(*PRESETS, "all"), default="all")
    parser.add_argument("--images", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--wrong-trips", type=int, help="round trips of near-misses (all)")
    parser.add_argument("--out", type=Path, default=Path("reports/checks/ruler.json"))
    args = parser.parse_args()
    stored = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for preset in PRESETS if args.preset == "all" else [args.preset]:
        result = check(preset, args.images, args.seed, args.wrong_trips)
        result["command"] = command_line()
        result["machine"] = (
            f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
        )
        stored[preset] = result
        for kind in ("renders", "round_trips", "near_misses", "near_miss_round_trips"):
            for group, (share, n) in result[kind].items():
                print(f"{preset:5} {kind:22} {group:18} {share:.4f}  of {n}")
        for kind in ("renders_failures", "round_trips_failures"):
            for reason, n in result.get(kind, {}).items():
                print(f"{preset:5} {kind} {n} x {reason}")
        print(f"{preset:5} detector {result['detector_images_per_s']} images per CPU second")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
