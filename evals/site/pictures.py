"""What the gallery shows: thumbnails in sheets, verdicts, reasons and detections, a file a result.

Images of one prompt and seed lie beside each other in the sheets, whatever their model, and those
that the gallery shows at first in sheets of their own, so that scrolling through prompts loads few
sheets, one after another.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from evals.images import caption, sample_path
from evals.report.result_folders import ResultFolder
from evals.results import DETECTIONS
from evals.scoring.detections import iterate_detections

BUDGET = 44 * 2**20
"""Bytes that all sheets may have together."""
_SMALL = 64
"""Images up to this edge are kept as they are, in sheets without loss where the budget allows."""
_SHEET_EDGE = 2048
_MOST_FOUND = 24
_Key = tuple[int, int]
"""(prompt_id, sample_id)"""


@dataclass(frozen=True)
class Sheet:
    file: str
    columns: int
    rows: int


@dataclass
class Sheets:
    """Thumbnails of all results.

    Attributes:
        edge: of a thumbnail, in pixels.
        per_sheet: images on a sheet.
        slots: (place of the result, prompt, sample) -> number of the image over all sheets.
    """

    edge: int = _SMALL
    per_sheet: int = 1
    sheets: list[Sheet] = field(default_factory=list)
    slots: dict[tuple[int, int, int], int] = field(default_factory=dict)
    sizes: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)


def draw_sheets(
    folders: Sequence[ResultFolder],
    write: Callable[[str, bytes], None],
    most: int,
    tiers: Sequence[int] | None = None,
) -> Sheets:
    """Read the images that lie beside the results and write them as sheets.

    Args:
        folders: results; their place in the sequence is their number.
        write: takes a file name and its bytes.
        most: images to keep; beyond it the last results lose theirs.
        tiers: of every result: those of one tier share sheets, the lowest come first; all in one
            if not given.
    """
    places = _images_there(folders, most, tiers or [0] * len(folders))
    if not places:
        return Sheets()
    with Image.open(places[0][1]) as image:
        native = max(image.size)
    edge = native if native <= _SMALL else min(native, _edge_for(len(places)))
    columns = max(1, _SHEET_EDGE // edge)
    if native <= _SMALL:
        columns = min(columns, 24)  # of small images, so that a sheet is read soon
    sheets = Sheets(edge=edge, per_sheet=columns * columns)
    lossless = native <= _SMALL
    quality = 82
    for start in range(0, len(places), sheets.per_sheet):
        part = places[start : start + sheets.per_sheet]
        rows = -(-len(part) // columns)
        pixels = Image.new("RGB", (columns * edge, rows * edge), (128, 128, 128))
        for place, (key, path) in enumerate(part):
            picture, size = _thumbnail(path, edge)
            if picture is None:
                continue
            sheets.slots[key] = start + place
            sheets.sizes[key] = size
            row, column = divmod(place, columns)
            x = column * edge + (edge - picture.width) // 2
            pixels.paste(picture, (x, row * edge + (edge - picture.height) // 2))
        data, suffix = _encode(pixels, lossless, quality)
        if start == 0 and len(data) * len(places) / len(part) > BUDGET:
            lossless, quality = False, 70
            data, suffix = _encode(pixels, lossless, quality)
        name = f"s{len(sheets.sheets):03d}.{suffix}"
        write(name, data)
        sheets.sheets.append(Sheet(name, columns, rows))
    return sheets


def _edge_for(images: int) -> int:
    """Photographs at quality 82 take about 0.3 bytes a pixel."""
    return int(np.clip(np.sqrt(BUDGET / (0.3 * images)) // 16 * 16, 48, 192))


def _images_there(
    folders: Sequence[ResultFolder], most: int, tiers: Sequence[int]
) -> list[tuple[tuple[int, int, int], str]]:
    """(result, prompt, sample) and the file: by tier, of one prompt and seed together."""
    found: list[tuple[int, int, int, int]] = []
    for number, folder in enumerate(folders):
        images = folder.verdicts[["prompt_id", "sample_id"]].to_numpy().tolist()
        if not images or not _has_images(folder, images):
            continue
        if len(found) + len(images) > most:
            break
        found += [(tiers[number], prompt, sample, number) for prompt, sample in images]
    found.sort()
    roots = [str(folder.path) for folder in folders]
    return [
        ((number, prompt, sample), f"{roots[number]}/{prompt:05d}/samples/{sample:05d}.png")
        for _, prompt, sample, number in found
    ]


def _has_images(folder: ResultFolder, images: Sequence[Sequence[int]]) -> bool:
    return any(sample_path(folder.path, p, s).is_file() for p, s in (images[0], images[-1]))


def _thumbnail(path: str, edge: int) -> tuple[Image.Image | None, tuple[int, int]]:
    """A picture that fits into the edge, and the size of the image; None of one that is not
    there, or is damaged: scoring names it, the page leaves its place empty."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            size = image.size
            image.load()
            picture = image if image.mode == "RGB" else image.convert("RGB")
            if max(size) > edge:
                picture.thumbnail((edge, edge), Image.Resampling.LANCZOS, reducing_gap=2.0)
            return picture, size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None, (0, 0)


def _encode(image: Image.Image, lossless: bool, quality: int) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0)
        return buffer.getvalue(), "webp"
    # small pictures keep their colours only without subsampling
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue(), "jpg"


# ---------------------------------------------------------------- verdicts


def result_data(
    number: int, folder: ResultFolder, order: Mapping[_Key, int], sheets: Sheets
) -> dict[str, Any]:
    """Verdicts, reasons, detections and places in the sheets of one result, in columns.

    Args:
        order: (prompt, sample) -> place among the images of the protocol.
    """
    reasons: dict[str, int] = {}
    words: dict[str, int] = {"": 0}
    found, sizes = _detections(folder, words)
    at = [-1] * len(order)
    correct: list[str] = []
    reason: list[int] = []
    slots: list[int] = []
    boxes: list[list[Any]] = []
    size: list[tuple[int, int]] = []
    columns = ("prompt_id", "sample_id", "correct", "reason")
    rows = zip(*(folder.verdicts[name].tolist() for name in columns), strict=True)
    for place, (prompt, sample, right, why) in enumerate(rows):
        key = (prompt, sample)
        at[order[key]] = place
        correct.append("1" if right else "0")
        reason.append(reasons.setdefault(why, len(reasons)))
        picture = (number, *key)
        slots.append(sheets.slots.get(picture, -1))
        boxes.append(found.get(key, []))
        size.append(sizes.get(key) or sheets.sizes.get(picture) or (0, 0))
    one_size = len(set(size)) == 1
    return {
        "at": None if at == list(range(len(order))) else at,
        "correct": "".join(correct),
        "reasons": list(reasons),
        "reason": reason,
        "slot": slots,
        "size": size[:1] if one_size else size,
        "words": list(words),
        "found": boxes if any(boxes) else [],
        "has_found": bool(found),
    }


def _detections(
    folder: ResultFolder, words: dict[str, int]
) -> tuple[dict[_Key, list[list[Any]]], dict[_Key, tuple[int, int]]]:
    """What the rules saw: detections from the lower threshold up, strongest first.

    Returns:
        By image: [label, colour, score, x1, y1, x2, y2] with the first two as places in `words`,
        and (width, height).
    """
    path = folder.path / DETECTIONS
    found: dict[_Key, list[list[Any]]] = {}
    sizes: dict[_Key, tuple[int, int]] = {}
    if not path.is_file():
        return found, sizes
    rules = folder.result.protocol.rules
    limits = [rules.get(name) for name in ("threshold", "counting_threshold")]
    least = min((float(v) for v in limits if isinstance(v, (int, float))), default=0.0)
    for row in iterate_detections(path):
        key = (row["prompt_id"], row["sample_id"])
        sizes[key] = tuple(row["size"])
        seen = [d for d in row["detections"] if d["score"] >= least]
        if len(seen) > 1:
            seen.sort(key=_strongest_first)
        found[key] = [
            [
                words.setdefault(d["label"], len(words)),
                words.setdefault(d.get("color") or "", len(words)),
                round(d["score"], 3),
                *map(_short, d["box"]),
            ]
            for d in seen[:_MOST_FOUND]
        ]
    return found, sizes


def _strongest_first(detection: Mapping[str, Any]) -> float:
    return -float(detection["score"])


def _short(value: float) -> float | int:
    """Tenths of a pixel; whole numbers without their ".0"."""
    value = round(value, 1)
    whole = int(value)
    return whole if whole == value else value


# ---------------------------------------------------------------- prompts


def prompt_texts(folders: Sequence[ResultFolder]) -> dict[int, str]:
    """Captions of a protocol's prompts: from the metadata beside images, else from the suite's own
    records where they are the ones that were scored; empty where neither is there."""
    ids = sorted({int(i) for folder in folders[:1] for i in folder.verdicts["prompt_id"].unique()})
    for folder in folders:
        if not any((folder.path / f"{i:05d}").is_dir() for i in ids[:1] + ids[-1:]):
            continue  # packed without its images
        texts = {i: _caption(folder, i) for i in ids}
        if any(texts.values()):
            return texts
    return _captions_of_suite(folders[0])


def _caption(folder: ResultFolder, prompt_id: int) -> str:
    try:
        return caption(folder.path, prompt_id)
    except (OSError, ValueError):
        return ""  # the page then shows the prompt's number


def _captions_of_suite(folder: ResultFolder) -> dict[int, str]:
    from evals.registry import open_suite
    from evals.suites.limit import limited

    protocol = folder.result.protocol
    try:
        suite = open_suite(protocol.suite, protocol.split)
    except ValueError:
        return {}  # a suite of another version, or one that reads the user's file
    for part in (suite, limited(suite, max(1, protocol.num_prompts // 6)), *_smaller(suite)):
        if part.prompts_sha256 == protocol.prompts_sha256:
            return {i: str(record["prompt"]) for i, record in enumerate(part.records)}
    return {}


def _smaller(suite: Any) -> list[Any]:
    """The suite under every `--limit` up to 60 prompts a task."""
    from evals.suites.limit import limited

    return [limited(suite, n) for n in range(1, 61)]
