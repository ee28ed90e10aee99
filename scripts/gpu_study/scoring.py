"""Part "scoring": GenEval scoring, batched as we do it and image by image as GenEval does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from evals.base import Detection
from evals.detectors.clip_colors import CLIP_MODEL, ClipColorClassifier
from evals.detectors.mask2former.detector import Mask2FormerDetector, build_network, swin_s_config
from evals.detectors.mask2former.selftest import SMALL, image_by_name
from evals.images import read_image, sample_path, scan_folder, write_metadata, write_png
from evals.scoring.detect import DetectionParts
from evals.scoring.score import score_folder
from scripts.bench.colors import per_object_loader
from scripts.gpu_study.rows import Measurement, Part, Row, Settings, wall_seconds

OBJECTS = 8
"""Objects read out of an image on average; with random weights no score means anything."""
PICTURES = 16
NAMED = 2
"""Objects of the class a prompt names: what colours are asked for."""
IMAGES_PER_PROMPT = 4
BATCH = 16
# 194 of GenEval's 553 prompts ask for a colour
RECORDS: list[dict[str, Any]] = [
    {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a"},
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "b"},
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "c"},
]


def has_colours(found: Detection) -> bool:
    """Whether there is a pixel in its box, as there is in all that a trained network finds."""
    x1, y1, x2, y2 = (round(value) for value in found.box)
    return x2 > x1 and y2 > y1


class NamedObjects:
    """Our detector with random weights; its best objects get the names that the prompts ask for."""

    identity = "random"
    classes = ("dog", "car")

    def __init__(self, inner: Mask2FormerDetector) -> None:
        self.inner = inner

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        return [
            [
                found.model_copy(update={"label": self.classes[place >= NAMED], "score": 0.9})
                for place, found in enumerate(filter(has_colours, objects))
            ]
            for objects in self.inner.detect(images)
        ]


def random_detector(settings: Settings) -> NamedObjects:
    torch.manual_seed(0)
    sizes = SMALL if settings.tiny else swin_s_config()
    edges = (128, 128) if settings.tiny else (1333, 800)
    network = build_network(**sizes)
    detector = Mask2FormerDetector(
        network, "random", settings.device, batch_size=BATCH, edges=edges
    )
    # read out about as many objects as a trained network finds
    everything = detector.detect([picture(number) for number in range(PICTURES)])
    scores = sorted((found.score for each in everything for found in each), reverse=True)
    detector.min_score = scores[OBJECTS * PICTURES]
    return NamedObjects(detector)


def random_clip(settings: Settings) -> ClipColorClassifier:
    torch.manual_seed(0)
    if settings.tiny:
        model = open_clip.CLIP(
            embed_dim=32,
            vision_cfg=dict(layers=1, width=64, head_width=32, patch_size=32, image_size=64),
            text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=1),
            quick_gelu=True,
        )
    else:
        model = open_clip.create_model(CLIP_MODEL, pretrained=None)
    return ClipColorClassifier(
        model, open_clip.get_tokenizer(CLIP_MODEL), "random", settings.device
    )


def picture(number: int) -> np.ndarray:
    return image_by_name(f"study {number % PICTURES}", 256, 256)


def write_images(folder: Path, prompts: int) -> list[dict[str, Any]]:
    records = [RECORDS[i % len(RECORDS)] for i in range(prompts)]
    for prompt_id, record in enumerate(records):
        write_metadata(folder, prompt_id, record)
        for sample in range(IMAGES_PER_PROMPT):
            path = sample_path(folder, prompt_id, sample)
            write_png(path, picture(prompt_id * IMAGES_PER_PROMPT + sample))
    return records


def image_by_image(
    folder: Path,
    records: Sequence[dict[str, Any]],
    detector: NamedObjects,
    colors: ClipColorClassifier,
) -> None:
    """GenEval's loop: a picture, a call of the detector, a loader for the objects of a class."""
    for prompt_id, record in enumerate(records):
        for sample in range(IMAGES_PER_PROMPT):
            image = read_image(sample_path(folder, prompt_id, sample))
            (found,) = detector.detect([image])
            if any("color" in clause for clause in record["include"]):
                named = [d for d in found if d.label == "dog"]
                per_object_loader(colors, [image], [named])


def scoring_row(settings: Settings) -> Row:
    """Both sides on the same images, from PNG files to verdicts or colours."""
    folder, out = settings.work / "scoring" / "images", settings.work / "scoring" / "out"
    shutil.rmtree(folder.parent, ignore_errors=True)
    detector, colors = random_detector(settings), random_clip(settings)
    many, few = (3, 3) if settings.tiny else (128, 24)
    try:
        records = write_images(folder, many)

        def ours() -> None:
            shutil.rmtree(out, ignore_errors=True)
            found = scan_folder(folder, records, IMAGES_PER_PROMPT)
            score_folder(found, records, DetectionParts(detector, colors), out, batch_size=BATCH)

        def loop() -> None:
            image_by_image(folder, records[:few], detector, colors)

        found = detector.detect([picture(number) for number in range(PICTURES)])
        objects = sum(map(len, found)) / PICTURES
        ours()  # warms up both networks, and the next line for single images
        image_by_image(folder, records[:1], detector, colors)
        batched = many * IMAGES_PER_PROMPT / wall_seconds(ours, settings.device)
        single = few * IMAGES_PER_PROMPT / wall_seconds(loop, settings.device)
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return {
        "objects_per_image": objects,
        "images": many * IMAGES_PER_PROMPT,
        "images_s": batched,
        "images_in_loop": few * IMAGES_PER_PROMPT,
        "loop_images_s": single,
        "ratio": batched / single,
    }


def scoring(settings: Settings) -> Part:
    return Part(
        "Images of 256 px, from PNG files to verdicts: Mask2Former Swin-S and CLIP ViT-L/14 with "
        f"random weights, about {OBJECTS} objects an image, colours on a third of the prompts. "
        "Targets: at least 40 images/s and 5 times the loop.",
        [Measurement("batched / image by image", 150, lambda: scoring_row(settings))],
    )
