"""How far gradients computed in bf16 and in TF32 are from those in fp32, method by method.

    python -m scripts.checks.precision [--runs-dir runs/quickstart] [--step 800] [--batches 8]
        [--out reports/checks/precision.json]
    python -m scripts.checks.precision --shipped fm selfe imm [--set objective.gap_exponent=12]
        [--out reports/checks/precision_shipped.json]

With `--shipped` the weights are those of `selfe-bench demo`: nothing need be trained first. Rows
are added to those that the file has.
Gradients of each run's own objective at its own weights, on the batches that it would have trained
on next. bf16 is what training under autocast computes; TF32 is emulated: the operands of every
matrix product, forward and backward, are rounded to its 10 bits of mantissa. Beside the error
stands what sampling batches adds anyway, the distance of a batch's gradient from the mean of all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scripts import command_line
from selfe.api.demo import MANIFEST
from selfe.config.assignments import merge, parse_assignments
from selfe.config.resolve import build_objective, validate
from selfe.config.schema import RunConfig
from selfe.data.registry import build_source
from selfe.device import autocast
from selfe.files import write_atomically
from selfe.objectives.base import Nets
from selfe.provenance import provenance
from selfe.run_folder.checkpoint import load_tensors, load_weights
from selfe.run_folder.model import build_model
from selfe.run_folder.packed_weights import read_manifest, unpack
from selfe.run_folder.records import find_checkpoint, read_config
from selfe.training.loop import micro_batches

ROOT = Path(__file__).resolve().parents[2]
MATRIX_PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm}


def round_to_tf32(x: Tensor) -> Tensor:
    """fp32 rounded to 10 bits of mantissa, halves away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class EmulatedTF32(TorchDispatchMode):
    """Matrix products of fp32 tensors as a GPU makes them in TF32: sums stay in fp32."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket in MATRIX_PRODUCTS:
            *added, a, b = args  # what addmm adds is not rounded
            args = (*added, round_to_tf32(a), round_to_tf32(b))
        return func(*args, **(kwargs or {}))


PRECISIONS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "fp32": contextlib.nullcontext,
    "tf32": EmulatedTF32,
    "bf16": lambda: autocast(torch.device("cpu"), "bf16"),
}


@dataclass(frozen=True)
class Weights:
    """Where gradients are taken: live weights and their moving average after `step` iterations."""

    name: str
    config: RunConfig
    step: int
    live: Path
    average: Path
    cache_dir: Path

    @classmethod
    def of_run(cls, run_dir: Path, step: int | None) -> Weights:
        found, parts = find_checkpoint(run_dir, step), ("model", "ema")
        live, average = (found.path / f"{part}.safetensors" for part in parts)
        cache = run_dir.parent / ".cache"
        return cls(run_dir.name, read_config(run_dir), found.step, live, average, cache)

    @classmethod
    def shipped(cls, method: str, assignments: Sequence[str], cache_dir: Path) -> Weights:
        """Those of `demo`, which are moving averages: they stand for the live weights too."""
        (model,) = (m for m in read_manifest(MANIFEST) if m.config["method"] == method)
        config = validate(merge(model.config, parse_assignments(assignments)))
        path, name = MANIFEST.parent / model.file, " ".join(["demo", method, *assignments])
        return cls(name, config, model.iteration, path, path, cache_dir)


def gradients_of(weights: Weights, batches: int) -> dict[str, Tensor]:
    """(batches, parameters) by precision."""
    config = weights.config
    live, average = build_model(config, "cpu"), build_model(config, "cpu").requires_grad_(False)
    for network, path in ((live, weights.live), (average, weights.average)):
        load_weights(network, unpack(load_tensors(path)), path)
    objective = build_objective(config)
    source = build_source(
        config,
        with_fake=objective.needs_fake_captions,
        device="cpu",
        cache_dir=weights.cache_dir,
        progress=lambda done, total: None,
    )
    found: dict[str, list[Tensor]] = {name: [] for name in PRECISIONS}
    for number in range(weights.step, weights.step + batches):
        rng = micro_batches(config, number, torch.device("cpu"))[0]
        batch = source.batch(rng)
        for name, precision in PRECISIONS.items():
            live.zero_grad()
            with precision():
                loss = objective.loss(batch, Nets(live, average), weights.step, rng).loss
                loss.backward()
            found[name].append(torch.cat([p.grad.flatten() for p in live.parameters()]).double())
    return {name: torch.stack(gradients) for name, gradients in found.items()}


def rows_of(weights: Weights, batches: int) -> list[dict[str, Any]]:
    """Errors and noise relative to the root mean square norm of a batch's gradient in fp32."""
    gradients = gradients_of(weights, batches)
    exact = gradients.pop("fp32")
    norm = exact.norm(dim=1).square().mean().sqrt()
    noise = ((exact - exact.mean(0)).square().sum() / (batches - 1)).sqrt()
    return [
        {
            "run": weights.name,
            "method": weights.config.method,
            "step": weights.step,
            "precision": name,
            "error": ((found - exact).norm(dim=1).square().mean().sqrt() / norm).item(),
            "batch_noise": (noise / norm).item(),
            "gradient_norm": norm.item(),
        }
        for name, found in gradients.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "quickstart")
    parser.add_argument("--run", action="append", help="folder below --runs-dir; repeatable")
    parser.add_argument("--step", type=int, help="the newest checkpoint where not given")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--shipped", nargs="+", default=[], help="methods; in place of runs")
    parser.add_argument("--set", action="append", default=[], help="changed for --shipped")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "precision.json")
    arguments = parser.parse_args()
    if arguments.batches < 2:
        parser.error("noise between batches takes 2 or more")
    facts = {"command": command_line(), **provenance()}
    cache = arguments.runs_dir / ".cache"
    wanted = [Weights.shipped(method, arguments.set, cache) for method in arguments.shipped]
    if not wanted:
        runs = arguments.run or [f"shapes-quick-{method}" for method in ("fm", "selfe", "imm")]
        wanted = [Weights.of_run(arguments.runs_dir / run, arguments.step) for run in runs]
    before = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    names = [weights.name for weights in wanted]
    rows = [row for row in before if row["run"] not in names]
    for weights in wanted:
        for row in rows_of(weights, arguments.batches):
            rows.append(row)
            print(
                f"{row['run']}, {row['precision']}: error {row['error']:.2%} of the gradient's "
                f"norm, noise of a batch {row['batch_noise']:.0%}",
                flush=True,
            )
            report = {**facts, "batches": arguments.batches, "rows": rows}
            write_atomically(arguments.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
