"""The latent cache as training data, addressed by global sample position.

Longer than other files: positions, text, buckets and workers all follow from one order of samples.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from selfe.batch import LatentBatch, TextCondition
from selfe.config.schema import RunConfig
from selfe.config.stages import stages_of
from selfe.data.in_memory import width_problems
from selfe.data.latent_cache.buckets import Bucket, BucketSchedule
from selfe.data.latent_cache.index import (
    DTYPES,
    SAMPLES,
    CacheIndex,
    checksum,
    read_index,
    seed_of_row,
    shard_folder,
)
from selfe.data.latent_cache.mapped_files import DamagedRow, OpenFiles
from selfe.data.latent_cache.padded_rows import PaddedRows
from selfe.data.latent_cache.read_ahead import ReadAhead
from selfe.files import file_sha256
from selfe.seeding import SampleRng

MOST_DAMAGED = 0.001
"""Share of damaged samples above which training ends."""
MOST_COMPARED = 1 << 30
"""Bytes of an earlier format's cache that are read in full before training."""
_LENGTHS = (8, 16, 32, 64)
_LENGTH_STEP = 64

log = logging.getLogger(__name__)


def padded_length(longest: int) -> int:
    """Text columns of a batch: few different numbers, so that shapes repeat.

    8, 16, 32, 64, then multiples of 64.
    """
    for length in _LENGTHS:
        if longest <= length:
            return length
    return -(-longest // _LENGTH_STEP) * _LENGTH_STEP


@dataclass(frozen=True)
class _Text:
    """Trimmed features of one caption, as 16-bit words: (L, D) and (D_pooled,)."""

    tokens: np.ndarray
    pooled: np.ndarray


@dataclass(frozen=True)
class _HostBatch:
    """A batch on the host, pinned where an accelerator waits for it."""

    x_0: Tensor
    condition: TextCondition
    fake: TextCondition | None
    dropped: Tensor
    index: Tensor


class _Places:
    """Row of a bucket -> the shard's files of latents and of samples, the row in the former, and
    whether the rows know their place."""

    def __init__(self, root: Path, index: CacheIndex, bucket: Bucket) -> None:
        name = f"{bucket.name}.arrow"
        rows = {n: s.files[name].rows for n, s in enumerate(index.shards) if name in s.files}
        folders = [shard_folder(root, number) for number in rows]
        self._files = [(folder / name, folder / SAMPLES) for folder in folders]
        self._placed = [index.shards[number].placed for number in rows]
        self._starts = np.cumsum([0, *rows.values()]).tolist()

    def __call__(self, row: int) -> tuple[Path, Path, int, bool]:
        number = bisect_right(self._starts, row) - 1
        return *self._files[number], row - self._starts[number], self._placed[number]


class CachedLatents:
    """`BatchSource` that reads a folder written by `selfe-bench prepare`.

    A sample's place in the stream decides everything: its bucket, its row, whether its caption is
    dropped. A row whose checksum differs gives way to the next of its bucket, is counted and named.

    Args:
        config: of the run; `data.path` is the folder, `data.bucket_unit` the number of consecutive
            positions that share a bucket, `data.workers` the threads that read ahead.
        with_fake: whether batches carry the fake captions.
        device: where batches go.
        most_damaged: share of damaged samples above which training ends.

    Raises:
        ValueError: in one sentence, where the cache is missing, incomplete, of other encoders or
            other sizes than the run's, lacks the fake captions, or lacks a resolution.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        with_fake: bool,
        device: torch.device | str = "cpu",
        most_damaged: float = MOST_DAMAGED,
    ) -> None:
        if not config.data.path:
            raise ValueError(
                "data.path is not set: write a latent cache with `selfe-bench prepare --data ... "
                "--out FOLDER`, then train with --set data.path=FOLDER"
            )
        self.root = Path(config.data.path)
        self.index = read_index(self.root)
        check_fit(config, self.index, self.root)
        check_places(self.root, self.index)
        if with_fake and not self.index.fake:
            raise ValueError(
                f"the cache {self.root} has no fake captions, which the auxiliary term needs: "
                "write another one with `selfe-bench prepare --fake --data ... --out FOLDER`"
            )
        self.caption_dropout, self.with_fake = config.train.caption_dropout, with_fake
        self.device = torch.device(device)
        self.most_damaged = most_damaged
        self.damaged: dict[int, str] = {}
        self.dtype = DTYPES[self.index.dtype]
        self._dim = {name: self.index.text.sizes[f"{name}_dim"] for name in ("token", "pooled")}

        self.sizes = self.index.bucket_sizes()
        self.schedule = BucketSchedule(
            self.sizes, stages_of(config), config.data.bucket_unit, config.seed
        )
        self._check_micro_batches(config)
        self._places = {bucket: _Places(self.root, self.index, bucket) for bucket in self.sizes}
        firsts = np.cumsum([0, *self.sizes.values()]).tolist()
        self._first_index = dict(zip(self.sizes, firsts, strict=False))
        recorded = {
            shard_folder(self.root, number) / name: record.checksums
            for number, shard in enumerate(self.index.shards)
            for name, record in shard.files.items()
        }
        self._open, self._lock = OpenFiles(recorded=recorded), threading.Lock()
        # one batch in use, one being made, and those read ahead
        in_flight = 2 + 2 * config.data.workers
        self._padded = PaddedRows(in_flight * (1 + with_fake), pinned=self.device.type == "cuda")
        prompts = self._read_prompts()
        self._null_text, self._fake_null_text = prompts["null"], prompts["fake"]
        self.null = self._condition([self._null_text], len(self._null_text.tokens)).to(self.device)
        self._ahead = ReadAhead(self._read, config.data.workers)

    def __len__(self) -> int:
        return sum(self.sizes.values())

    @property
    def facts(self) -> dict[str, str]:
        """Identity of the data and of the encoders that made it."""
        return {
            "cache": file_sha256(self.root / "index.json"),
            "codec": self.index.codec.digest,
            "text": self.index.text.digest,
        }

    def expect(self, upcoming: Iterable[SampleRng]) -> None:
        """Read these batches ahead of time; see `ReadAhead.expect`."""
        self._ahead.expect(upcoming)

    def batch(self, rng: SampleRng) -> LatentBatch:
        """Samples at `rng.position`, which must share a bucket.

        Raises:
            ValueError: if they do not, or if more than 0.1% of the cache is damaged.
        """
        host = self._ahead(rng)

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=True)

        return LatentBatch(
            x_0=moved(host.x_0).float(),
            condition=host.condition.to(self.device, non_blocking=True),
            null=self.null,
            fake=None if host.fake is None else host.fake.to(self.device, non_blocking=True),
            dropped=moved(host.dropped),
            index=moved(host.index),
        )

    def name_of(self, index: int) -> str:
        """Where the sample that `LatentBatch.index` names comes from."""
        bucket, first = max(
            ((b, n) for b, n in self._first_index.items() if n <= index), key=lambda pair: pair[1]
        )
        latents, _, row, _ = self._places[bucket](index - first)
        return f"{latents}, row {row}"

    def _read(self, rng: SampleRng) -> _HostBatch:
        with self._lock:  # the order of a pass is drawn once
            bucket, rows = self.schedule.locate(rng.position)
        dropped = rng.on_host().uniform("caption_dropout") < self.caption_dropout
        latents, texts, fakes, index = [], [], [], []
        for row, is_dropped in zip(rows.tolist(), dropped.tolist(), strict=True):
            row, content, text, fake = self._sound_sample(bucket, row, is_dropped)
            latents.append(content)
            texts.append(text)
            fakes.append(fake)
            index.append(row + self._first_index[bucket])
        x_0 = self._stack(latents)
        downsample = self.index.codec.sizes["downsample"]
        return _HostBatch(
            x_0=x_0.view(len(index), -1, bucket.height // downsample, bucket.width // downsample),
            condition=self._condition(texts),
            fake=self._condition(fakes) if self.with_fake else None,
            dropped=self._pinned(dropped),
            index=self._pinned(torch.tensor(index)),
        )

    def _sound_sample(
        self, bucket: Bucket, row: int, dropped: bool
    ) -> tuple[int, np.ndarray, _Text, _Text]:
        """The sample of a row, or of the next row that is not damaged."""
        while True:
            try:
                return row, *self._sample(bucket, row, dropped)
            except DamagedRow as error:
                self._count_damage(row + self._first_index[bucket], str(error))
                row = (row + 1) % self.sizes[bucket]

    def _count_damage(self, index: int, reason: str) -> None:
        with self._lock:
            if index not in self.damaged:
                self.damaged[index] = reason
                log.warning("damaged sample replaced: %s (%s)", self.name_of(index), reason)
        if len(self.damaged) > self.most_damaged * len(self):
            raise ValueError(
                f"{len(self.damaged)} of {len(self)} samples of the cache {self.root} are damaged, "
                f"more than {self.most_damaged:.1%}, the last is {self.name_of(index)} ({reason}): "
                f"run the command in {self.root / 'prepare.json'} again with --verify"
            )

    def _sample(self, bucket: Bucket, row: int, dropped: bool) -> tuple[np.ndarray, _Text, _Text]:
        """Latents, caption and fake caption of a row, compared with their checksums."""
        latents_file, samples, place, placed = self._places[bucket](row)
        file = self._open(latents_file)
        latents, sample = file.binary["latents"][place], int(file.numbers["sample"][place])
        seed = seed_of_row(latents_file, place, sample, placed)
        if checksum(latents, seed=seed) != int(file.numbers["checksum"][place]):
            raise DamagedRow("the checksum of its latents differs")
        words = np.frombuffer(latents, np.int16)
        if dropped:
            return words, self._null_text, self._fake_null_text
        text = self._text(samples, sample, "", placed)
        fake = self._text(samples, sample, "fake_", placed) if self.with_fake else text
        return words, text, fake

    def _text(self, path: Path, row: int, prefix: str, placed: bool) -> _Text:
        file, seed = self._open(path), seed_of_row(path, row, row, placed)
        tokens, pooled = file.binary[f"{prefix}tokens"][row], file.binary[f"{prefix}pooled"][row]
        if checksum(tokens, pooled, seed=seed) != int(file.numbers[f"{prefix}checksum"][row]):
            raise DamagedRow("the checksum of its caption features differs")
        return _Text(
            np.frombuffer(tokens, np.int16).reshape(-1, self._dim["token"]),
            np.frombuffer(pooled, np.int16),
        )

    def _read_prompts(self) -> dict[str, _Text]:
        path = self.root / "prompts.safetensors"
        if not path.is_file() or file_sha256(path) != self.index.prompts_sha256:
            raise ValueError(
                f"{path} is missing or damaged: run the command in {self.root / 'prepare.json'} "
                "again"
            )
        tensors = {name: t.view(torch.int16).numpy() for name, t in load_file(path).items()}
        return {
            name: _Text(tensors[f"{name}.tokens"], tensors[f"{name}.pooled"])
            for name in ("null", "fake")
        }

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _stack(self, rows: Sequence[np.ndarray]) -> Tensor:
        return self._pinned(torch.from_numpy(np.stack(rows))).view(self.dtype)

    def _condition(self, texts: Sequence[_Text], length: int | None = None) -> TextCondition:
        """Features side by side, padded with zeros to `length`, or to one of a few lengths."""
        lengths = [len(text.tokens) for text in texts]
        longest = self.index.text.sizes["max_tokens"]
        length = length or min(padded_length(max(lengths)), longest)
        tokens = self._padded([text.tokens for text in texts], length)
        return TextCondition(
            tokens.view(self.dtype),
            self._pinned(torch.arange(length) < torch.tensor(lengths)[:, None]),
            self._stack([text.pooled for text in texts]),
            no_padding=min(lengths) == length,
        )

    def _check_micro_batches(self, config: RunConfig) -> None:
        micro = config.train.micro_batch_size
        if len(self.schedule.used) > 1 and micro and self.schedule.unit % micro:
            raise ValueError(
                f"train.micro_batch_size = {micro} must divide data.bucket_unit = "
                f"{self.schedule.unit}, because the cache has {len(self.schedule.used)} buckets"
            )


def check_places(root: Path, index: CacheIndex) -> None:
    """Raise ValueError if files of the first format were swapped.

    Rows of that format do not record their place, so whole files are read, up to `MOST_COMPARED`
    bytes; for larger caches a warning says that they were not compared.
    """
    files = {
        shard_folder(root, number) / name: record
        for number, shard in enumerate(index.shards)
        if not shard.placed
        for name, record in shard.files.items()
    }
    if sum(record.bytes for record in files.values()) > MOST_COMPARED:
        log.warning(
            "%s is of an earlier format that does not notice swapped files: `selfe-bench verify %s`"
            " compares them once",
            *(root, root),
        )
        return
    known = {record.sha256: path for path, record in files.items()}
    for path, record in files.items():
        found = file_sha256(path)
        if found != record.sha256 and found in known:
            raise ValueError(
                f"{path} holds what belongs into {known[found]}: the files of the cache were "
                "swapped; put them back"
            )


def check_fit(config: RunConfig, index: CacheIndex, root: Path) -> None:
    """Raise ValueError where a cache was made by other encoders than a run's, or has other sizes
    than its network."""
    problems = [
        f"its {what} is {record.name!r}, not {wanted!r} (data.{what})"
        for what, record, wanted in (
            ("codec", index.codec, config.data.codec),
            ("text", index.text, config.data.text),
        )
        if record.name != wanted
    ]
    # caches hold latents as their codec makes them, unless they say otherwise
    options = {"signal": 1.0, **index.codec.options, **index.text.options}
    problems += [
        f"it was made with data.{name} = {value!r}, not {getattr(config.data, name)!r}"
        for name, value in options.items()
        if getattr(config.data, name) != value
    ]
    codec, text = index.codec.sizes, index.text.sizes
    problems += width_problems(
        config.model, codec["latent_channels"], text["token_dim"], text["pooled_dim"]
    )
    if problems:
        raise ValueError(
            f"the cache {root} does not fit this run: {'; '.join(problems)}; set them as the cache "
            "has them, or write another cache"
        )
