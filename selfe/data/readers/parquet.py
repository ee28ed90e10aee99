"""Parquet files with image bytes and captions as columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfe.data.readers.base import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    RawSample,
    Skipped,
    digest_of_sizes,
    expand,
    first_line,
    image_bytes,
    pick_column,
    read_below,
    require_file,
)


class ParquetReader:
    """`RawReader` of parquet files; a row group is a shard.

    Images are raw bytes, or the {"bytes", "path"} structure of the `datasets` library.

    Raises:
        ValueError: if there are no files, or one of them is missing or not parquet.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.files = expand(location, "*.parquet")
        self.image_column, self.caption_column = image_column, caption_column

    def shards(self) -> list[str]:
        names = []
        for path in self.files:
            with self._open(path) as file:
                names += [f"{path}#{group}" for group in range(file.num_row_groups)]
        if not names:
            raise ValueError(f"the data set is empty: {', '.join(self.files)} has no rows")
        return names

    def fingerprint(self, shard: str) -> str:
        return digest_of_sizes([shard.rpartition("#")[0]])

    def read(self, shard: str) -> Iterator[RawSample | Skipped]:
        import pyarrow

        path, _, group = shard.rpartition("#")
        with self._open(path) as file:
            names = file.schema_arrow.names
            columns = [
                pick_column(names, self.image_column, IMAGE_NAMES, "image"),
                pick_column(names, self.caption_column, CAPTION_NAMES, "caption"),
            ]
            rows = file.metadata.row_group(int(group)).num_rows
            done = 0
            try:
                for batch in file.iter_batches(64, row_groups=[int(group)], columns=columns):
                    images, captions = (batch.column(name).to_pylist() for name in columns)
                    for image, caption in zip(images, captions, strict=True):
                        yield self._sample(f"{shard}/{done}", image, caption, Path(path).parent)
                        done += 1
            except (pyarrow.ArrowException, OSError) as error:
                reason = f"the rows from {done} on cannot be read ({first_line(error)})"
                yield Skipped(shard, reason, rows - done)

    @staticmethod
    def _sample(name: str, image: Any, caption: Any, base: Path) -> RawSample | Skipped:
        if not isinstance(caption, str):
            return Skipped(name, "no caption")
        try:
            content = image_bytes(image, lambda path: read_below(base, path))
            return RawSample(name, content, caption.strip())
        except ValueError as error:
            return Skipped(name, str(error))

    @staticmethod
    def _open(path: str) -> Any:
        import pyarrow
        import pyarrow.parquet

        require_file(path)
        try:
            return pyarrow.parquet.ParquetFile(
                path, memory_map=True, page_checksum_verification=True
            )
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(
                f"{path} cannot be read as parquet ({first_line(error)}): fetch it again"
            ) from None
