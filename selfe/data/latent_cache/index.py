"""The latent cache on disk: Arrow files that are memory-mapped, checksums, and an index.

    index.json             what the cache holds: written last, so a cache that has one is whole
    prepare.json           the settings it was started with
    prompts.safetensors    the null prompt and the phrase "fake image" alone
    shards/000000/         one folder for each shard of the raw data, renamed into place when whole
        samples.arrow      one row per image: caption, its features, size and sha256 of the image
        256-240x272.arrow  latents of a bucket (height x width), with their rows of samples.arrow
        shard.json         rows and sha256 of the files, what was skipped and truncated

Every row carries an XXH3 checksum of its payload and of its place (shard, file, row), compared at
each reading, so that swapped files and rows are noticed; the sha256 of whole files is compared by
`selfe-bench verify`. index.json and shard.json are sealed (`selfe.sealed_files`). Text is stored
once for all resolutions. Shards of the first format, whose rows do not know their place, are read.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import xxhash
from pydantic import Field, StringConstraints

from selfe.data.latent_cache.buckets import Bucket
from selfe.data.readers.base import Skipped
from selfe.files import file_sha256, write_atomically
from selfe.json_files import STRICT, JsonFault, fit, parse_json, read_bytes
from selfe.sealed_files import read_sealed, seal, unseal

FORMAT = "selfe-latents@2"
FIRST_FORMAT = "selfe-latents@1"
"""Not sealed, and its rows do not know their place."""
SAMPLES = "samples.arrow"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[
    str, StringConstraints(pattern=r"^(samples|[1-9]\d{0,5}-[1-9]\d{0,5}x[1-9]\d{0,5})\.arrow$")
]


@dataclass(frozen=True)
class FileRecord:
    """What is known of a finished Arrow file.

    Attributes:
        checksums: `digest_of_rows`, which is compared whenever the file is opened; "" in caches of
            earlier versions.
    """

    __pydantic_config__ = STRICT

    rows: Count
    bytes: Count
    sha256: Sha256
    checksums: str = ""


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
        placed: whether the rows' checksums cover their place, as they do since the second format.
        made_by: digest of the settings and encoders; "" where it is not known.
    """

    __pydantic_config__ = STRICT

    name: str
    files: Mapping[FileName, FileRecord]
    seen: Count
    too_small: Count
    skipped: tuple[Skipped, ...]
    truncated: Mapping[str, Count]
    source: str = ""
    empty_captions: Count = 0
    placed: bool = False
    made_by: str = ""

    def as_json(self) -> dict[str, Any]:
        # without what is younger than published caches, whose index stays the same
        values = asdict(self)
        for name in ("source", "empty_captions", "placed", "made_by"):
            if not values[name]:
                del values[name]
        for file in values["files"].values():
            if not file["checksums"]:
                del file["checksums"]
        return values


@dataclass(frozen=True)
class EncoderRecord:
    """Which encoder made the features.

    Attributes:
        name: in the registry.
        digest: identity of its weights.
        sizes: of what it makes.
        options: keys of a run's data section that it was loaded with.
    """

    __pydantic_config__ = STRICT

    name: str
    digest: str
    sizes: Mapping[str, Annotated[int, Field(ge=1)]]
    options: Mapping[str, str | int | None]


@dataclass(frozen=True)
class CacheIndex:
    """Content of index.json."""

    __pydantic_config__ = STRICT

    codec: EncoderRecord
    text: EncoderRecord
    dtype: Annotated[str, StringConstraints(pattern="^(fp16|bf16)$")]
    fake: bool
    prompts_sha256: Sha256
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

    def as_text(self) -> str:
        """The document; of shards of the first format alone, that of the versions which wrote them,
        so that a cache keeps the identity that runs know it by."""
        shards = [shard.as_json() for shard in self.shards]
        values = {**asdict(self), "shards": shards}
        if not any(shard.placed for shard in self.shards):
            return json.dumps({"format": FIRST_FORMAT, **values}, indent=1)
        return seal("latent cache", {"format": FORMAT, **values})


def shard_folder(root: Path, number: int) -> Path:
    return root / "shards" / f"{number:06d}"


def read_shard_record(folder: Path) -> ShardRecord | None:
    """The record of a finished shard, None where there is none or its files are not as recorded in
    number and length."""
    try:
        record = read_sealed(folder / "shard.json", ShardRecord, "shard")
        sound = all((folder / n).stat().st_size == f.bytes for n, f in record.files.items())
    except (OSError, JsonFault):
        return None
    return record if sound else None


def write_index(root: Path, index: CacheIndex) -> None:
    write_atomically(root / "index.json", index.as_text())


def read_index(root: Path) -> CacheIndex:
    """The index of a finished cache, all files of which are there at their full length.

    Raises:
        ValueError: names the damaged, missing or shortened file and the command that repairs it.
    """
    path = root / "index.json"
    remedy = f"run the command in {root / 'prepare.json'} again: it writes what is missing"
    if not path.is_file():
        if (root / "prepare.json").is_file():
            raise ValueError(f"the cache {root} is not finished: {remedy}")
        raise ValueError(
            f"no latent cache at {root}: write one with `selfe-bench prepare --out {root}`"
        )
    try:
        index = _parse_index(path)
    except JsonFault as fault:
        raise ValueError(f"{path} is damaged ({fault.detail}): {remedy}") from None
    for number, shard in enumerate(index.shards):
        for name, record in shard.files.items():
            file = shard_folder(root, number) / name
            try:
                size = file.stat().st_size
            except OSError:
                raise ValueError(f"the shard {file} of the cache is missing: {remedy}") from None
            if size != record.bytes:
                raise ValueError(
                    f"the shard {file} of the cache is cut short ({size} of {record.bytes} bytes): "
                    + remedy
                )
    return index


def _parse_index(path: Path) -> CacheIndex:
    data = read_bytes(path)
    value = parse_json(data, path)
    found = value.get("format") if isinstance(value, dict) else None
    if found not in (FORMAT, FIRST_FORMAT):
        raise JsonFault(path, None, f"its format is {found!r}; this version reads {FORMAT!r}")
    value = unseal(value, "latent cache", path, required=found == FORMAT)
    content = {key: each for key, each in value.items() if key != "format"}
    index = fit(CacheIndex, content, path, data.decode("utf-8-sig"))
    if found == FIRST_FORMAT and any(shard.placed for shard in index.shards):
        raise JsonFault(path, None, f"its shards are not of the format {found!r}")
    for record, names in (
        (index.codec, ("latent_channels", "downsample")),
        (index.text, ("token_dim", "pooled_dim", "max_tokens")),
    ):
        if missing := [name for name in names if name not in record.sizes]:
            raise JsonFault(path, None, f"the {missing[0]} of {record.name!r} is missing")
    return index


def damaged_files(root: Path, index: CacheIndex) -> list[Path]:
    """Files whose sha256 is not the recorded one: every byte is read."""
    return [
        shard_folder(root, number) / name
        for number, shard in enumerate(index.shards)
        for name, record in shard.files.items()
        if file_sha256(shard_folder(root, number) / name) != record.sha256
    ]


def seed_of_row(file: Path, row: int, sample: int, placed: bool) -> int:
    """What a row's checksum covers beside its payload.

    Args:
        file: in its shard's folder, the names of both count.
        row: in the file.
        sample: its row in samples.arrow.
        placed: `ShardRecord.placed`; False for the first format, where latents knew their sample.
    """
    if not placed:
        return sample if file.name != SAMPLES else 0
    return zlib.crc32(f"{file.parent.name}/{file.name}/{row}/{sample}".encode())


def checksum(*parts: bytes | memoryview, seed: int = 0) -> int:
    """XXH3 of the parts; `seed`, any 32-bit number, is covered as well."""
    state = xxhash.xxh3_64(seed=seed % 2**32)
    for part in parts:
        state.update(part)
    return state.intdigest()


def digest_of_rows(columns: Mapping[str, np.ndarray]) -> str:
    """XXH3 over the checksums of all rows of a file: of another file, with as many rows and bytes,
    it is another one."""
    state = xxhash.xxh3_128()
    for name, values in sorted(columns.items()):
        if name.endswith("checksum"):
            state.update(name.encode())
            state.update(np.ascontiguousarray(values, "<u8").tobytes())
    return state.hexdigest()


def skipped_of(shards: Iterable[ShardRecord]) -> list[Skipped]:
    return [skipped for shard in shards for skipped in shard.skipped]
