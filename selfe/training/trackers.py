"""Mirrors of metrics.jsonl and of sample sheets in TensorBoard or Weights & Biases.

The run's own files stay the source of truth: a tracker is told what they hold, and asked nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from selfe.config.schema import RunConfig
from selfe.registry import Registry

TRACKERS = Registry(
    "tracker",
    {
        "tensorboard": "selfe.training.trackers:TensorBoardTracker",
        "wandb": "selfe.training.trackers:WandbTracker",
    },
)


class Tracker(Protocol):
    def write(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl; anything but numbers is left to the file."""
        ...

    def write_samples(self, sheet: np.ndarray, step: int) -> None:
        """The sheet of images drawn after iteration `step`, uint8 (H, W, 3)."""
        ...

    def close(self) -> None: ...


def open_tracker(name: str, run_dir: Path, config: RunConfig) -> Tracker:
    """A tracker by name.

    Raises:
        ValueError: for an unknown name, or if its package is not installed: names the extra.
    """
    try:
        tracker: Tracker = TRACKERS.load(name)(run_dir, config)
    except ImportError:
        raise ValueError(
            f"tracker {name!r} is an extra: pip install 'selfe-bench[{name}]'"
        ) from None
    return tracker


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, its step left out."""
    return {
        key: float(value)
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class TensorBoardTracker:
    """Event files in the run's folder `tensorboard`."""

    def __init__(self, run_dir: Path, config: RunConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))
        self._writer.add_text("configuration", f"```\n{config.model_dump_json(indent=1)}\n```")

    def write(self, record: Mapping[str, Any]) -> None:
        for key, value in scalars(record).items():
            self._writer.add_scalar(key, value, record["step"])

    def write_samples(self, sheet: np.ndarray, step: int) -> None:
        self._writer.add_image("samples", sheet, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """A Weights & Biases run named like the folder; resumed under the same name."""

    def __init__(self, run_dir: Path, config: RunConfig) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project="selfe-bench",
            id=f"{run_dir.name}-{config.digest[:8]}",
            name=run_dir.name,
            dir=str(run_dir),
            config=config.model_dump(mode="json"),
            resume="allow",
        )

    def write(self, record: Mapping[str, Any]) -> None:
        self._run.log(scalars(record), step=record["step"])

    def write_samples(self, sheet: np.ndarray, step: int) -> None:
        self._run.log({"samples": self._image(sheet)}, step=step)

    def close(self) -> None:
        self._run.finish()
