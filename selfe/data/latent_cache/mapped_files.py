"""Memory-mapped columns of a cache's files, opened when read and closed when many are open."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfe.data.latent_cache.index import SAMPLES, digest_of_rows
from selfe.data.latent_cache.shard_writer import latent_features, sample_features

_MOST_OPEN_FILES = 256


class DamagedRow(ValueError):
    """A row of the cache whose content is not what was written."""


class BinaryColumn:
    """A column of bytes of a memory-mapped Arrow table, row by row, without a copy."""

    def __init__(self, column: Any) -> None:
        self._chunks = []
        self._starts = [0]
        for chunk in column.chunks:
            _, offsets, data = chunk.buffers()
            self._chunks.append(
                (
                    np.frombuffer(offsets, np.int64)[chunk.offset :],
                    memoryview(data) if data is not None else memoryview(b""),
                )
            )
            self._starts.append(self._starts[-1] + len(chunk))

    def __getitem__(self, row: int) -> memoryview:
        number = bisect_right(self._starts, row) - 1
        if number >= len(self._chunks):
            raise DamagedRow("the file has fewer rows than were written")
        offsets, data = self._chunks[number]
        place = row - self._starts[number]
        start, stop = int(offsets[place]), int(offsets[place + 1])
        if not 0 <= start <= stop <= len(data):
            raise DamagedRow("its place in the file is damaged")
        return data[start:stop]


class MappedFile:
    """A memory-mapped Arrow file: numbers as arrays, bytes as `BinaryColumn`.

    Raises:
        DamagedRow: if its frame is damaged.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow
        from datasets.table import MemoryMappedTable

        try:
            table = MemoryMappedTable.from_file(str(path)).table
            if path.name == SAMPLES:
                features = sample_features(fake="fake_tokens" in table.column_names)
            else:
                features = latent_features()
            columns = {name: table.column(name) for name in table.column_names}
            # a flipped bit may well leave a readable table of other types, or with missing values
            if not table.schema.equals(features.arrow_schema, check_metadata=False) or any(
                column.null_count for column in columns.values()
            ):
                raise DamagedRow("its columns are not those that were written")
            table.validate()
            self.binary = {
                name: BinaryColumn(column)
                for name, column in columns.items()
                if pyarrow.types.is_large_binary(column.type)
            }
            self.numbers = {
                name: column.to_numpy()
                for name, column in columns.items()
                if pyarrow.types.is_integer(column.type)
            }
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the system's complaint, not that of what was read
            raise DamagedRow(f"the file cannot be read ({error})") from None


class OpenFiles:
    """Memory-mapped files, the ones used last kept open; safe to share among threads.

    Args:
        recorded: path -> `FileRecord.checksums`; other files are taken as they are.
    """

    def __init__(
        self, most: int = _MOST_OPEN_FILES, recorded: Mapping[Path, str] | None = None
    ) -> None:
        self.most, self.recorded = most, recorded or {}
        self._open: OrderedDict[Path, MappedFile] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> MappedFile:
        with self._lock:
            if (file := self._open.get(path)) is not None:
                self._open.move_to_end(path)
                return file
        file = MappedFile(path)
        recorded = self.recorded.get(path)
        if recorded and digest_of_rows(file.numbers) != recorded:
            raise DamagedRow("the file is not the one that the index lists")
        with self._lock:
            self._open[path] = file
            while len(self._open) > self.most:
                self._open.popitem(last=False)
        return file
