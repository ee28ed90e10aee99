"""Data sets of the `datasets` library: a hub id, or a folder written by `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from selfe.data.readers.base import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    MOST_IMAGE_BYTES,
    SHARD_ROWS,
    RawSample,
    Skipped,
    first_line,
    image_bytes,
    pick_column,
)

_OPTIONS = ("split", "config", "revision", "streaming")


class HubReader:
    """`RawReader` of `NAME?split=train&config=...&revision=...&streaming=true`.

    Downloaded and saved data is cut into shards of 1,000 rows; streamed data has those of its
    files, and nothing of it is kept on disk.

    Raises:
        ValueError: for unknown options, a data set that cannot be had, and unknown columns.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.name, _, query = location.partition("?")
        options = dict(parse_qsl(query))
        unknown = sorted(options.keys() - set(_OPTIONS))
        if unknown:
            raise ValueError(f"hf: unknown option {unknown[0]!r} (known: {', '.join(_OPTIONS)})")
        self.streaming = options.get("streaming", "false").lower() in ("true", "1", "yes")
        self.data = self._load(options.get("split", "train"), options)
        self.image = pick_column(self.data.column_names, image_column, IMAGE_NAMES, "image")
        self.caption = pick_column(self.data.column_names, caption_column, CAPTION_NAMES, "caption")
        self.data = self._undecoded()

    def shards(self) -> list[str]:
        if self.streaming:
            return [f"stream {number}" for number in range(self.data.num_shards)]
        if not len(self.data):
            raise ValueError(f"the data set is empty: {self.name} has no rows")
        return [f"rows {start}" for start in range(0, len(self.data), SHARD_ROWS)]

    def fingerprint(self, shard: str) -> str:
        return "" if self.streaming else f"{len(self._range(shard))} rows"

    def read(self, shard: str) -> Iterator[RawSample | Skipped]:
        import pyarrow

        rows: Any
        if self.streaming:
            number = int(shard.split()[1])
            rows = self.data.shard(num_shards=self.data.num_shards, index=number)
        else:
            rows = self.data.select(self._range(shard))
        row = 0
        try:
            for row, values in enumerate(rows):
                yield self._sample(f"{self.name}/{shard}/{row}", values)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            # a stream that breaks off: how many samples went with it is not known
            reason = f"it cannot be read after row {row} ({first_line(error)})"
            yield Skipped(f"{self.name}/{shard}", reason)

    def _range(self, shard: str) -> range:
        start = int(shard.split()[1])
        return range(start, min(start + SHARD_ROWS, len(self.data)))

    def _sample(self, name: str, values: dict[str, Any]) -> RawSample | Skipped:
        caption = values[self.caption]
        if isinstance(caption, list) and caption:
            caption = caption[0]
        if not isinstance(caption, str):
            return Skipped(name, "no caption")
        try:
            image = image_bytes(values[self.image], _read_anywhere)
        except ValueError as error:
            return Skipped(name, str(error))
        return RawSample(name, image, caption.strip())

    def _load(self, split: str, options: dict[str, str]) -> Any:
        import datasets

        if Path(self.name).is_dir() and (
            (Path(self.name) / "state.json").is_file()
            or (Path(self.name) / "dataset_dict.json").is_file()
        ):
            data = datasets.load_from_disk(self.name)
            if isinstance(data, datasets.DatasetDict):
                if split not in data:
                    raise ValueError(f"{self.name} has no split {split!r}: {', '.join(data)}")
                data = data[split]
            return data.to_iterable_dataset(num_shards=1) if self.streaming else data
        try:
            return datasets.load_dataset(
                self.name,
                options.get("config"),
                split=split,
                revision=options.get("revision"),
                streaming=self.streaming,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the data set {self.name} cannot be had ({first_line(error)}); fetch it with: "
                f"hf download --repo-type dataset {self.name}"
            ) from None

    def _undecoded(self) -> Any:
        """Images as the bytes they were stored in, so that one damaged image is one sample."""
        import datasets

        if self.data.features is None or not isinstance(
            self.data.features[self.image], datasets.Image
        ):
            return self.data
        return self.data.cast_column(self.image, datasets.Image(decode=False))


def _read_anywhere(path: str) -> bytes:
    """A file that the `datasets` library has put on disk or names by a URL."""
    import fsspec

    with fsspec.open(path, "rb") as file:
        return file.read(MOST_IMAGE_BYTES + 1)
