"""Checkpoints written while training continues: copied to the host, then written by a thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint._state_dict_stager import StateDictStager

from selfe.run_folder.checkpoint import Parts, collect_parts, write_checkpoint
from selfe.run_folder.checkpoint_kept import Pruner


class BackgroundWriter(ABC):
    """Writes a run's checkpoints one at a time; training waits only for the copy to the host, and
    for the previous checkpoint if that is still being written.

    Args:
        folder: of the checkpoints.
        keep_last: checkpoints kept beside the milestones.
        device: where the state lives; its copies are staged in pinned memory on a GPU, which the
            first checkpoint reserves.
    """

    def __init__(self, folder: Path, keep_last: int, device: torch.device) -> None:
        self.folder, self.prune = folder, Pruner(folder, keep_last)
        self._on_gpu = device.type == "cuda"
        # not the public `DefaultStager`: that of torch 2.11 reserves its memory anew every time
        self._stager = StateDictStager(pin_memory=self._on_gpu)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self,
        step: int,
        *,
        model: nn.Module,
        ema: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        milestone: bool,
        conditional: nn.Module | None = None,
    ) -> None:
        """Copy what this process holds to the host and let the thread write it.

        Raises:
            OSError, PeerError: if the checkpoint before this one could not be written.
        """
        self._wait()
        staged = self._stage(dict(collect_parts(model, ema, optimizer, conditional)))
        record = {**state, "step": step, "milestone": milestone}
        self._pending = self._thread.submit(self._write, staged, record)

    def close(self) -> None:
        """Wait for what is being written; raises as `save`."""
        try:
            self._wait()
        finally:
            self._thread.shutdown()
            self._stager.close()

    @abstractmethod
    def _write(self, parts: Parts, record: Mapping[str, Any]) -> None:
        """Write a checkpoint and prune older ones, in the thread.

        Args:
            record: state.json without checksums.
        """

    def _stage(self, parts: dict[str, Any]) -> Any:
        """A copy on the host, in the memory of the copy before."""
        staged = self._stager.stage(parts, non_blocking=self._on_gpu)
        if self._on_gpu:
            torch.cuda.synchronize()
        return staged

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()


class WholeInBackground(BackgroundWriter):
    """What `selfe.run_folder.checkpoint_kept.WholeWriter` writes."""

    def _write(self, parts: Parts, record: Mapping[str, Any]) -> None:
        write_checkpoint(self.folder, parts, record)
        self.prune()
