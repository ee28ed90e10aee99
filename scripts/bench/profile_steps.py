"""Where the CPU time of a training step goes, by operation: behind reports/speed/missed.md.

    python -m scripts.bench.profile_steps [--steps 4] [--out reports/local/speed/profile.json]

The steps are those of scripts/bench/objectives.py, on one thread in fp32. Every operation is
timed as it is dispatched, forward and backward; what is left of the total is the time between
operations."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.bench.objectives import SEED, shapes, shapes_step, wide, wide_step
from scripts.bench.paired_timing import measurement_facts
from selfe.files import write_atomically
from selfe.training.host_memory import keep_freed_memory


class Clock(TorchDispatchMode):
    """Adds up the CPU seconds of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        self.seconds[func.overloadpacket.__name__] += time.process_time() - start
        return result


def profile(name: str, step: Callable[[], object], steps: int) -> dict[str, Any]:
    for _ in range(2):
        step()
    with Clock() as clock:
        start = time.process_time()
        for _ in range(steps):
            step()
        total = time.process_time() - start
    milliseconds = {key: 1e3 * value / steps for key, value in clock.seconds.most_common()}
    whole = 1e3 * total / steps
    shares = ", ".join(f"{key} {ms / whole:.0%}" for key, ms in list(milliseconds.items())[:10])
    print(f"{name}: {whole:.0f} ms; {shares}", flush=True)
    return {"name": name, "milliseconds": whole, "operations": milliseconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/profile.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    facts = measurement_facts(SEED)
    work = {
        "shapes: IMM, whole step": shapes_step(shapes("imm")),
        "shapes: FM, whole step": shapes_step(shapes("fm")),
        "width 512: FM": wide_step(wide("fm")).gradients,
        "width 512: Self-E, null prompt trimmed": wide_step(wide("selfe"), null_tokens=1).gradients,
    }
    rows = [profile(name, step, arguments.steps) for name, step in work.items()]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, json.dumps({**facts, "rows": rows}, indent=1).encode())


if __name__ == "__main__":
    main()
