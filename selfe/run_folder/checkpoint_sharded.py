"""Checkpoints of sharded runs: torch.distributed.checkpoint, with safetensors as its format.

The folder is that of `selfe.run_folder.checkpoint`, except that model and optimizer are folders of
one safetensors file a process: each writes what it holds, and nobody needs room for the whole. The
moving average is what everybody else reads (scoring, export), so rank 0 joins its shards, on the
host and in the background, into the one ema.safetensors of an unsharded run: same bytes, same
digest. Any number of processes, one included, resumes from either kind of folder.

The usual DCP format has a pickled index; this one has none. The folder of a run must be on a file
system that all processes share. Saving in the background is exercised with gloo on processors; how
short it makes the stall on GPUs has not been measured.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from selfe.distributed.group import HostGroup
from selfe.files import file_sha256, fsync_directory
from selfe.run_folder.checkpoint import (
    CheckpointError,
    Parts,
    commit,
    load_tensors,
    prepare,
    write_tensors,
)
from selfe.run_folder.checkpoint_background import BackgroundWriter


class ShardedWriter(BackgroundWriter):
    """Each process writes its shards; see `BackgroundWriter`."""

    def __init__(self, folder: Path, keep_last: int, device: torch.device) -> None:
        super().__init__(folder, keep_last, device)
        self._host = HostGroup()

    def _write(self, parts: Parts, record: Mapping[str, Any]) -> None:
        host = self._host
        temporary = host.on_main(lambda: prepare(self.folder, record["step"]))
        try:
            for name, tensors in parts.items():
                _write_shards(temporary / name, tensors, host)
            host.on_main(lambda: _join(temporary, "ema"))
            names = host.on_main(
                lambda: [str(p.relative_to(temporary)) for p in temporary.rglob("*.safetensors")]
            )
            mine = names[host.rank :: host.size]
            hashed = host.together(lambda: {name: file_sha256(temporary / name) for name in mine})
            sha256 = {name: digest for part in hashed for name, digest in part.items()}
            host.on_main(lambda: self._commit(temporary, {**record, "sha256": sha256}))
        except BaseException:
            if host.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _commit(self, temporary: Path, record: Mapping[str, Any]) -> None:
        for folder in temporary.iterdir():
            if folder.is_dir():
                fsync_directory(folder)
        commit(temporary, record)
        self.prune()


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], host: HostGroup) -> None:
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)  # flushes its files
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=host.group)
    except CheckpointException as error:  # raised on every process; no Exception of the usual kind
        rank, (reason, _) = next(iter(error.failures.items()))
        raise OSError(f"{folder} cannot be written (process {rank}: {reason})") from None


def _join(temporary: Path, part: str) -> None:
    """Replace a part's folder of shards by one file, as an unsharded run writes it."""
    path = temporary / f"{part}.safetensors"
    write_tensors(read_shards(temporary / part, {}), path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    shutil.rmtree(temporary / part)


def read_shards(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder of shards, each laid out like that of its name in `like`, else whole.

    Every process reads for itself, what it holds and no more; no process group is needed.

    Raises:
        CheckpointError: if a file is missing or is not safetensors.
    """
    try:
        reader = HuggingFaceStorageReader(str(folder))
        stored: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
        tensors = {}
        for name, info in stored.items():
            fits = name in like and like[name].shape == info.size
            tensors[name] = (
                torch.empty_like(like[name])
                if fits
                else torch.empty(info.size, dtype=info.properties.dtype)
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(tensors, storage_reader=reader, no_dist=True)
    except (SafetensorError, OSError, CheckpointException) as error:
        raise CheckpointError(f"{folder} is no readable folder of shards ({error})") from None
    return tensors


def load_part(path: Path, part: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part of a checkpoint, be it one file or a folder of shards, laid out like `like`.

    Raises:
        CheckpointError: if it is neither.
    """
    file = path / f"{part}.safetensors"
    if not file.exists():
        return read_shards(path / part, like)
    return {name: _laid_out(tensor, like.get(name)) for name, tensor in load_tensors(file).items()}


def _laid_out(tensor: Tensor, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor):
        return tensor
    # every process has read the same tensor and keeps its own rows of it
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
