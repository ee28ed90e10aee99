"""Colour classification: ours beside GenEval's way, a loader with 4 workers per image and class.

    python scripts/bench_colors.py

A tiny CLIP stands in for ViT-L/14, so that what is measured is the work around the network. CPU
seconds of the process and its children; the sides take turns; median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import open_clip
import torch
from torch.utils.data import DataLoader, Dataset

from evals.base import Detection
from evals.colors import ClipColorClassifier, cut_out
from evals.rules import COLORS

SIZE = 256
LABELS = ("dog", "cup", "car")


class Crops(Dataset):
    def __init__(self, image: np.ndarray, found: list[Detection], transform: object) -> None:
        self.image, self.found, self.transform = image, found, transform

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(cut_out(self.image, self.found[index]))


def per_object_loader(ours: ClipColorClassifier, images: list, found: list) -> list[list[str]]:
    """One loader per image and class, as the published evaluation does it."""
    names = []
    with torch.inference_mode():
        for image, objects in zip(images, found, strict=True):
            colors = {}
            for label in dict.fromkeys(d.label for d in objects):
                rows = [i for i, d in enumerate(objects) if d.label == label]
                loader = DataLoader(
                    Crops(image, [objects[i] for i in rows], ours.transform),
                    batch_size=16,
                    num_workers=4,
                )
                head = ours.text_classifier(label)
                for batch in loader:
                    features = ours.model.encode_image(batch.to(ours.device), normalize=True)
                    best = (features @ head.T).argmax(dim=1).tolist()
                    colors.update(zip(rows, (COLORS[i] for i in best), strict=True))
            names.append([colors[i] for i in range(len(objects))])
    return names


def cpu_seconds() -> float:
    parts = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(p.ru_utime + p.ru_stime for p in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("reports/bench/colors.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=dict(layers=2, width=64, head_width=32, patch_size=32, image_size=64),
        text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=2),
        quick_gelu=True,
    )
    ours = ClipColorClassifier(model, open_clip.get_tokenizer("ViT-L-14-quickgelu"), "tiny")
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(arguments.images)]
    found = []
    for _ in images:
        objects = []
        for label in LABELS:
            x, y = draw.integers(0, SIZE - 100, 2)
            mask = np.zeros((SIZE, SIZE), bool)
            mask[y : y + 80, x : x + 90] = True
            box = (float(x), float(y), float(x + 90), float(y + 80))
            objects.append(Detection(label=label, box=box, score=0.9, mask=mask))
        found.append(objects)
    equal = ours.classify(images, found) == per_object_loader(ours, images, found)
    pairs = []
    for _ in range(arguments.pairs):
        times = []
        for side in (ours.classify, lambda a, b: per_object_loader(ours, a, b)):
            cpu, wall = cpu_seconds(), time.perf_counter()
            side(images, found)
            times.append((cpu_seconds() - cpu, time.perf_counter() - wall))
        pairs.append(times)
    cpu_ratio = float(np.median([b[0] / a[0] for a, b in pairs]))
    wall_ratio = float(np.median([b[1] / a[1] for a, b in pairs]))
    report = {
        "ratio_cpu": round(cpu_ratio, 1),
        "ratio_wall": round(wall_ratio, 1),
        "target": 20,
        "passed": cpu_ratio >= 20 and equal,
        "colours_equal": equal,
        "objects": arguments.images * len(LABELS),
        "cpu_s_ours_and_loader": [[round(t[0], 4) for t in pair] for pair in pairs],
        "command": f"python scripts/bench_colors.py --pairs {arguments.pairs}",
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread",
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k[:3] != "cpu"}, indent=1))


if __name__ == "__main__":
    main()
