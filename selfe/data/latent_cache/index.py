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
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from selfe.data.latent_cache.buckets import Bucket
from selfe.data.readers.base import Skipped
from selfe.files import file_sha256, write_atomically

FORMAT = "selfe-latents@1"
SAMPLES = "samples.arrow"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


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


def checksum(*parts: bytes | memoryview, seed: int = 0) -> int:
    """XXH3 of the parts; `seed`, any 32-bit number, is covered as well."""
    state = xxhash.xxh3_64(seed=seed % 2**32)
    for part in parts:
        state.update(part)
    return state.intdigest()


def remove_leftovers(root: Path) -> None:
    """Temporary folders of processes that were killed."""
    for path in (root / "shards").glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def skipped_of(shards: Iterable[ShardRecord]) -> list[Skipped]:
    return [skipped for shard in shards for skipped in shard.skipped]
