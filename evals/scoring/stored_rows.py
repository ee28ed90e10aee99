"""A line of findings per image, saved as they are found, so that a killed run continues.

Images are looked at in batches whose composition depends on the folder alone. A finished batch is
appended to a working file and synced; a batch that is not there in full is looked at again as a
whole. The final file is therefore the same after any number of kills. A file beside it records what
it was made from; another instrument or other images start again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.images import FoundImage, read_image
from evals.scoring.detect import plan_batches
from evals.scoring.work_file import WorkFile, sound_rows
from selfe.files import as_json_lines, file_sha256, write_atomically
from selfe.json_files import read_json_lines
from selfe.sealed_files import digest_of, read_sealed, seal

Row = dict[str, Any]
Progress = Callable[[int, int], None]
Look = Callable[[Sequence[FoundImage], Sequence[np.ndarray]], Sequence[Mapping[str, Any]]]
"""Images of a batch with their (H, W, 3) uint8 pixels -> what is stored of each."""


class StoredRows:
    """The rows of one instrument on one folder of images.

    Args:
        path: the final file, "NAME.jsonl"; working files lie beside it.
        identity: everything that decides the rows but the images.
        images: what is to be looked at; those marked as failed have no row but `FAILED`.
        batch_size: images looked at together.
        rank, world_size: batch k is looked at by process k mod world_size.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        images: Sequence[FoundImage],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.path, self.images = path, images
        self.batches = plan_batches(images, batch_size)
        self.rank, self.world_size = rank, world_size
        facts = {**identity, "batch_size": batch_size}
        self.identity = facts
        listed = [[i.prompt_id, i.sample_id, i.digest] for i in images]
        digest = hashlib.sha256(as_json_lines(listed).encode()).hexdigest()
        self.made_from = {**facts, "images": digest}
        self.vouched = _provenance(path)

    def _work(self, rank: int | str) -> Path:
        return self.path.with_name(f".{self.path.stem}-{rank}.work.jsonl")

    def look(self, look: Look, progress: Progress = lambda done, total: None) -> int:
        """Look at this process's share of what is not done yet; returns the number of images."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        total = len(self.images)
        if self._is_final():
            progress(total, total)
            return 0
        known, work = self._known(), WorkFile(self._work(self.rank), self.identity)
        looked = done = 0
        for number, batch in enumerate(self.batches):
            mine = number % self.world_size == self.rank
            if mine and not all(_key(image) in known for image in batch):
                pixels = [read_image(image.path) for image in batch if image.path is not None]
                found = look(batch, pixels)
                rows = [
                    {"digest": image.digest, **_place(image), **dict(row)}
                    for image, row in zip(batch, found, strict=True)
                ]
                work.append(rows)
                looked += len(batch)
            done += len(batch)
            progress(done, total)
        return looked

    def finish(self) -> list[Row]:
        """Write the final file from what all processes found; drop the working files.

        Returns:
            A row per image in the order of the folder; an image that was not finite has the key
            "failed" and no findings.
        """
        if not self._is_final():
            known = self._known()
            rows = [
                {**_place(image), "failed": True} if image.path is None else known[_key(image)]
                for image in self.images
            ]
            # Without its provenance, the old one would vouch for the new file.
            self.vouched.unlink(missing_ok=True)
            content = as_json_lines(rows)
            write_atomically(self.path, content)
            facts = {**self.made_from, "rows": hashlib.sha256(content.encode()).hexdigest()}
            write_atomically(self.vouched, seal("stored rows", facts, indent=None))
        for work in self.path.parent.glob(self._work("*").name):
            work.unlink()
        return [row for _, row in read_json_lines(self.path)]

    def _is_final(self) -> bool:
        try:
            vouched = read_sealed(self.vouched, dict[str, Any], "stored rows")
            found = file_sha256(self.path)
        except (OSError, ValueError):
            return False
        return digest_of(vouched) == digest_of({**self.made_from, "rows": found})

    def _known(self) -> dict[tuple[int, int, str], Row]:
        """Rows of all working files of this very instrument. A later row of an image wins."""
        known = {}
        for work in sorted(self.path.parent.glob(self._work("*").name)):
            for row in sound_rows(work, self.identity):
                digest = row.pop("digest")
                known[(row["prompt_id"], row["sample_id"], digest)] = row
        return known


def _place(image: FoundImage) -> Row:
    return {"prompt_id": image.prompt_id, "sample_id": image.sample_id}


def _key(image: FoundImage) -> tuple[int, int, str]:
    return (image.prompt_id, image.sample_id, image.digest)


def is_vouched_for(path: str | Path) -> bool:
    """Whether a final file is the one that its provenance, beside it, was written for.

    Raises:
        JsonFault: if the provenance is damaged.
        OSError: if either is missing.
    """
    path = Path(path)
    vouched = read_sealed(_provenance(path), dict[str, Any], "stored rows", required=True)
    return file_sha256(path) == vouched.get("rows")


def _provenance(path: Path) -> Path:
    return path.with_name(f".{path.stem}.provenance.json")


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a stored file.

    Raises:
        ValueError: if a line is no row of an image, or an image occurs twice; names the line.
    """
    rows: list[Row] = []
    seen: set[tuple[int, int]] = set()
    for number, row in read_json_lines(path):
        place = [row.get(k) for k in ("prompt_id", "sample_id")] if isinstance(row, dict) else []
        if not place or not all(type(v) is int and v >= 0 for v in place):
            raise ValueError(f"{path}, line {number}: prompt_id and sample_id must be numbers >= 0")
        key = (row["prompt_id"], row["sample_id"])
        if key in seen:
            raise ValueError(f"{path}, line {number}: a second line for image {key}")
        seen.add(key)
        rows.append(row)
    return rows
