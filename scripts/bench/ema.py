"""The moving average of the weights: one foreach call against a loop over parameters.

    python -m scripts.bench.ema [--pairs 15] [--out reports/local/speed/ema.json]

`Ema.update` as the trainer calls it, against `average.mul_(d).add_(p, alpha=1 - d)` and against
`average.lerp_(p, 1 - d)` over all parameters. fp32, one CPU thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from scripts.bench.paired_timing import (
    Ratio,
    measurement_facts,
    paired_ratio,
    print_table,
    write_report,
)
from selfe.config.resolve import resolve
from selfe.config.schema import RunConfig
from selfe.run_folder.model import build_model
from selfe.training.ema import Ema, ema_decay

SEED = 0
LATE = 1_000_000
# updates per timing, so that one lasts tens of milliseconds at least
REPEATS = {"shapes": 20, "wide": 2}


def mul_add(average: Tensor, parameter: Tensor, decay: float) -> None:
    average.mul_(decay).add_(parameter, alpha=1 - decay)


def lerp(average: Tensor, parameter: Tensor, decay: float) -> None:
    average.lerp_(parameter, 1 - decay)


def compare(
    name: str,
    config: RunConfig,
    one: Callable[[Tensor, Tensor, float], None],
    repeats: int,
    pairs: int,
    passes: float | None,
) -> Ratio:
    """Both sides move a copy of their own towards the same weights, and must agree at the end."""
    model = build_model(config, "cpu")
    ours, theirs = (Ema(model, config.optim) for _ in range(2))
    decay = ema_decay(LATE, config.optim)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))

    def foreach() -> None:
        for _ in range(repeats):
            ours.update(model, LATE)

    @torch.no_grad()
    def loop() -> None:
        for _ in range(repeats):
            parameters = zip(theirs.module.parameters(), model.parameters(), strict=True)
            for average, parameter in parameters:
                one(average, parameter, decay)

    row = paired_ratio(name, foreach, loop, pairs=pairs, passes=passes)
    for a, b in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        if not torch.allclose(a, b, atol=1e-5):
            raise SystemExit("the two sides do not compute the same average; nothing is reported")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="interleaved pairs per row")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/ema.json"))
    arguments = parser.parse_args()
    if arguments.pairs < 7:
        parser.error("--pairs must be at least 7")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    facts = measurement_facts(SEED)
    shapes = resolve("shapes", "fm")
    wide = resolve("0.5b", "fm", assignments=["model.num_layers=1", "model.num_single_layers=2"])
    rows = [
        compare(
            f"{name}: foreach / loop of {one.__name__}",
            config,
            one,
            repeats,
            arguments.pairs,
            passes,
        )
        for name, config, repeats, one, passes in (
            ("shapes", shapes, REPEATS["shapes"], mul_add, 0.5),
            ("shapes", shapes, REPEATS["shapes"], lerp, None),
            ("width 1024", wide, REPEATS["wide"], mul_add, None),
            ("width 1024", wide, REPEATS["wide"], lerp, None),
        )
    ]
    print_table(rows)
    write_report(arguments.out, rows, facts)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
