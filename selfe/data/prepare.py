"""Encodes raw image-text data once, into a latent cache (selfe.data.cache_files).

The unit of work, of resuming and of sharing work out is a shard of the raw data: it is encoded in
the same batches whoever does it, so that the cache is the same bits for any number of processes and
kills (on the same kind of device).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from selfe.batch import TextCondition
from selfe.data.buckets import Bucket, bucket_table, enlargement, nearest_bucket
from selfe.data.cache_files import (
    DTYPES,
    CacheIndex,
    EncoderRecord,
    ShardRecord,
    ShardWriter,
    damaged_files,
    read_shard_record,
    remove_leftovers,
    shard_folder,
    skipped_of,
    to_bytes,
    write_index,
)
from selfe.data.images import DamagedImage, decode_image, fit_to_bucket
from selfe.data.latents import fake_caption
from selfe.data.raw import RawReader, RawSample, Skipped
from selfe.data.shapes_latents import images_to_float
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.files import as_json_lines, file_sha256, write_atomically
from selfe.network.denoiser import PATCH

ENOUGH_TO_JUDGE = 1000
"""Samples after which a share of damaged ones ends the work at once, before everything was read."""
_NAMED = 5

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that decides what is in a cache.

    Attributes:
        data: as given to `selfe.data.raw.open_reader`.
        codec, text: names of the encoders.
        sizes: resolution families, sides of their squares in pixels.
        dtype: "fp16" or "bf16", of latents and features.
        fake: whether the features of "fake image" captions are stored.
        min_size: shorter side below which an image is left out; None leaves it out of every
            family for which it would have to be enlarged.
        limit: most samples read, spread evenly over the shards; None for all.
        batch_size: images and captions encoded at once.
        image_column, caption_column: of tables with unusual names.
        revision, text_tokens: what the encoders were loaded with (`selfe.builder`).

    Raises:
        ValueError: for values that do not fit.
    """

    data: str
    codec: str
    text: str
    sizes: tuple[int, ...]
    dtype: str = "fp16"
    fake: bool = False
    min_size: int | None = None
    limit: int | None = None
    batch_size: int = 32
    image_column: str = ""
    caption_column: str = ""
    revision: str = ""
    text_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.sizes or len(set(self.sizes)) != len(self.sizes):
            raise ValueError("--sizes takes different resolutions separated by commas (256,512)")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype takes {' or '.join(DTYPES)}, got {self.dtype!r}")

    def quota(self, number: int, shards: int) -> int | None:
        """Most samples of a shard."""
        if self.limit is None:
            return None
        return self.limit // shards + (number < self.limit % shards)


@dataclass(frozen=True)
class Candidate:
    """A decoded sample: its pixels for every bucket it goes to."""

    sample: RawSample
    height: int
    width: int
    pixels: Mapping[Bucket, np.ndarray]


def prepare(
    settings: PrepareSettings,
    out: Path,
    reader: RawReader,
    codec: LatentCodec,
    text: TextEncoder,
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    max_skipped: float = 0.001,
    verify: bool = False,
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
    message: Callable[[str], None] = lambda text: None,
) -> CacheIndex | None:
    """Encode the shards that are not there yet; whoever finishes last writes the index.

    Args:
        rank, world_size: this process takes every `world_size`-th shard.
        workers: threads that decode images.
        max_skipped: share of damaged samples above which the work ends with an error.
        verify: read finished shards in full and make the damaged ones again.
        facts: kept with the settings: the command, and where it ran.
        progress: shards done, shards in all, and a note.

    Returns:
        The index, or None where other processes still work on their shards.

    Raises:
        ValueError: for an empty or missing source, a folder begun with other settings, or too many
            damaged samples, with their number and names.
    """
    names = list(reader.shards())
    tables = {size: bucket_table(size, codec.downsample * PATCH) for size in settings.sizes}
    encoders = describe_encoders(settings, codec, text)
    _claim(out, settings, names, encoders, facts or {})
    _write_prompts(out / "prompts.safetensors", text, DTYPES[settings.dtype])
    encoder = ShardEncoder(settings, codec, text, tables, workers)
    own = range(rank, len(names), world_size)
    records: list[ShardRecord] = []
    for done, number in enumerate(own):
        folder = shard_folder(out, number)
        record = _finished(folder, names[number], verify)
        source = reader.fingerprint(names[number])
        changed = record is not None and record.source not in ("", source)
        if changed and (out / "index.json").exists():
            raise ValueError(
                f"{out} is finished, and the data of {names[number]!r} changed after it: choose "
                "another --out, for runs may go on with this one"
            )
        if record is None or changed:
            if folder.exists():
                what = "was made of other data" if changed else "is damaged"
                message(f"{folder} {what} and is made again")
                shutil.rmtree(folder)
            samples = reader.read(names[number])
            quota = settings.quota(number, len(names))
            limited = itertools.islice(samples, quota)
            record = encoder.encode(names[number], source, limited, folder)
        records.append(record)
        if sum(record.seen for record in records) >= ENOUGH_TO_JUDGE:
            _judge(records, max_skipped, out)
        progress(done + 1, len(own), f"{sum(r.seen for r in records)} samples")
    return _finish(out, settings, names, encoders, max_skipped)


def describe_encoders(
    settings: PrepareSettings, codec: LatentCodec, text: TextEncoder
) -> dict[str, EncoderRecord]:
    return {
        "codec": EncoderRecord(
            settings.codec,
            codec.digest,
            {"latent_channels": codec.latent_channels, "downsample": codec.downsample},
            {"revision": settings.revision},
        ),
        "text": EncoderRecord(
            settings.text,
            text.digest,
            {
                "token_dim": text.token_dim,
                "pooled_dim": text.pooled_dim,
                "max_tokens": text.max_tokens,
            },
            {"revision": settings.revision, "text_tokens": settings.text_tokens},
        ),
    }


def _claim(
    out: Path,
    settings: PrepareSettings,
    names: Sequence[str],
    encoders: Mapping[str, EncoderRecord],
    facts: Mapping[str, Any],
) -> None:
    """Write prepare.json, or compare with the one that is there."""
    wanted = {
        **asdict(settings),
        "sizes": list(settings.sizes),
        "shards": list(names),
        **{kind: asdict(record) for kind, record in encoders.items()},
    }
    path = out / "prepare.json"
    try:
        (out / "shards").mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, json.dumps({"settings": wanted, **facts}, indent=1).encode())
    except OSError as error:
        raise ValueError(f"cannot write to {out} ({error.strerror})") from None
    try:
        there = json.loads(path.read_text())["settings"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): choose another --out") from None
    other = [key for key in wanted if there.get(key) != wanted[key]]
    if other:
        raise ValueError(
            f"{out} was begun with another {', '.join(other)}: give the same options to go on, or "
            "choose another --out"
        )


def _finished(folder: Path, name: str, verify: bool) -> ShardRecord | None:
    record = read_shard_record(folder)
    if record is None or record.name != name:
        return None
    if verify and any(file_sha256(folder / n) != f.sha256 for n, f in record.files.items()):
        return None
    return record


def _judge(records: Sequence[ShardRecord], most: float, out: Path) -> None:
    """Write skipped.jsonl, and raise ValueError where too much is damaged."""
    skipped = skipped_of(records)
    lost, seen = sum(s.samples for s in skipped), sum(record.seen for record in records)
    if lost <= most * seen:
        return
    write_atomically(out / "skipped.jsonl", as_json_lines(map(asdict, skipped)))
    named = "; ".join(f"{each.name}: {each.reason}" for each in skipped[:_NAMED])
    rest = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    raise ValueError(
        f"{lost} of {seen} samples ({lost / seen:.2%}) are damaged, more than --max-skipped "
        f"{most:g} allows ({named}{rest}); all are in {out / 'skipped.jsonl'}"
    )


def _finish(
    out: Path,
    settings: PrepareSettings,
    names: Sequence[str],
    encoders: Mapping[str, EncoderRecord],
    max_skipped: float,
) -> CacheIndex | None:
    records = [read_shard_record(shard_folder(out, number)) for number in range(len(names))]
    shards = [record for record in records if record is not None]
    if len(shards) < len(names):
        return None
    _judge(shards, max_skipped, out)
    index = CacheIndex(
        encoders["codec"],
        encoders["text"],
        settings.dtype,
        settings.fake,
        file_sha256(out / "prompts.safetensors"),
        tuple(shards),
    )
    skipped = skipped_of(shards)
    write_atomically(out / "skipped.jsonl", as_json_lines(map(asdict, skipped)))
    if not index.samples:
        seen = sum(record.seen for record in shards)
        reasons: Counter[str] = Counter()
        for each in skipped:
            reasons[each.reason] += each.samples
        reasons["smaller than --sizes and --min-size ask for"] = sum(r.too_small for r in shards)
        named = "; ".join(f"{n} {reason}" for reason, n in reasons.most_common(3) if n)
        raise ValueError(
            f"the data set is empty: none of the {seen} samples of {settings.data} can be used "
            f"({named}); all that were skipped are in {out / 'skipped.jsonl'}"
        )
    write_index(out, index)
    remove_leftovers(out)
    return index


def verify_cache(out: Path, index: CacheIndex) -> None:
    """Read every byte of a finished cache.

    Raises:
        ValueError: names the damaged files.
    """
    damaged = damaged_files(out, index)
    if file_sha256(out / "prompts.safetensors") != index.prompts_sha256:
        damaged.append(out / "prompts.safetensors")
    if damaged:
        raise ValueError(
            f"{len(damaged)} files of the cache are damaged, the first is {damaged[0]}: run "
            f"the command in {out / 'prepare.json'} again with --verify, it makes them again"
        )


def _write_prompts(path: Path, text: TextEncoder, dtype: torch.dtype) -> None:
    """Features of the null prompt, and of a dropped caption's fake caption."""
    tensors: dict[str, Tensor] = {}
    for name, caption in (("null", ""), ("fake", fake_caption(""))):
        condition = text.encode([caption]).trimmed()
        tensors[f"{name}.tokens"] = condition.tokens[0].to(dtype).contiguous().cpu()
        tensors[f"{name}.pooled"] = condition.pooled[0].to(dtype).contiguous().cpu()
    content = save(tensors)
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)


class ShardEncoder:
    """Reads, decodes, encodes and writes a shard.

    Args:
        tables: buckets of every resolution family.
        workers: threads that decode images; 0 decodes in line.
    """

    def __init__(
        self,
        settings: PrepareSettings,
        codec: LatentCodec,
        text: TextEncoder,
        tables: Mapping[int, Sequence[Bucket]],
        workers: int,
    ) -> None:
        self.settings, self.codec, self.text, self.tables = settings, codec, text, tables
        self.dtype = DTYPES[settings.dtype]
        self.workers = workers

    def encode(
        self, name: str, source: str, samples: Iterable[RawSample | Skipped], folder: Path
    ) -> ShardRecord:
        """Write the shard's folder.

        Raises:
            ValueError: if features do not fit the chosen precision.
        """
        size = self.settings.batch_size
        writer = ShardWriter(folder, self.settings.fake)
        seen = too_small = without_words = row = 0
        skipped: list[Skipped] = []
        truncated: Counter[str] = Counter(
            dict.fromkeys(self.text.count_truncated_by_encoder([]), 0)
        )
        captions: list[Candidate] = []
        images: dict[Bucket, list[tuple[int, np.ndarray]]] = {}
        for item in self._decoded(samples):
            if isinstance(item, Skipped):
                seen += item.samples
                skipped.append(item)
                continue
            seen += 1
            if not item.pixels:
                too_small += 1
                continue
            captions.append(item)
            without_words += not item.sample.caption.strip()
            for bucket, pixels in item.pixels.items():
                waiting = images.setdefault(bucket, [])
                waiting.append((row, pixels))
                if len(waiting) == size:
                    self._write_latents(writer, bucket, images.pop(bucket))
            row += 1
            if len(captions) == size:
                truncated.update(self._write_samples(writer, captions))
                captions = []
        for bucket in sorted(images):
            self._write_latents(writer, bucket, images[bucket])
        if captions:
            truncated.update(self._write_samples(writer, captions))
        return writer.commit(
            name=name,
            seen=seen,
            too_small=too_small,
            skipped=tuple(skipped),
            truncated=dict(sorted(truncated.items())),
            source=source,
            empty_captions=without_words,
        )

    def _decoded(self, samples: Iterable[RawSample | Skipped]) -> Iterator[Candidate | Skipped]:
        if not self.workers:
            yield from map(self._decode, samples)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            yield from ordered_map(pool, self._decode, samples, ahead=4 * self.workers)

    def _decode(self, sample: RawSample | Skipped) -> Candidate | Skipped:
        if isinstance(sample, Skipped):
            return sample
        try:
            image = decode_image(sample.image)
        except DamagedImage as error:
            return Skipped(sample.key, str(error))
        width, height = image.size
        pixels = {}
        for table in self.tables.values():
            bucket = nearest_bucket(height, width, table)
            least = self.settings.min_size
            if (
                enlargement(height, width, bucket) <= 1
                if least is None
                else (min(height, width) >= least)
            ):
                pixels[bucket] = fit_to_bucket(image, bucket)
        return Candidate(sample, height, width, pixels)

    def _write_latents(
        self, writer: ShardWriter, bucket: Bucket, waiting: Sequence[tuple[int, np.ndarray]]
    ) -> None:
        rows = [row for row, _ in waiting]
        images = torch.from_numpy(np.stack([pixels for _, pixels in waiting]))
        latents = self._stored(self.codec.encode(images_to_float(images)), "latents")
        writer.add_latents(bucket, rows, [to_bytes(each) for each in latents])

    def _write_samples(self, writer: ShardWriter, batch: Sequence[Candidate]) -> dict[str, int]:
        captions = [each.sample.caption for each in batch]
        columns: dict[str, list[Any]] = {
            "key": [each.sample.key for each in batch],
            "caption": captions,
            "sha256": [hashlib.sha256(each.sample.image).hexdigest() for each in batch],
            "height": [each.height for each in batch],
            "width": [each.width for each in batch],
        }
        columns |= self._features(captions, "")
        if self.settings.fake:
            columns |= self._features([fake_caption(caption) for caption in captions], "fake_")
        writer.add_samples(columns)
        return self.text.count_truncated_by_encoder(captions)

    def _features(self, captions: Sequence[str], prefix: str) -> dict[str, list[Any]]:
        condition: TextCondition = self.text.encode(captions)
        tokens = self._stored(condition.tokens, "caption features")
        pooled = self._stored(condition.pooled, "pooled captions")
        lengths = condition.mask.sum(1).tolist()
        return {
            f"{prefix}tokens": [
                to_bytes(each[:length]) for each, length in zip(tokens, lengths, strict=True)
            ],
            f"{prefix}pooled": [to_bytes(each) for each in pooled],
        }

    def _stored(self, values: Tensor, what: str) -> Tensor:
        stored = values.to(self.dtype).cpu()
        if not torch.isfinite(stored).all():
            raise ValueError(
                f"{what} are not finite in {self.settings.dtype}: try --dtype bf16 with another "
                "--out"
            )
        return stored


def ordered_map(
    pool: Executor, function: Callable[[In], Out], items: Iterable[In], ahead: int
) -> Iterator[Out]:
    """map() on a pool in the order of the items, with at most `ahead` of them in flight."""
    flying: deque[Future[Out]] = deque()
    for item in items:
        flying.append(pool.submit(function, item))
        if len(flying) >= ahead:
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()
