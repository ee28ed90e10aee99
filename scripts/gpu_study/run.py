"""Everything this project wants to know of one GPU: correctness, speed, a first shapes-64 result.

    python -m scripts.gpu_study.run --budget-seconds 480 [--part steps] [--only "text 256"]
        [--out reports/gpu]

Parts: correctness, network, steps, sampling, scoring, checkpoint, shapes64; all of them, in this
order, where none is named. A part writes OUT/PART.json after every row, prints its table when it
ends, and is useful alone. Run again, it measures the rows that are missing, a training run with
its next iteration; no row is started that would not end within the budget, but one that takes
longer than expected is not cut off, so leave a minute or two. A row that fails holds its error, and
is tried again; one that found the device wrong is not, until the code is another. MFU counts the
matrix products of all passes a step needs, over 790 TFLOP/s. `--tiny --device cpu` rehearses every
part at toy size.

All of it takes more than an hour. With half an hour: correctness, network and the rows of "text
256" first, then sampling, scoring and checkpoint, then shapes64 with `--set train.iterations=2500
--set times.tau_horizon=1500 --set optim.warmup=200 --set data.size=65536`. Run it with
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, so that memory is not lost to fragments; where the
code is no git checkout, SELFE_BENCH_COMMIT says which commit it is. A device that failed (with an
illegal access, say) fails in every later row of the same call: run the parts in their own calls.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scripts import command_line
from scripts.gpu_study.rows import PEAK_TFLOPS, Mismatch, Part, Row, Settings, Unfinished, release
from selfe.files import write_atomically
from selfe.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "correctness": "scripts.gpu_study.correctness:correctness",
    "network": "scripts.gpu_study.speed:network",
    "steps": "scripts.gpu_study.speed:steps",
    "sampling": "scripts.gpu_study.sampling:sampling",
    "scoring": "scripts.gpu_study.scoring:scoring",
    "checkpoint": "scripts.gpu_study.speed:checkpoint",
    "shapes64": "scripts.gpu_study.shapes64:shapes64",
}


def build_part(name: str, settings: Settings) -> Part:
    module, _, function = PARTS[name].partition(":")
    return getattr(importlib.import_module(module), function)(settings)


def is_done(row: Row) -> bool:
    return "error" not in row and not row.get("unfinished")


def is_settled(row: Row, commit: str) -> bool:
    """Whether measuring it again would tell nothing new."""
    same_code = row["commit"] == commit != "unknown"
    return is_done(row) or (bool(row.get("mismatch")) and same_code)


def read_rows(path: Path, facts: dict[str, Any]) -> dict[str, Row]:
    """Rows measured before, by name.

    Raises:
        ValueError: if they were measured on another kind of GPU, with another torch or other
            settings.
    """
    if not path.exists():
        return {}
    report = json.loads(path.read_text())
    same = ("gpu", "torch", "settings")
    for key in same:
        if report[key] != facts[key]:
            raise ValueError(
                f"{path} holds figures of another study ({key}: {report[key]}, now {facts[key]}): "
                "give this one another folder with --out"
            )
    return {row["name"]: row for row in report["rows"]}


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(rows: Sequence[Row]) -> str:
    """Markdown, one table for the rows with the same columns."""
    hidden = ("commit", "machine", "limits")
    shown = [{k: v for k, v in row.items() if k not in hidden} for row in rows]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in shown:
        groups.setdefault(tuple(row), []).append(row)
    blocks = []
    for keys, group in groups.items():
        lines = ["| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
        lines += ["| " + " | ".join(map(cell, row.values())) + " |" for row in group]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def run_part(
    name: str, settings: Settings, out: Path, facts: dict[str, Any], only: str = ""
) -> list[Row]:
    """Measure what is missing of a part, print and write its table.

    Args:
        only: regular expression that the names of the rows to be measured must contain.

    Returns:
        Its rows, those that failed or did not finish included.
    """
    if name == "shapes64":
        facts = {**facts, "settings": {**facts["settings"], "set": list(settings.assignments)}}
    part, path = build_part(name, settings), out / f"{name}.json"
    known, waiting = read_rows(path, facts), []
    for measurement in part.measurements:
        before = known.get(measurement.name)
        if before is not None and is_settled(before, facts["commit"]):
            continue
        if not re.search(only, measurement.name):
            continue
        expected = 0.0 if settings.tiny else measurement.expected_seconds
        if expected > settings.seconds_left():
            waiting.append(f"{measurement.name} ({expected:.0f} s)")
            continue
        row = measure(measurement, settings)
        known[measurement.name] = {**row, "commit": facts["commit"], "machine": facts["machine"]}
        rows = [known[m.name] for m in part.measurements if m.name in known]
        part.derive([row for row in rows if is_done(row)])
        report = {"part": name, "about": part.about, **facts, "rows": rows}
        write_atomically(path, json.dumps(report, indent=1) + "\n")
        print(f"{name}: {json.dumps(known[measurement.name])}", flush=True)
    rows = [known[m.name] for m in part.measurements if m.name in known]
    if rows:
        print(f"\n## {name}\n\n{part.about}\n\n{tables(rows)}\n", flush=True)
    if waiting:
        print(f"{name}: no time left for {', '.join(waiting)}; run again", flush=True)
    return rows


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """Run what would be compiled as it is: a rehearsal cannot wait minutes for a C++ compiler."""
    return torch.compiler.set_stance("force_eager")


def measure(measurement: Any, settings: Settings) -> Row:
    """A row, with its error where it failed: one failure must not cost the others."""
    started = time.monotonic()
    row: Row = {"name": measurement.name}
    try:
        with uncompiled() if settings.tiny else contextlib.nullcontext():
            row |= measurement.run()
    except Unfinished as unfinished:
        row |= {"unfinished": str(unfinished)}
    except Exception as error:
        traceback.print_exc()
        row |= {"error": _in_words(error)}
        if isinstance(error, Mismatch):
            row |= {"mismatch": True}
    try:
        release(settings.device)
    except RuntimeError as error:  # a device that failed stays so: the row is written all the same
        row.setdefault("error", _in_words(error))
    return {**row, "row_seconds": round(time.monotonic() - started, 1)}


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=list(PARTS), help="repeatable")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose name contains it")
    parser.add_argument("--budget-seconds", type=float, default=480.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: a rehearsal, no figures")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "gpu")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu-study")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for shapes64"
    )
    arguments = parser.parse_args()
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; rehearse with --tiny --device cpu")
    settings = Settings(
        arguments.device,
        arguments.tiny,
        arguments.work,
        tuple(arguments.set),
        time.monotonic() + arguments.budget_seconds,
    )
    found = provenance()
    facts = {
        "command": command_line(),
        "commit": found["commit"],
        "machine": found["machine"],
        "gpu": torch.cuda.get_device_name() if settings.on_gpu else "none",
        "torch": torch.__version__,
        "versions": found["versions"],
        "settings": {"device": settings.device, "tiny": settings.tiny},
        "denominator_tflops": PEAK_TFLOPS,
        "seed": 0,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in arguments.part or PARTS:
        try:
            rows = run_part(name, settings, arguments.out, facts, arguments.only)
        except Exception as error:  # a package is missing, or figures are of another study
            traceback.print_exc()
            failed.append(f"{name} ({error})")
            continue
        failed += [f"{name}: {row['name']}" for row in rows if "error" in row]
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
