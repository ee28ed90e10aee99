"""What `train` prints before and after a run: what is trained where, and the outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfe.config.schema import RunConfig


def header(config: RunConfig, run_dir: Path, device: str, processes: int) -> str:
    """Method, size, device, data and folder, in lines that fit 60 columns where names do."""
    from selfe.config.resolve import changed_settings
    from selfe.network.flops import parameter_counts
    from selfe.objectives.registry import method_label

    variant = f" ({config.variant})" if config.variant else ""
    count = parameter_counts(config.model.model_dump())[0]
    size = f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"
    shared = f", {processes} processes" if processes > 1 else ""
    data = config.data
    source = (
        f"shapes world, {data.size:,} images"
        if data.source == "shapes"
        else f"{data.source} {data.path}".rstrip()
    )
    lines = [
        f"{method_label(config.method)}{variant}, recipe {config.recipe}, seed {config.seed}",
        f"  network: {size} parameters",
        f"  device:  {device}{shared}, precision {config.train.precision}",
        f"  data:    {source}",
        f"  length:  {config.train.iterations:,} iterations x {config.train.batch_size:,} images",
        f"  folder:  {run_dir}",
    ]
    changed = changed_settings(config)
    if changed:
        lines.append(f"  changed: {', '.join(changed)}")
    return "\n".join(lines)


def summary(
    run_dir: Path, name: str, steps: int, seconds: float, losses: Sequence[float], runs_dir: Path
) -> str:
    """The outcome of a training, and the command that comes next.

    Args:
        steps: iterations made now; 0 where the run had been finished before.
        losses: of the last iterations that were shown.
    """
    if steps:
        loss = f", last loss {losses[-1]:.4f}" if losses else ""
        done = f"{steps:,} iterations in {duration(seconds)}{loss}"
    else:
        done = "nothing was left to do"
    elsewhere = "" if runs_dir == Path("runs") else f" --runs-dir {runs_dir}"
    return (
        f"trained: {run_dir} ({done})\n"
        f"score it: selfe-bench geneval --model {name}{elsewhere} --steps 2,4,8,50"
    )


def duration(seconds: float) -> str:
    """ "42 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Stopwatch:
    """Iterations and losses of a training as its progress tells them."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.first = self.last = 0
        self.losses: list[float] = []

    def begin(self, step: int) -> None:
        self.first = self.last = step

    def see(self, step: int, loss: float) -> None:
        self.last = step
        self.losses = [*self.losses[-9:], loss]

    @property
    def steps(self) -> int:
        return self.last - self.first

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started
