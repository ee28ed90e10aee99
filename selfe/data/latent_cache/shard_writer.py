"""Writes one shard of a latent cache, row group by row group."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfe.data.latent_cache.buckets import Bucket
from selfe.data.latent_cache.index import (
    SAMPLES,
    FileRecord,
    ShardRecord,
    checksum,
    digest_of_rows,
    read_shard_record,
    seed_of_row,
)
from selfe.files import file_sha256, fsync_directory, naming, write_atomically
from selfe.sealed_files import seal
from selfe.temporaries import temporary


def to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()


class ShardWriter:
    """Writes one shard under a temporary name; `commit` renames it into place.

    Args:
        folder: of the finished shard.
        fake: whether samples carry the features of their fake captions.
    """

    def __init__(self, folder: Path, fake: bool) -> None:
        self.folder, self.fake = folder, fake
        self._temporary = temporary(folder)
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self._writers: dict[str, Any] = {}
        self.rows: Counter[str] = Counter()
        self._checksums: dict[str, dict[str, list[int]]] = {}

    def add_samples(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Rows of samples.arrow: key, caption, sha256, height, width, tokens, pooled and, where
        asked for, fake_tokens and fake_pooled, as lists of equal length."""
        checked = dict(columns)
        for prefix in ("", "fake_") if self.fake else ("",):
            features = zip(columns[f"{prefix}tokens"], columns[f"{prefix}pooled"], strict=True)
            checked[f"{prefix}checksum"] = [
                checksum(*parts, seed=self._seed(SAMPLES, row, row))
                for row, parts in enumerate(features, start=self.rows[SAMPLES])
            ]
        self._write(SAMPLES, checked, sample_features(self.fake))

    def add_latents(self, bucket: Bucket, samples: Sequence[int], latents: Sequence[bytes]) -> None:
        """Rows of a bucket's file; `samples` are their rows in samples.arrow."""
        name = f"{bucket.name}.arrow"
        pairs = zip(latents, samples, strict=True)
        columns: dict[str, Sequence[Any]] = {
            "sample": list(samples),
            "latents": list(latents),
            "checksum": [
                checksum(content, seed=self._seed(name, row, sample))
                for row, (content, sample) in enumerate(pairs, start=self.rows[name])
            ],
        }
        self._write(name, columns, latent_features())

    def _seed(self, name: str, row: int, sample: int) -> int:
        return seed_of_row(self.folder / name, row, sample, placed=True)

    def _write(self, name: str, columns: dict[str, Sequence[Any]], features: Any) -> None:
        import pyarrow
        from datasets.arrow_writer import ArrowWriter

        if name not in self._writers:
            path = str(self._temporary / name)
            self._writers[name] = ArrowWriter(features=features, path=path)
        table = pyarrow.table(dict(columns), schema=features.arrow_schema)
        with naming(self._temporary / name):
            self._writers[name].write_table(table)
        self.rows[name] += len(columns["checksum"])
        for column, values in columns.items():
            if column.endswith("checksum"):
                self._checksums.setdefault(name, {}).setdefault(column, []).extend(values)

    def commit(self, **facts: Any) -> ShardRecord:
        """Flush, record and rename; `facts` are the other fields of `ShardRecord`.

        A shard of the same name that is already in place, by another process, is kept.
        """
        files = {}
        for name, writer in sorted(self._writers.items()):
            path = self._temporary / name
            with naming(path):
                writer.finalize()
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            columns = {k: np.array(v, np.uint64) for k, v in self._checksums[name].items()}
            files[name] = FileRecord(
                self.rows[name], path.stat().st_size, file_sha256(path), digest_of_rows(columns)
            )
        record = ShardRecord(files=files, placed=True, **facts)
        write_atomically(self._temporary / "shard.json", seal("shard", record.as_json()))
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


def sample_features(fake: bool) -> Any:
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


def latent_features() -> Any:
    from datasets import Features, Value

    return Features(
        {
            "sample": Value("int32"),
            "latents": Value("large_binary"),
            "checksum": Value("uint64"),
        }
    )
