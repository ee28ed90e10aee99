"""Which checkpoints of a run stay: writes one, and removes what is no longer needed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from selfe.run_folder.checkpoint import list_checkpoints, save_checkpoint
from selfe.temporaries import temporary as temporary_name


class WholeWriter:
    """Writes the checkpoints of a run on one process, and returns when they are written.

    Args:
        folder: of the checkpoints.
        keep_last: checkpoints kept beside the milestones.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.prune = folder, Pruner(folder, keep_last)

    def save(self, step: int, **content: Any) -> None:
        """See `save_checkpoint`."""
        save_checkpoint(self.folder, step, **content)
        self.prune()

    def close(self) -> None:
        """Nothing is left to be written."""


class Pruner:
    """Removes all but the newest checkpoints of a run, and stale leftovers; never a milestone.

    Args:
        folder: of the checkpoints.
        keep_last: checkpoints kept beside the milestones.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last
        # read once: to read every milestone at every checkpoint grows with the square of both
        self._milestones: set[str] = set()

    def __call__(self) -> None:
        ordinary = []
        for checkpoint in list_checkpoints(self.folder, without=self._milestones):
            if checkpoint.milestone:
                self._milestones.add(checkpoint.path.name)
            else:
                ordinary.append(checkpoint)
        for checkpoint in ordinary[: -self.keep_last]:
            # renamed first: a kill while deleting must not leave half a checkpoint under a valid
            # name
            doomed = temporary_name(checkpoint.path, "old")
            os.rename(checkpoint.path, doomed)
            shutil.rmtree(doomed)
        for stale in [*self.folder.glob(".step-*.tmp"), *self.folder.glob(".step-*.old")]:
            shutil.rmtree(stale, ignore_errors=True)
