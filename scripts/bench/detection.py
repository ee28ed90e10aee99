"""Detecting and judging images as `geneval` does, beside GenEval's way with mmdet, in CPU seconds.

    scripts/install_mmdet.sh --cpu
    python -m scripts.bench.detection [--chunks 8] [--out reports/local/speed/detection.json]
    python -m scripts.bench.detection --compiled --out reports/local/speed/detection_compiled.json

Both sides read the same PNG files and have the same networks: Mask2Former Swin-S and CLIP ViT-L/14,
with random weights. Ours sends a few images through together. Theirs is GenEval's order of
work: mmdet's `inference_detector` on one image, then one loader of four workers for the objects of
each class whose colour is asked. Colours are asked in 35% of the images, as in GenEval's prompts.
Seconds are those of the process and its children. Sides take turns, one chunk of images each.

The class head is sharpened, so that random weights find objects. Real weights find another number
of them; the time of colours depends on it, that of detection does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from evals.base import Detection
from evals.detectors import mmdet as official
from evals.detectors.clip_colors import ClipColorClassifier
from evals.detectors.mask2former import detector, keys, selftest
from evals.images import read_image
from evals.scoring.detect import DetectionParts, find_and_color
from evals.suites.rules import COLORS, judge
from scripts.bench.colors import cpu_seconds, per_object_loader
from scripts.bench.paired_timing import measurement_facts, paired_ratio, print_table, write_report
from scripts.checks.mask2former_parity import ATTENTION_GAIN, CLASS_GAINS, random_state

SEED, CHUNK, SIZE = 0, 8, 512
THRESHOLD, MAX_OBJECTS = 0.3, 16
ASKED = (7, 20)  # 194 of GenEval's 553 prompts ask for a colour: nearly 7 of 20
Verdicts = list[bool]


class Clock:
    """CPU seconds of the parts of a side's work, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = cpu_seconds()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + cpu_seconds() - start


def inside(clock: Clock, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.part(name):
            return function(*args, **kwargs)

    return timed


def record_for(place: int, labels: Sequence[str]) -> dict[str, Any]:
    """What is asked of an image: the class that is found least often, with a colour in 7 of 20.

    Args:
        labels: of its objects above the threshold. A random network finds dozens of some class,
            photographs of a prompt show one or two.
    """
    counts = Counter(sorted(labels))
    label = min(counts, key=lambda name: counts[name], default="bench")
    clause: dict[str, Any] = {"class": label, "count": 1}
    if place % ASKED[1] < ASKED[0]:
        return {"tag": "colors", "include": [{**clause, "color": COLORS[place % len(COLORS)]}]}
    return {"tag": "single_object", "include": [clause]}


class Ours:
    """A chunk through our detector, our colours and our rules."""

    def __init__(self, found_by: detector.Mask2FormerDetector, colors: ClipColorClassifier) -> None:
        self.detector, self.colors = found_by, colors
        self.objects = self.asked = 0
        self.clock = Clock()

    def __call__(self, places: Sequence[int], paths: Sequence[Path]) -> Verdicts:
        with self.clock.part("read and detect"):
            images = [read_image(path) for path in paths]
            # The prompts are made of what is found, so that the detector runs before them.
            kept = self.detector.detect(images)
        records = [
            record_for(place, [d.label for d in found if d.score > THRESHOLD])
            for place, found in zip(places, kept, strict=True)
        ]
        parts = DetectionParts(_Found(kept, self.detector.classes), self.colors)
        with self.clock.part("colours"):
            found, names = find_and_color(images, records, parts)
        self.objects += sum(d.score > THRESHOLD for objects in found for d in objects)
        self.asked += sum(len(colors) for colors in names)
        verdicts = []
        for record, objects, colors in zip(records, found, names, strict=True):
            seen = [
                Detection(label=d.label, box=d.box, score=d.score, color=colors.get(i))
                for i, d in enumerate(objects)
            ]
            verdicts.append(judge(record, seen).correct)
        return verdicts


class _Found:
    """A detector that answers what is known already."""

    identity = "known"

    def __init__(self, kept: list[list[Detection]], classes: Sequence[str]) -> None:
        self.kept, self.classes = kept, classes

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        return self.kept


class Theirs:
    """A chunk in GenEval's order of work: image by image, class by class, colours by loader."""

    def __init__(self, model: Any, colors: ClipColorClassifier) -> None:
        from mmdet.apis import inference_detector

        self.model, self.colors, self.infer = model, colors, inference_detector
        self.objects = self.asked = 0
        self.clock = Clock()

    def __call__(self, places: Sequence[int], paths: Sequence[Path]) -> Verdicts:
        return [self.judged(place, path) for place, path in zip(places, paths, strict=True)]

    def judged(self, place: int, path: Path) -> bool:
        with self.clock.part("read and detect"):
            found = self.infer(self.model, str(path)).pred_instances
        scores, labels = found.scores.numpy(), found.labels.numpy()
        boxes, masks = found.bboxes.numpy(), found.masks.numpy()
        kept: dict[str, list[Detection]] = {}
        for index, name in enumerate(official.COCO_CLASSES):
            mine = np.flatnonzero(labels == index)
            mine = mine[np.argsort(scores[mine])[::-1]]
            mine = mine[scores[mine] > THRESHOLD][:MAX_OBJECTS]
            if len(mine):
                kept[name] = [
                    Detection(
                        label=name,
                        box=tuple(boxes[i].tolist()),
                        score=float(scores[i]),
                        mask=masks[i],
                    )
                    for i in mine
                ]
        self.objects += sum(len(objects) for objects in kept.values())
        over = [official.COCO_CLASSES[i] for i in labels[scores > THRESHOLD]]
        record = record_for(place, over)
        (clause,) = record["include"]
        chosen = kept.get(clause["class"], [])
        if len(chosen) < clause["count"]:
            return False
        if "color" not in clause:
            return True
        self.asked += len(chosen)
        with self.clock.part("colours"):
            (names,) = per_object_loader(self.colors, [np.asarray(Image.open(path))], [chosen])
        return names[: clause["count"]].count(clause["color"]) >= clause["count"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=8, help=f"pairs, of {CHUNK} images each")
    parser.add_argument("--edges", type=int, nargs=2, default=(1333, 800), help="long and short")
    parser.add_argument("--network", default="ViT-L-14-quickgelu", help="of open_clip")
    parser.add_argument("--compiled", action="store_true", help="our detector compiled")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/detection.json"))
    arguments = parser.parse_args()
    facts = measurement_facts(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    try:
        config = official.official_config()
    except ValueError as error:
        sys.exit(str(error))
    edges = (arguments.edges[0], arguments.edges[1])
    state = random_state(config, ATTENTION_GAIN)
    for name in [name for name in state if "cls_embed" in name]:
        state[name] = state[name] * CLASS_GAINS["sharpened"]
    network = detector.build_network(**detector.swin_s_config())
    keys.load_strictly(network, keys.to_transformers(state))
    found_by = detector.Mask2FormerDetector(
        network,
        "random",
        min_score=detector.PUBLISHED_MIN_SCORE,
        edges=edges,
        compiled=arguments.compiled,
    )
    model = official.build_model(config, state)
    model.cfg = config
    for step in config.test_dataloader.dataset.pipeline:
        if step.type.endswith("Resize"):
            step.scale = edges
    clip = open_clip.create_model(arguments.network, pretrained=None)
    colors = ClipColorClassifier(clip, open_clip.get_tokenizer(arguments.network), "random")
    # Both sides keep the vectors of the colours' names, so that these cost nothing here.
    vectors = torch.randn(len(official.COCO_CLASSES), len(COLORS), clip.visual.output_dim)
    vectors /= vectors.norm(dim=2, keepdim=True)
    colors._classifiers.update(zip(official.COCO_CLASSES, vectors, strict=True))
    ours, theirs = Ours(found_by, colors), Theirs(model, colors)
    network.forward = inside(ours.clock, "of it the network", network.forward)
    model.predict = inside(theirs.clock, "of it the network and its read-out", model.predict)
    verdicts: dict[str, dict[int, Verdicts]] = {"ours": {}, "theirs": {}}
    at_once = found_by.batch_size
    how = f"{at_once} images together" if at_once > 1 else "one image at a time"
    how += ", compiled" if arguments.compiled else ""
    with tempfile.TemporaryDirectory() as folder:
        chunks = [
            _written(Path(folder), range(first, first + CHUNK))
            for first in range(0, (arguments.chunks + 1) * CHUNK, CHUNK)
        ]

        def in_turn(name: str, side: Ours | Theirs) -> Callable[[], None]:
            # The first chunk warms up: text classifiers are built, memory is taken.
            waiting = cycle(enumerate(chunks))

            def work() -> None:
                number, chunk = next(waiting)
                if number == 1:  # parts of the warm-up, compilation among them, are not counted
                    side.clock.seconds.clear()
                verdicts[name][number] = side(*chunk)

            return work

        row = paired_ratio(
            f"{how}: ours / mmdet one by one",
            in_turn("ours", ours),
            in_turn("theirs", theirs),
            pairs=arguments.chunks,
            clock=cpu_seconds,
            passes=1 / 1.5,
        )
    pairs = [
        (a, b) for n in verdicts["ours"]
        for a, b in zip(verdicts["ours"][n], verdicts["theirs"][n], strict=True)
    ]  # fmt: skip
    detail = {
        "edges": edges,
        "networks": f"Mask2Former Swin-S and CLIP {arguments.network}, random weights",
        "images": len(pairs),
        "verdicts_that_differ": sum(a != b for a, b in pairs),
        "correct": sum(b for _, b in pairs),
        "objects_over_0.3": {"ours": ours.objects, "theirs": theirs.objects},
        "objects_whose_colour_was_asked": {"ours": ours.asked, "theirs": theirs.asked},
        "images_after_the_warm_up": CHUNK * arguments.chunks,
        "cpu_s_in_parts": {
            name: {part: round(s, 2) for part, s in side.clock.seconds.items()}
            for name, side in (("ours", ours), ("theirs", theirs))
        },
    }
    print_table([row])
    print(json.dumps(detail, indent=1))
    write_report(arguments.out, [row], {**facts, "clock": "process and children", **detail})


def _written(folder: Path, places: range) -> tuple[list[int], list[Path]]:
    paths = []
    for place in places:
        path = folder / f"{place:05}.png"
        Image.fromarray(selftest.image_by_name(f"image {place}", SIZE, SIZE)).save(path)
        paths.append(path)
    return list(places), paths


if __name__ == "__main__":
    main()
