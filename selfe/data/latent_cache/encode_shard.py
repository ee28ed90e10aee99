"""Encodes the samples of one raw shard: decode, crop, VAE, text encoders."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from selfe.batch import TextCondition
from selfe.data.in_memory import fake_caption
from selfe.data.latent_cache.buckets import Bucket, enlargement, nearest_bucket
from selfe.data.latent_cache.images import fit_to_bucket
from selfe.data.latent_cache.index import DTYPES, ShardRecord
from selfe.data.latent_cache.shard_writer import ShardWriter, to_bytes
from selfe.data.readers.base import RawSample, Skipped, checked
from selfe.data.shapes_latents import images_to_float
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.images import DamagedImage, decode_image

In = TypeVar("In")


Out = TypeVar("Out")


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that decides what is in a cache.

    Attributes:
        data: as given to `selfe.data.readers.base.open_reader`.
        codec, text: names of the encoders.
        sizes: resolution families, sides of their squares in pixels.
        dtype: "fp16" or "bf16", of latents and features.
        fake: whether the features of "fake image" captions are stored.
        min_size: shorter side below which an image is left out; None leaves it out of every
            family for which it would have to be enlarged.
        limit: most samples read, spread evenly over the shards; None for all.
        batch_size: images and captions encoded at once.
        image_column, caption_column: of tables with unusual names.
        revision, text_tokens: what the encoders were loaded with (`selfe.run_folder.model`).

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
        self,
        name: str,
        source: str,
        made_by: str,
        samples: Iterable[RawSample | Skipped],
        folder: Path,
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
            made_by=made_by,
        )

    def _decoded(self, samples: Iterable[RawSample | Skipped]) -> Iterator[Candidate | Skipped]:
        if not self.workers:
            yield from map(self._decode, samples)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            yield from ordered_map(pool, self._decode, samples, ahead=4 * self.workers)

    def _decode(self, sample: RawSample | Skipped) -> Candidate | Skipped:
        sample = checked(sample)
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
