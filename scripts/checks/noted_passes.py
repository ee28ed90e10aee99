"""Writes selfe/assets/noted_passes.json: what every method and variant asks of the network.

    python -m scripts.checks.noted_passes

Run it after a change of an objective; a plan of a changed objective is right without it, but has to
start torch.
"""

from __future__ import annotations

import json
from itertools import chain

from selfe.config.recipes import RECIPES
from selfe.config.resolve import build_objective, resolve
from selfe.config.schema import RunConfig
from selfe.files import write_atomically
from selfe.objectives.registry import METHODS, variants_of
from selfe.planning.passes import NOTED, as_notes, note_key, passes_of


def configurations() -> list[RunConfig]:
    """Every recipe, method and variant, with both kinds of pairing."""
    return [
        resolve(recipe, method, variant=variant, assignments=[f"times.pairing={pairing}"])
        for recipe in RECIPES
        for method in METHODS.table  # those of other packages are recorded when they are planned
        for variant in chain([""], variants_of(method))
        for pairing in ("stratified", "bernoulli")
    ]


def notes() -> dict[str, list[dict[str, object]]]:
    """`note_key` -> passes."""
    found: dict[str, list[dict[str, object]]] = {}
    for config in configurations():
        for step in (0, config.objective.get("aux_from") or 0):
            key = note_key(config, step)
            if key not in found:
                found[key] = as_notes(passes_of(build_objective(config), step))
    return found


def main() -> None:
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in notes().items()]
    write_atomically(NOTED, "{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {NOTED.name}: {len(lines)} entries")


if __name__ == "__main__":
    main()
