"""Which passes through the network a training step makes, and what they cost.

They are found by running the objective on a network that records what it is asked, so that an
objective says nothing about its cost and cannot say it wrongly. What was recorded of the methods
and variants that come with the project is kept in `assets/noted_passes.json` beside a digest of
their source (`python -m scripts.checks.noted_passes` writes it), so that `plan` answers without
starting torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfe.config.objective_outline import source_of
from selfe.config.resolve import build_objective
from selfe.config.schema import RunConfig
from selfe.json_files import read_json
from selfe.network.flops import FORWARD, FORWARD_BACKWARD, FORWARD_TANGENT, cost_of_pass
from selfe.objectives.registry import load_method

if TYPE_CHECKING:
    from torch import Tensor

    from selfe.batch import TextCondition
    from selfe.objectives.base import Objective, Velocity

NOTED = Path(__file__).resolve().parent.parent / "assets" / "noted_passes.json"

_NOTED_GROUPS = 512
_KINDS = {
    FORWARD: "forward",
    FORWARD_TANGENT: "forward with derivative",
    FORWARD_BACKWARD: "forward and backward",
}
# Captions are told apart by their length.
_LENGTHS: dict[int, Literal["null", "own", "fake"]] = {1: "null", 2: "own", 3: "fake"}


@dataclass(frozen=True)
class Pass:
    """One evaluation of the network in a training step.

    Attributes:
        weights: the live ones or their moving average.
        caption: the sample's own (dropped or not), the null prompt, or the fake one.
        share: of the batch that takes part.
        cost: in forward passes: 1 alone, 2 with a forward-mode derivative, 3 with a backward pass.
    """

    weights: Literal["live", "ema"]
    caption: Literal["own", "null", "fake"]
    share: float
    cost: int

    @property
    def name(self) -> str:
        kind = _KINDS[self.cost]
        weights = "moving average" if self.weights == "ema" else "live weights"
        caption = {"own": "", "null": ", null prompt", "fake": ", fake caption"}[self.caption]
        return f"{weights}, {kind}{caption}"


TRAINING_PASS = Pass("live", "own", 1, FORWARD_BACKWARD)
"""All that flow matching asks for."""


def passes_at(config: RunConfig, step: int) -> tuple[Pass, ...]:
    """The passes of iteration `step` of a run: read from the file, or recorded now."""
    kept = _noted().get(note_key(config, step))
    if kept is not None:
        return tuple(Pass(**each) for each in kept)
    return passes_of(build_objective(config), step)


def note_key(config: RunConfig, step: int) -> str:
    """What decides the passes of an iteration: the objective's source, settings and pairing, and
    whether its auxiliary term is on."""
    target = load_method(config.method).target
    settings: dict[str, Any] = dict(config.objective)
    aux_from = settings.get("aux_from")
    if aux_from is not None:
        settings["aux_from"] = step >= aux_from
    facts = [target, _source_digest(target), settings, config.times.pairing]
    return json.dumps(facts, sort_keys=True)


@functools.cache
def _source_digest(target: str) -> str:
    source = source_of(target.partition(":")[0])
    return hashlib.sha256((source or "").encode()).hexdigest()[:16]


@functools.cache
def _noted() -> Mapping[str, list[dict[str, Any]]]:
    return read_json(NOTED, dict[str, list[dict[str, Any]]]) if NOTED.is_file() else {}


def as_notes(passes: tuple[Pass, ...]) -> list[dict[str, Any]]:
    """Passes as `assets/noted_passes.json` keeps them."""
    return [asdict(each) for each in passes]


def passes_of(objective: Objective, step: int) -> tuple[Pass, ...]:
    """The passes of iteration `step`, recorded on random 2x2 latents.

    Where an objective chooses rows by chance (bernoulli pairing), so are the shares.
    """
    import torch

    from selfe.batch import LatentBatch, TextCondition
    from selfe.objectives.base import Nets
    from selfe.seeding import SampleRng

    rows = _NOTED_GROUPS * objective.group_size
    passes: list[Pass] = []

    def captions(kind: str, count: int) -> TextCondition:
        length = next(length for length, name in _LENGTHS.items() if name == kind)
        mask = torch.ones(count, length, dtype=torch.bool)
        return TextCondition(torch.zeros(count, length, 1), mask, torch.zeros(count, 1))

    def noting(weights: Literal["live", "ema"]) -> Velocity:
        def velocity(x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
            caption = _LENGTHS[condition.tokens.shape[1]]
            passes.append(Pass(weights, caption, len(x_t) / rows, cost_of_pass(x_t)))
            return torch.zeros_like(x_t)

        return velocity

    batch = LatentBatch(
        x_0=torch.randn(rows, 4, 2, 2, generator=torch.Generator().manual_seed(0)),
        condition=captions("own", rows),
        null=captions("null", 1),
        fake=captions("fake", rows),
        dropped=torch.zeros(rows, dtype=torch.bool),
        index=torch.arange(rows),
    )
    rng = SampleRng(0, torch.arange(rows))
    objective.loss(batch, Nets(noting("live"), noting("ema")), step, rng)
    return tuple(passes)
