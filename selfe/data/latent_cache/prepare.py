"""Encodes raw image-text data once, into a latent cache (selfe.data.latent_cache.index).

The unit of work, of resuming and of sharing work out is a shard of the raw data: it is encoded in
the same batches in every process, so that the cache is the same bits for any number of processes
and kills (on the same kind of device).
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save
from torch import Tensor

from selfe.data.in_memory import fake_caption
from selfe.data.latent_cache.buckets import bucket_table
from selfe.data.latent_cache.encode_shard import PrepareSettings, ShardEncoder
from selfe.data.latent_cache.index import (
    DTYPES,
    CacheIndex,
    EncoderRecord,
    ShardRecord,
    damaged_files,
    read_index,
    read_shard_record,
    shard_folder,
    skipped_of,
    write_index,
)
from selfe.data.readers.base import RawReader
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.files import as_json_lines, file_sha256, write_atomically
from selfe.json_files import JsonFault
from selfe.network.denoiser import PATCH
from selfe.sealed_files import digest_of, read_sealed, seal
from selfe.temporaries import remove_leftovers, temporary
from selfe.text import without_secrets

ENOUGH_TO_JUDGE = 1000
"""Samples after which a share of damaged ones ends the work at once, before everything was read."""
_NAMED = 5


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
    """Encode the shards that are not there yet; the process that finishes last writes the index.

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
        ValueError: for an empty or missing source, a folder started with other settings, or too
            many damaged samples, with their number and names.
    """
    shards = list(reader.shards())
    names = [without_secrets(shard) for shard in shards]
    tables = {size: bucket_table(size, codec.downsample * PATCH) for size in settings.sizes}
    encoders = describe_encoders(settings, codec, text)
    made_by = _claim(out, settings, names, encoders, facts or {})
    remove_leftovers(out)
    remove_leftovers(out / "shards")
    _write_prompts(out / "prompts.safetensors", text, DTYPES[settings.dtype])
    encoder = ShardEncoder(settings, codec, text, tables, workers)
    own = range(rank, len(names), world_size)
    records: list[ShardRecord] = []
    for done, number in enumerate(own):
        folder = shard_folder(out, number)
        record = _finished(folder, names[number], made_by, verify)
        source = reader.fingerprint(shards[number])
        changed = record is not None and record.source not in ("", source)
        if changed and (out / "index.json").exists():
            raise ValueError(
                f"{out} is complete, and the data of {names[number]!r} changed since: choose "
                "another --out, because runs may still use this one"
            )
        if record is None or changed:
            if folder.exists():
                what = "was made of other data" if changed else "is damaged"
                message(f"{folder} {what} and is made again")
                shutil.rmtree(folder)
            samples = reader.read(shards[number])
            quota = settings.quota(number, len(names))
            limited = itertools.islice(samples, quota)
            try:
                record = encoder.encode(names[number], source, made_by, limited, folder)
            except BaseException:
                shutil.rmtree(temporary(folder), ignore_errors=True)
                raise
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


class Preparation(BaseModel):
    """Content of prepare.json: the settings, and how and where the command ran."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    settings: dict[str, Any]


def _claim(
    out: Path,
    settings: PrepareSettings,
    names: Sequence[str],
    encoders: Mapping[str, EncoderRecord],
    facts: Mapping[str, Any],
) -> str:
    """Write prepare.json, or compare with the one that is there.

    Returns:
        `ShardRecord.made_by` of the shards.
    """
    wanted = {
        **asdict(settings),
        "data": without_secrets(settings.data),
        "sizes": list(settings.sizes),
        "shards": list(names),
        **{kind: asdict(record) for kind, record in encoders.items()},
    }
    path = out / "prepare.json"
    try:
        (out / "shards").mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, seal("preparation", {"settings": wanted, **facts}))
    except OSError as error:
        raise ValueError(f"cannot write to {out} ({error.strerror})") from None
    try:
        there = read_sealed(path, Preparation, "preparation").settings
    except JsonFault as fault:
        raise ValueError(f"{path} is damaged ({fault.detail}): choose another --out") from None
    other = [key for key in wanted if there.get(key) != wanted[key]]
    if other:
        raise ValueError(
            f"{out} was started with another {', '.join(other)}: give the same options to "
            "continue, or "
            "choose another --out"
        )
    # the same data may lie elsewhere; a shard says which part of it is its own
    return digest_of({key: wanted[key] for key in wanted if key not in ("data", "shards")})


def _finished(folder: Path, name: str, made_by: str, verify: bool) -> ShardRecord | None:
    record = read_shard_record(folder)
    if record is None or record.name != name or record.made_by not in ("", made_by):
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
            f"the data set is empty: none of the {seen} samples of "
            f"{without_secrets(settings.data)} can be used ({named}); all that were "
            f"skipped are in {out / 'skipped.jsonl'}"
        )
    if not _is_written(out, index):  # a cache of the first format keeps its index
        write_index(out, index)
    return index


def _is_written(out: Path, index: CacheIndex) -> bool:
    try:
        return read_index(out) == index
    except ValueError:
        return False


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
