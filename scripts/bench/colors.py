"""Colour classification: ours beside GenEval's way, a loader with 4 workers per image and class.

    python -m scripts.bench.colors                       # the work around the network
    python -m scripts.bench.colors --network ViT-L-14-quickgelu --images 1 --pairs 3 --out ...

By default a tiny CLIP with the input size of ViT-L/14 stands in for it, so that what is measured is
cutting out, resizing, batching and comparing; with the real network (random weights) its forward
passes, equal on both sides, dominate on a CPU. CPU seconds of the process and its children; the
sides take turns; median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch.utils.data import DataLoader, Dataset

from evals.base import Detection
from evals.detectors.clip_colors import ClipColorClassifier, cut_out
from evals.suites.rules import COLORS
from scripts.bench.paired_timing import measurement_facts

SIZE = 512
SEED = 0
TINY = dict(
    embed_dim=32,
    vision_cfg=dict(layers=1, width=32, head_width=32, patch_size=32, image_size=224),
    text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=2),
    quick_gelu=True,
)
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


def scenes(count: int) -> tuple[list[np.ndarray], list[list[Detection]]]:
    """Images of noise, an object of every label in each."""
    draw = np.random.default_rng(SEED)
    images = [draw.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(count)]
    found = []
    for _ in images:
        objects = []
        for label in LABELS:
            x, y = (int(v) for v in draw.integers(0, SIZE - 200, 2))
            mask = np.zeros((SIZE, SIZE), bool)
            mask[y : y + 160, x : x + 180] = True
            box = (float(x), float(y), float(x + 180), float(y + 160))
            objects.append(Detection(label=label, box=box, score=0.9, mask=mask))
        found.append(objects)
    return images, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--network", default="tiny", help="or an architecture of open_clip")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/colors.json"))
    arguments = parser.parse_args()
    facts = measurement_facts(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    if arguments.network == "tiny":
        model = open_clip.CLIP(**TINY)
    else:
        model = open_clip.create_model(arguments.network, pretrained=None)
    ours = ClipColorClassifier(model, open_clip.get_tokenizer("ViT-L-14-quickgelu"), "random")
    images, found = scenes(arguments.images)
    # Once each before timing: builds the text classifiers, which both sides keep.
    equal = ours.classify(images, found) == per_object_loader(ours, images, found)
    pairs = []
    for number in range(arguments.pairs):
        times: dict[str, tuple[float, float]] = {}
        sides = [("ours", ours.classify), ("loader", lambda a, b: per_object_loader(ours, a, b))]
        for name, side in sides if number % 2 == 0 else reversed(sides):
            cpu, wall = cpu_seconds(), time.perf_counter()
            side(images, found)
            times[name] = (cpu_seconds() - cpu, time.perf_counter() - wall)
        pairs.append((times["ours"], times["loader"]))
    cpu_ratio = float(np.median([b[0] / a[0] for a, b in pairs]))
    wall_ratio = float(np.median([b[1] / a[1] for a, b in pairs]))
    report = {
        **facts,
        "clock": "user and system seconds of the process and its children",
        "network": f"{arguments.network}, random weights",
        "objects": arguments.images * len(LABELS),
        "ratio_cpu": round(cpu_ratio, 2),
        "ratio_wall": round(wall_ratio, 2),
        "target_cpu": 20 if arguments.network == "tiny" else None,
        "colours_equal": equal,
        "cpu_s_ours_and_loader": [[round(t[0], 4) for t in pair] for pair in pairs],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: report[k] for k in list(report)[-8:-1]}, indent=1))


if __name__ == "__main__":
    main()
