"""GenEval's 553 prompts, drawn again by its own rules, and the long prompts from the user's file.

Draw order of the published list: one numpy generator seeded with 43 serves the six tasks in turn;
exact duplicates are dropped at the end, the first kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.suites.base import Suite
from evals.suites.rules import COLORS, RELATIONS
from selfe.data.shapes_world import vocabulary as grammar
from selfe.files import default_cache
from selfe.json_files import parse_json
from selfe.text import numbered_lines, require_storable

GENEVAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of the records as JSON lines, newline-terminated: equal to the published file."""
LONG_PROMPTS_HOME = (
    "github.com/ByteDance-Seed/Bagel, eval/gen/geneval/prompts/evaluation_metadata_long.jsonl"
)
LONG_PROMPTS_NAME = "evaluation_metadata_long.jsonl"
CLIP_TOKENS = 77
_SEED = 43
_PER_TASK = 100

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse",
    "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
"""The 80 COCO classes under the names GenEval's prompts use, in COCO's order."""


def geneval_records() -> list[dict[str, Any]]:
    """The 553 records in the published order; keys in order tag, include, (exclude,) prompt."""
    rng = np.random.default_rng(_SEED)
    drawn: list[dict[str, Any]] = [
        grammar.single_object(COCO_CLASSES[i]) for i in rng.choice(80, size=80, replace=False)
    ]
    for draw in (_two_object, _counting, _colors, _position, _color_attr):
        drawn += [draw(rng) for _ in range(_PER_TASK)]
    return list({json.dumps(record): record for record in drawn}.values())


def _two_object(rng: np.random.Generator) -> dict[str, Any]:
    a, b = rng.choice(80, size=2, replace=False)
    return grammar.two_object(COCO_CLASSES[a], COCO_CLASSES[b])


def _counting(rng: np.random.Generator) -> dict[str, Any]:
    name = COCO_CLASSES[rng.choice(80)]
    return grammar.counting(name, int(rng.integers(2, 4, endpoint=True)))


def _colors(rng: np.random.Generator) -> dict[str, Any]:
    name = _not_a_person(rng.choice(79))
    return grammar.colors(name, COLORS[rng.choice(10)])


def _position(rng: np.random.Generator) -> dict[str, Any]:
    a, b = rng.choice(80, size=2, replace=False)
    return grammar.position(COCO_CLASSES[a], COCO_CLASSES[b], RELATIONS[rng.choice(4)])


def _color_attr(rng: np.random.Generator) -> dict[str, Any]:
    a, b = rng.choice(79, size=2, replace=False)
    color_a, color_b = rng.choice(10, size=2, replace=False)
    return grammar.color_attr(_not_a_person(a), COLORS[color_a], _not_a_person(b), COLORS[color_b])


def _not_a_person(draw: int | np.signedinteger) -> str:
    """People are not asked to be purple: draws run over the 79 classes after "person"."""
    return COCO_CLASSES[(COCO_CLASSES.index("person") + 1 + int(draw)) % 80]


def geneval_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`geneval@1`: the original prompts.

    Raises:
        ValueError: if a split or a prompt file is asked for.
    """
    return _suite("geneval@1", split, prompts, "mask2former")


def geneval_hf_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`geneval-hf@1`: the original prompts under another Mask2Former, hence another name."""
    return _suite("geneval-hf@1", split, prompts, "mask2former-hf")


def geneval_long_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`geneval-long@1`: rewritten prompts from the user's file, same tags and clauses.

    Args:
        prompts: the file; None for the copy that `selfe-bench fetch geneval-long` made.

    Raises:
        ValueError: if a split is asked for, or the file is missing or does not fit.
    """
    if prompts is None:
        prompts = default_cache() / LONG_PROMPTS_NAME
        if not prompts.is_file():
            raise ValueError(
                "geneval-long@1 reads its prompts from a copy of BAGEL's: run `selfe-bench fetch "
                "geneval-long`, or give yours with --prompts FILE; it is published at "
                f"{LONG_PROMPTS_HOME}; the original short prompts are --suite geneval@1"
            )
    _refuse_split("geneval-long@1", split)
    return Suite("geneval-long@1", read_long_records(prompts), "mask2former", "clip")


def _suite(name: str, split: str, prompts: str | Path | None, detector: str) -> Suite:
    if prompts is not None:
        raise ValueError(f"{name} draws its own prompts; --prompts belongs to geneval-long@1")
    _refuse_split(name, split)
    return Suite(name, geneval_records(), detector, "clip")


def _refuse_split(name: str, split: str) -> None:
    if split:
        raise ValueError(f"{name} has no splits; leave out --split")


def read_long_records(path: str | Path) -> list[dict[str, Any]]:
    """The rewritten prompts of `geneval-long@1` from the user's copy.

    Raises:
        ValueError: if the file is missing, a line is not a record, or tags and clauses are not
            those of GenEval's 553 records, in their order; names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; the long prompts are published at {LONG_PROMPTS_HOME}"
        )
    ours = geneval_records()
    records: list[dict[str, Any]] = []
    for number, line in numbered_lines(path):
        record = _parse_record(line, path, number)
        if len(records) == len(ours):
            raise ValueError(f"{path}, line {number}: more than the {len(ours)} records of GenEval")
        expected = ours[len(records)]
        for key in ("tag", "include", "exclude"):
            if record.get(key) != expected.get(key):
                raise ValueError(
                    f"{path}, line {number}: {key} is {json.dumps(record.get(key))}, but record "
                    f"{len(records)} of GenEval has {json.dumps(expected.get(key))}"
                )
        records.append({**expected, "prompt": record["prompt"]})
    if len(records) < len(ours):
        raise ValueError(f"{path}: {len(records)} records, GenEval has {len(ours)}")
    return records


def count_beyond_clip(records: Sequence[Mapping[str, Any]]) -> int:
    """How many prompts have more than CLIP's 77 tokens (its two marks included).

    Counted without any model, for images whose text encoders are not known: many models read
    prompts through CLIP, alone or beside another encoder.
    """
    import open_clip

    tokenizer = open_clip.get_tokenizer("ViT-L-14-quickgelu")
    return sum(len(tokenizer.encode(r["prompt"])) + 2 > CLIP_TOKENS for r in records)


def _parse_record(line: str, path: Path, number: int) -> dict[str, Any]:
    place, record = f"{path}, line {number}", parse_json(line, path, line=number)
    if not isinstance(record, dict):
        raise ValueError(f"{place}: not a JSON object")
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{place}: no prompt")
    require_storable(prompt, f"{place}: the prompt")
    return record
