"""The latent cache on disk: Arrow files that are memory-mapped, checksums, and an index.

    index.json             what the cache holds: written last, so a cache that has one is whole
    prepare.json           the settings it was started with
    prompts.safetensors    the null prompt and the phrase "fake image" alone
    shards/000000/         one folder for each shard of the raw data, renamed into place when whole
        samples.arrow      one row per image: caption, its features, size and sha256 of the image
        256-240x272.arrow  latents of a bucket (height x width), with their rows of samples.arrow
        shard.json         rows and sha256 of the files, what was skipped and truncated

Every row carries an XXH3 checksum of its payload that is compared at each reading; the sha256 of
whole files is compared by `selfe-bench prepare --verify`. Text is stored once for all resolutions.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from selfe.data.buckets import Bucket
from selfe.data.raw import Skipped
from selfe.files import file_sha256, fsync_directory, write_atomically

FORMAT = "selfe-latents@1"
SAMPLES = "samples.arrow"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_MOST_OPEN_FILES = 256


class DamagedRow(ValueError):
    """A row of the cache whose content is not what was written."""


@dataclass(frozen=True)
class FileRecord:
    """What is known of a finished Arrow file."""

    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard.

    Attributes:
        name: of the shard in the raw data.
        files: by file name.
        seen: samples read, the unusable ones among them.
        too_small: images smaller than asked for at every resolution.
        skipped: damaged data.
        truncated: captions that lost their end, by encoder.
        source: `RawReader.fingerprint` of the shard; "" where it is not known.
        empty_captions: samples whose caption has no words: they train the null prompt.
    """

    name: str
    files: Mapping[str, FileRecord]
    seen: int
    too_small: int
    skipped: tuple[Skipped, ...]
    truncated: Mapping[str, int]
    source: str = ""
    empty_captions: int = 0

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        for name in ("source", "empty_captions"):
            if not values[name]:
                del values[name]  # younger than published caches, whose index stays the same
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShardRecord:
        files = {name: FileRecord(**record) for name, record in values["files"].items()}
        skipped = tuple(Skipped(**record) for record in values["skipped"])
        return cls(**{**values, "files": files, "skipped": skipped})


@dataclass(frozen=True)
class EncoderRecord:
    """Which encoder made the features.

    Attributes:
        name: in the registry.
        digest: identity of its weights.
        sizes: of what it makes.
        options: keys of a run's data section that it was loaded with.
    """

    name: str
    digest: str
    sizes: Mapping[str, int]
    options: Mapping[str, str | int | None]


@dataclass(frozen=True)
class CacheIndex:
    """Content of index.json."""

    codec: EncoderRecord
    text: EncoderRecord
    dtype: str
    fake: bool
    prompts_sha256: str
    shards: tuple[ShardRecord, ...]

    def bucket_sizes(self) -> dict[Bucket, int]:
        sizes: Counter[Bucket] = Counter()
        for shard in self.shards:
            for name, record in shard.files.items():
                if name != SAMPLES:
                    sizes[Bucket.parse(name.removesuffix(".arrow"))] += record.rows
        return dict(sorted(sizes.items()))

    @property
    def samples(self) -> int:
        return sum(s.files[SAMPLES].rows for s in self.shards if SAMPLES in s.files)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for shard in self.shards for file in shard.files.values())

    def as_json(self) -> dict[str, Any]:
        shards = [shard.as_json() for shard in self.shards]
        return {"format": FORMAT, **asdict(self), "shards": shards}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CacheIndex:
        values = {key: value for key, value in values.items() if key != "format"}
        return cls(
            **{
                **values,
                "codec": EncoderRecord(**values["codec"]),
                "text": EncoderRecord(**values["text"]),
                "shards": tuple(ShardRecord.from_json(shard) for shard in values["shards"]),
            }
        )


def shard_folder(root: Path, number: int) -> Path:
    return root / "shards" / f"{number:06d}"


def read_shard_record(folder: Path) -> ShardRecord | None:
    """The record of a finished shard, None where there is none or its files are not as recorded in
    number and length."""
    try:
        record = ShardRecord.from_json(json.loads((folder / "shard.json").read_text()))
        sound = all((folder / n).stat().st_size == f.bytes for n, f in record.files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if sound else None


def write_index(root: Path, index: CacheIndex) -> None:
    write_atomically(root / "index.json", json.dumps(index.as_json(), indent=1).encode())


def read_index(root: Path) -> CacheIndex:
    """The index of a finished cache, all files of which are there at their full length.

    Raises:
        ValueError: names the missing or shortened file and the command that mends it.
    """
    path = root / "index.json"
    mend = f"run the command in {root / 'prepare.json'} again: it makes what is missing"
    if not path.is_file():
        if (root / "prepare.json").is_file():
            raise ValueError(f"the cache {root} is not finished: {mend}")
        raise ValueError(
            f"no latent cache at {root}: write one with `selfe-bench prepare --out {root}`"
        )
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise ValueError(f"{path} has the format {values['format']!r}, not {FORMAT!r}")
        index = CacheIndex.from_json(values)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {mend}") from None
    for number, shard in enumerate(index.shards):
        for name, record in shard.files.items():
            file = shard_folder(root, number) / name
            try:
                size = file.stat().st_size
            except OSError:
                raise ValueError(f"the shard {file} of the cache is missing: {mend}") from None
            if size != record.bytes:
                raise ValueError(
                    f"the shard {file} of the cache is cut short ({size} of {record.bytes} bytes): "
                    + mend
                )
    return index


def damaged_files(root: Path, index: CacheIndex) -> list[Path]:
    """Files whose sha256 is not the recorded one: every byte is read."""
    return [
        shard_folder(root, number) / name
        for number, shard in enumerate(index.shards)
        for name, record in shard.files.items()
        if file_sha256(shard_folder(root, number) / name) != record.sha256
    ]


def to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()


def checksum(*parts: bytes | memoryview, seed: int = 0) -> int:
    """XXH3 of the parts; `seed`, any 32-bit number, is covered as well."""
    state = xxhash.xxh3_64(seed=seed % 2**32)
    for part in parts:
        state.update(part)
    return state.intdigest()


class ShardWriter:
    """Writes one shard under a temporary name; `commit` renames it into place.

    Args:
        folder: of the finished shard.
        fake: whether samples carry the features of their fake captions.
    """

    def __init__(self, folder: Path, fake: bool) -> None:
        self.folder, self.fake = folder, fake
        self._temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self._writers: dict[str, Any] = {}
        self.rows: Counter[str] = Counter()

    def add_samples(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Rows of samples.arrow: key, caption, sha256, height, width, tokens, pooled and, where
        asked for, fake_tokens and fake_pooled, as lists of equal length."""
        checked = dict(columns)
        checked["checksum"] = [
            checksum(*parts) for parts in zip(columns["tokens"], columns["pooled"], strict=True)
        ]
        if self.fake:
            checked["fake_checksum"] = [
                checksum(*parts)
                for parts in zip(columns["fake_tokens"], columns["fake_pooled"], strict=True)
            ]
        self._write(SAMPLES, checked, _sample_features(self.fake))

    def add_latents(self, bucket: Bucket, samples: Sequence[int], latents: Sequence[bytes]) -> None:
        """Rows of a bucket's file; `samples` are their rows in samples.arrow."""
        pairs = zip(latents, samples, strict=True)
        columns: dict[str, Sequence[Any]] = {
            "sample": list(samples),
            "latents": list(latents),
            "checksum": [checksum(content, seed=sample) for content, sample in pairs],
        }
        self._write(f"{bucket.name}.arrow", columns, _latent_features())

    def _write(self, name: str, columns: dict[str, Sequence[Any]], features: Any) -> None:
        import pyarrow
        from datasets.arrow_writer import ArrowWriter

        if name not in self._writers:
            path = str(self._temporary / name)
            self._writers[name] = ArrowWriter(features=features, path=path)
        table = pyarrow.table(dict(columns), schema=features.arrow_schema)
        self._writers[name].write_table(table)
        self.rows[name] += len(columns["checksum"])

    def commit(self, **facts: Any) -> ShardRecord:
        """Flush, record and rename; `facts` are the other fields of `ShardRecord`.

        A shard of the same name that is already in place, by another process, is kept.
        """
        files = {}
        for name, writer in sorted(self._writers.items()):
            writer.finalize()
            path = self._temporary / name
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            files[name] = FileRecord(self.rows[name], path.stat().st_size, file_sha256(path))
        record = ShardRecord(files=files, **facts)
        content = json.dumps(record.as_json(), indent=1).encode()
        write_atomically(self._temporary / "shard.json", content)
        try:
            os.rename(self._temporary, self.folder)
        except OSError:
            there = read_shard_record(self.folder)
            if there is None:
                raise
            shutil.rmtree(self._temporary)
            return there
        fsync_directory(self.folder.parent)
        return record


def _sample_features(fake: bool) -> Any:
    from datasets import Features, Value

    columns = {
        "key": Value("string"),
        "caption": Value("string"),
        "sha256": Value("string"),
        "height": Value("int32"),
        "width": Value("int32"),
        "tokens": Value("large_binary"),
        "pooled": Value("large_binary"),
        "checksum": Value("uint64"),
    }
    if fake:
        columns |= {
            "fake_tokens": Value("large_binary"),
            "fake_pooled": Value("large_binary"),
            "fake_checksum": Value("uint64"),
        }
    return Features(columns)


def _latent_features() -> Any:
    from datasets import Features, Value

    return Features(
        {
            "sample": Value("int32"),
            "latents": Value("large_binary"),
            "checksum": Value("uint64"),
        }
    )


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
                features = _sample_features(fake="fake_tokens" in table.column_names)
            else:
                features = _latent_features()
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
    """Memory-mapped files, the ones used last kept open; safe to share among threads."""

    def __init__(self, most: int = _MOST_OPEN_FILES) -> None:
        self.most = most
        self._open: OrderedDict[Path, MappedFile] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> MappedFile:
        with self._lock:
            if (file := self._open.get(path)) is not None:
                self._open.move_to_end(path)
                return file
        file = MappedFile(path)
        with self._lock:
            self._open[path] = file
            while len(self._open) > self.most:
                self._open.popitem(last=False)
        return file


def remove_leftovers(root: Path) -> None:
    """Temporary folders of processes that were killed."""
    for path in (root / "shards").glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def skipped_of(shards: Iterable[ShardRecord]) -> list[Skipped]:
    return [skipped for shard in shards for skipped in shard.skipped]
