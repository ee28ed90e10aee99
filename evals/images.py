"""GenEval's image folders: 00000/metadata.jsonl and 00000/samples/00000.png, made by anyone.

GenEval's own script takes every file whose name *begins* like "00000.png"; temporary files here
therefore start with a dot, and an image that was not finite leaves a marker `00000.failed.json`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evals.image_identity import (
    KEYWORD,
    ImageIdentity,
    identity_of_marker,
    misplaced,
    stated_identity,
)
from selfe.files import write_atomically
from selfe.images import DamagedImage, decode_image, format_of, png_chunks, png_fault, png_size
from selfe.json_files import JsonFault, read_json_lines

MOST_FILE_BYTES = 256 * 2**20
"""Larger files are not read."""
METADATA = "metadata.jsonl"
_OTHER_FORMATS = (".jpg", ".jpeg", ".webp")
_DECODED = (b"PLTE", b"tRNS", b"eXIf")
_RECORD_KEYS = ("tag", "include", "exclude", "prompt")


def prompt_folder(folder: str | Path, prompt_id: int) -> Path:
    return Path(folder) / f"{prompt_id:05d}"


def caption(folder: Path, prompt_id: int) -> str:
    """Of a prompt, from the metadata beside its images; "" where they do not lie there."""
    path = prompt_folder(folder, prompt_id) / METADATA
    if not path.is_file():
        return ""
    _, record = next(read_json_lines(path), (1, None))
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise ValueError(f"{path}, line 1: must be a JSON object with the key prompt")
    return record["prompt"]


def sample_path(folder: str | Path, prompt_id: int, sample_id: int) -> Path:
    return prompt_folder(folder, prompt_id) / "samples" / f"{sample_id:05d}.png"


def failed_marker_path(folder: str | Path, prompt_id: int, sample_id: int) -> Path:
    return sample_path(folder, prompt_id, sample_id).with_suffix(".failed.json")


def write_metadata(folder: str | Path, prompt_id: int, record: Mapping[str, Any]) -> None:
    """The prompt's record, in the form GenEval's scripts read; untouched if already there."""
    path = prompt_folder(folder, prompt_id) / METADATA
    text = json.dumps(record) + "\n"
    if path.is_file() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def write_png(path: str | Path, image: np.ndarray, identity: ImageIdentity | None = None) -> None:
    """Write an (H, W, 3) uint8 image atomically; a marker of an earlier failure goes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".failed.json").unlink(missing_ok=True)
    buffer = io.BytesIO()
    text = PngInfo()
    if identity is not None:
        text.add_text(KEYWORD, identity.as_text())
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=text)
    write_atomically(path, buffer.getvalue())


def write_failed_marker(
    folder: str | Path,
    prompt_id: int,
    sample_id: int,
    reason: str,
    identity: ImageIdentity | None = None,
) -> None:
    """Record that this image could not be drawn: it counts as wrong, never as a black picture."""
    path = failed_marker_path(folder, prompt_id, sample_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    sample_path(folder, prompt_id, sample_id).unlink(missing_ok=True)
    document = {"reason": reason}
    write_atomically(
        path, identity.as_document(**document) if identity else json.dumps(document) + "\n"
    )


def image_is_intact(
    folder: str | Path, prompt_id: int, sample_id: int, identity: ImageIdentity | None = None
) -> bool:
    """True if this image need not be drawn: its PNG is whole, or it is marked as failed, and it
    does not say that it is another one than `identity`."""
    marker = failed_marker_path(folder, prompt_id, sample_id)
    path = sample_path(folder, prompt_id, sample_id)
    try:
        if marker.is_file():
            stated = identity_of_marker(marker.read_bytes(), marker)
        else:
            data = path.read_bytes() if path.is_file() else b""
            if png_fault(data) is not None:
                return False
            stated = stated_identity(data, path)
    except JsonFault:
        return False
    return identity is None or misplaced(stated, identity, same_set=True) is None


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8, by the decoder of the training data (`selfe.images`).

    Raises:
        ValueError: if the file is truncated, damaged or no PNG; names it.
    """
    data = Path(path).read_bytes()
    if format_of(data) != "PNG":
        raise ValueError(f"{path}: {png_fault(data)}")
    try:
        return np.asarray(decode_image(data))
    except DamagedImage as error:
        raise ValueError(f"{path}: {error}") from None


@dataclass(frozen=True)
class FoundImage:
    """An image of a folder. `path` is None for one that is marked as failed."""

    prompt_id: int
    sample_id: int
    path: Path | None
    digest: str
    size: tuple[int, int]
    """(width, height), from the header; (0, 0) for a failed image"""


@dataclass(frozen=True)
class ImageFolder:
    """What a folder holds for a suite: usable images in order, and everything that is wrong.

    Attributes:
        path: of the folder.
        images: by prompt and sample.
        problems: one sentence each; none if the set is complete.
    """

    path: Path
    images: list[FoundImage]
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.problems


def scan_folder(
    folder: str | Path,
    records: Sequence[Mapping[str, Any]],
    images_per_prompt: int,
    numbers: Sequence[int] | None = None,
    image_set: str | None = None,
) -> ImageFolder:
    """Match a folder in GenEval's layout to a suite's records.

    Missing, duplicate, extra and corrupt images, and folders of no prompt, are listed as problems.

    Args:
        records: the suite's, by prompt.
        numbers: number of the folder that holds each record, where that is not the record's place;
            other folders are then ignored.
        image_set: the set that images must have been drawn for, where they name one; None for any.

    Raises:
        ValueError: if the folder does not exist, or a metadata.jsonl is missing or differs from
            the suite's record; names the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of images")
    by_number: dict[int, Path] = {}
    problems: list[str] = []
    for entry in _numbered_folders(folder):
        number = int(entry.name)
        if number in by_number:
            problems.append(f"{entry}: duplicate of {by_number[number].name}")
        elif numbers is None and number >= len(records):
            problems.append(f"{entry}: extra prompt, the suite has {len(records)}")
        else:
            by_number[number] = entry
    images: list[FoundImage] = []
    for prompt_id, record in enumerate(records):
        number = prompt_id if numbers is None else numbers[prompt_id]
        if number not in by_number:
            problems.append(f"{prompt_folder(folder, number)}: missing prompt")
            continue
        prompt = str(record.get("prompt", ""))
        found, faults = _scan_prompt(
            by_number[number], prompt_id, images_per_prompt, prompt, image_set
        )
        if found or (by_number[number] / METADATA).is_file():
            _check_metadata(by_number[number] / METADATA, record)
        images += found
        problems += faults
    return ImageFolder(folder, images, problems)


def folder_numbers(folder: Path) -> list[int]:
    """Numbers of the prompts that a folder in GenEval's layout holds."""
    return [int(entry.name) for entry in _numbered_folders(folder)]


def _numbered_folders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and re.fullmatch(r"[0-9]+", p.name)]


def _scan_prompt(
    folder: Path, prompt_id: int, images_per_prompt: int, prompt: str, image_set: str | None
) -> tuple[list[FoundImage], list[str]]:
    """Usable images of one prompt's folder in order, and what is wrong with it."""
    samples = folder / "samples"
    entries = sorted(samples.iterdir()) if samples.is_dir() else []
    found: dict[int, FoundImage | None] = {}  # None for a file that cannot be used
    problems: list[str] = []
    for path in entries:
        match = re.match(r"([0-9]+)(\.png|\.failed\.json)", path.name)
        if match is None or not path.is_file():
            continue
        if match.end() != len(path.name):
            # GenEval's own script would take it for an image.
            if match.group(2) == ".png":
                problems.append(f"{path}: extra file that looks like an image")
            continue
        sample_id = int(match.group(1))
        if sample_id in found:
            problems.append(f"{path}: duplicate of image {sample_id}")
            continue
        wanted = ImageIdentity(image_set or "", prompt_id, sample_id, prompt)
        looked_at = _look_at(path, wanted, same_set=image_set is not None)
        found[sample_id] = looked_at if isinstance(looked_at, FoundImage) else None
        if isinstance(looked_at, str):
            problems.append(f"{path}: {looked_at}")
    if len(found) < images_per_prompt:
        absent = [i for i in range(images_per_prompt) if i not in found]
        missing = ", ".join(str(i) for i in absent[: images_per_prompt - len(found)])
        others = [p.name for p in entries if p.suffix.lower() in _OTHER_FORMATS]
        hint = f" ({others[0]} and the like are not read: only PNG files are)" if others else ""
        problems.append(
            f"{samples}: {len(found)} of {images_per_prompt} images, missing {missing}{hint}"
        )
    elif len(found) > images_per_prompt:
        problems.append(
            f"{samples}: {len(found) - images_per_prompt} extra, "
            f"{images_per_prompt} images per prompt belong to this set"
        )
    return [image for _, image in sorted(found.items()) if image is not None], problems


def _look_at(path: Path, wanted: ImageIdentity, *, same_set: bool) -> FoundImage | str:
    """The image, or failed marker, in a file; or why the file cannot be used."""
    if path.stat().st_size > MOST_FILE_BYTES:
        return f"refused: more than {MOST_FILE_BYTES} bytes"
    data = path.read_bytes()
    is_image = path.suffix == ".png"
    fault = _pixel_fault(data) if is_image else None
    try:
        if fault is None:
            read = stated_identity if is_image else identity_of_marker
            fault = misplaced(read(data, path), wanted, same_set=same_set)
    except JsonFault as unreadable:
        fault = unreadable.detail
    if fault is not None:
        return fault
    return FoundImage(
        wanted.prompt_id,
        wanted.sample_id,
        path if is_image else None,
        hashlib.sha256(data).hexdigest(),
        png_size(data) if is_image else (0, 0),
    )


def _pixel_fault(data: bytes) -> str | None:
    """What is wrong with a PNG file, or None. Kinds that a decoder may refuse although all of their
    bytes are there, those with a palette for example, are decoded."""
    fault = png_fault(data)
    if fault is None and any(kind in _DECODED for kind, _, _ in png_chunks(data)):
        try:
            decode_image(data)
        except DamagedImage as error:
            return str(error)
    return fault


def _check_metadata(path: Path, record: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; GenEval's layout has the prompt's record there")
    rows = list(read_json_lines(path))
    if len(rows) != 1 or not isinstance(rows[0][1], dict):
        raise ValueError(f"{path}: must hold one JSON object, on line 1")
    number, metadata = rows[0]
    for key in _RECORD_KEYS:
        if metadata.get(key) != record.get(key):
            raise ValueError(
                f"{path}, line {number}: {key} is {json.dumps(metadata.get(key))}, "
                f"the suite has {json.dumps(record.get(key))}"
            )
