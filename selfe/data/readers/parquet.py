"""Parquet files with image bytes and captions as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from selfe.data.readers.base import (
    CheckedReader,
    RawSample,
    Skipped,
    sample,
)
from selfe.data.readers.cells import CAPTION_NAMES, IMAGE_NAMES, image_bytes, pick_column
from selfe.data.readers.locations import (
    PARQUET_ENDINGS,
    digest_of_sizes,
    expand,
    read_below,
)
from selfe.data.readers.parquet_files import columns_of_images, open_parquet
from selfe.text import first_line


class ParquetReader(CheckedReader):
    """`RawReader` of parquet files; a row group is a shard.

    Images are raw bytes, the {"bytes", "path"} structure of the `datasets` library, or, where no
    column holds either, paths below the file's folder.

    Raises:
        ValueError: if there are no files, or one of them is missing, not parquet or lacks a column.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.files = expand(location, PARQUET_ENDINGS)
        self.image_column, self.caption_column = image_column, caption_column

    def shards(self) -> list[str]:
        names = []
        for path in self.files:
            with open_parquet(path) as file:
                self._columns(path, file)
                names += [f"{path}#{group}" for group in range(file.num_row_groups)]
        if not names:
            raise ValueError(f"the data set is empty: {', '.join(self.files)} has no rows")
        return names

    def fingerprint(self, shard: str) -> str:
        return digest_of_sizes([shard.rpartition("#")[0]])

    def items(self, shard: str) -> Iterator[RawSample | Skipped]:
        import pyarrow

        path, _, group = shard.rpartition("#")
        with open_parquet(path) as file:
            columns = self._columns(path, file)
            read = partial(read_below, Path(path).parent)
            rows = file.metadata.row_group(int(group)).num_rows
            done = 0
            try:
                for batch in file.iter_batches(64, row_groups=[int(group)], columns=columns):
                    images, captions = (batch.column(name) for name in columns)
                    for image, caption in zip(images, captions, strict=True):
                        yield sample(
                            f"{shard}/{done}", partial(_bytes_of, image, read), caption.as_py
                        )
                        done += 1
            except (pyarrow.ArrowException, OSError) as error:
                reason = f"the rows from {done} on cannot be read ({first_line(error)})"
                yield Skipped(shard, reason, rows - done)

    def _columns(self, path: str, file: Any) -> list[str]:
        """The columns of images and captions."""
        schema, image = file.schema_arrow, self.image_column
        names = list(schema.names)
        holding = [name for name in columns_of_images(schema) if name.lower() in IMAGE_NAMES]
        choice = names if image or not holding else holding
        try:
            return [
                pick_column(choice, image, IMAGE_NAMES, "image"),
                pick_column(names, self.caption_column, CAPTION_NAMES, "caption"),
            ]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _bytes_of(cell: Any, read: Callable[[str], bytes]) -> bytes:
    return image_bytes(cell.as_py(), read)
