"""A reader of comma-separated files whose rows are the path of an image and its caption."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from selfe.data.readers.base import RawSample, Skipped, digest_of_sizes, read_below, require_file


class CsvReader:
    def __init__(self, location: str) -> None:
        self.location = location

    def shards(self) -> Sequence[str]:
        require_file(self.location)
        return [self.location]

    def fingerprint(self, shard: str) -> str:
        return digest_of_sizes([shard])

    def read(self, shard: str) -> Iterator[RawSample | Skipped]:
        folder = Path(shard).parent
        with open(shard, newline="") as file:
            for name, caption in csv.reader(file):
                yield RawSample(name, read_below(folder, name), caption)
