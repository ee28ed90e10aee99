"""Mirrors of metrics.jsonl and of sample sheets in the trackers that accelerate knows.

The run's own files stay the source of truth: a tracker is told what they hold, and asked nothing.
Only the main process of a run opens one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from selfe.config.schema import RunConfig
from selfe.registry import Registry

PROJECT = "selfe-bench"
TRACKERS = Registry(
    "tracker",
    {
        "tensorboard": "accelerate.tracking:TensorBoardTracker",
        "wandb": "accelerate.tracking:WandBTracker",
        "trackio": "accelerate.tracking:TrackioTracker",
        "comet_ml": "accelerate.tracking:CometMLTracker",
        "aim": "accelerate.tracking:AimTracker",
        "mlflow": "accelerate.tracking:MLflowTracker",
        "clearml": "accelerate.tracking:ClearMLTracker",
        "swanlab": "accelerate.tracking:SwanLabTracker",
    },
)
_EXTRAS = ("tensorboard", "wandb")
"""Trackers whose package is an extra of this project."""
_PACKAGES = {"comet_ml": "comet-ml"}


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
        ValueError: for an unknown name, or if its package is not installed: says which to install.
    """
    opened = TRACKERS.load(name)
    try:
        return AccelerateTracker(name, opened, run_dir, config)
    except ImportError:
        package = f"'selfe-bench[{name}]'" if name in _EXTRAS else _PACKAGES.get(name, name)
        raise ValueError(f"tracker {name!r} needs a package: pip install {package}") from None


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, its step left out."""
    return {
        key: float(value)
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class AccelerateTracker:
    """One of accelerate's trackers, under the name of the run's folder.

    TensorBoard writes into the run's folder `tensorboard`; Weights & Biases and Trackio continue
    the run of that name.

    Args:
        name: in `TRACKERS`.
        opened: its class.
    """

    def __init__(self, name: str, opened: Any, run_dir: Path, config: RunConfig) -> None:
        self._name = name
        self._tracker = opened(*_arguments(name, run_dir), **_options(name, run_dir, config))
        if hasattr(self._tracker, "start"):  # older versions start by themselves
            self._tracker.start()
        if name == "tensorboard":
            text = f"```\n{config.model_dump_json(indent=1)}\n```"
            self._tracker.log({"configuration": text}, step=0)
        elif name != "wandb":  # which has it as an option
            self._tracker.store_init_configuration(_flat(config.model_dump(mode="json")))

    def write(self, record: Mapping[str, Any]) -> None:
        self._tracker.log(scalars(record), step=record["step"])

    def write_samples(self, sheet: np.ndarray, step: int) -> None:
        if not hasattr(self._tracker, "log_images"):
            return  # a tracker without images has the numbers
        options = {"dataformats": "NHWC"} if self._name == "tensorboard" else {}
        self._tracker.log_images({"samples": sheet[None]}, step=step, **options)

    def close(self) -> None:
        self._tracker.finish()


def _arguments(name: str, run_dir: Path) -> tuple[str, ...]:
    """Project or run, and the folder of trackers that write files."""
    if name == "tensorboard":
        return ("tensorboard", str(run_dir))  # the folder is their two names joined
    return (PROJECT, str(run_dir)) if name == "aim" else (PROJECT,)


def _options(name: str, run_dir: Path, config: RunConfig) -> dict[str, Any]:
    if name == "wandb":
        return {
            "id": f"{run_dir.name}-{config.digest[:8]}",
            "name": run_dir.name,
            "dir": str(run_dir),
            "config": config.model_dump(mode="json"),
            "resume": "allow",
        }
    return {"name": run_dir.name, "resume": "allow"} if name == "trackio" else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | float | bool | None]:
    """Nested settings as "section.key", lists and mappings of values as text."""
    found: dict[str, str | float | bool | None] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool | None):
            found[f"{prefix}{key}"] = value
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
