"""The sampling settings that a search on validation prompts tries: as many for every method.

The search has two stages. The first tries two ways of moving with `len(first_stage(...))` settings
in all; the second shifts the time grid of the best. What is tried depends on what V means
(`selfe.config.inference`): where a setting does not suit a method, or is the same as another,
another strength of guidance is tried in its place.
"""

from __future__ import annotations

from typing import Any

from selfe.config.inference import sampling_problem
from selfe.config.schema import SamplingConfig
from selfe.objectives.registry import Method
from selfe.times import length_shift

Setting = dict[str, Any]
"""Keys and values of the section "sampling"."""

BARE: Setting = {"shift": None, "update": "ancestral", "guidance_time": "s", "warp": True}
"""What a setting that does not name these keys means, whatever a run's recipe has."""

SHIFTS = (-1.0, -0.5, 0.5, 1.0)
"""Added to mu, the shift of the time grid; below 0 steps are taken nearer to the data."""

_COMMON = (
    ("none", 1.0), ("linear", 1.25), ("linear", 1.5), ("linear", 1.75), ("linear", 2.0),
    ("linear", 3.0), ("linear", 5.0), ("ep-v", 3.0), ("ep-v", 5.0),
)  # fmt: skip
_ON_IMAGES = (("ep-x0", 3.0), ("ep-x0", 5.0))
_NOT_ON_IMAGES = (("ep-v", 7.0), ("linear", 7.0))
_FURTHER = (("linear", 2.5), ("linear", 4.0), ("ep-v", 2.0))
# Guidance whose difference is taken at s = t, where the network has learnt from data alone.
_AT_T = (("linear", 2.0), ("linear", 3.0), ("ep-v", 3.0))


def first_stage(method: Method) -> list[Setting]:
    """Two ways of moving under every guidance tried; 28 settings for every method."""
    flow_map = method.prediction == "flow-map"
    if flow_map:
        own = method.sampling.get("paper", {}).get("sampler", "any-step")
        forward = {"sampler": own} if own != "any-step" else {"sampler": own, "eta": 0.0}
        moves: list[Setting] = [forward, {"sampler": "restart"}]
    else:
        moves = [{"sampler": "any-step", "eta": eta} for eta in (0.0, 1.0)]
    tried = []
    for move in moves:
        on_images = not flow_map or move["sampler"] == "restart"
        kinds = [*_COMMON, *(_ON_IMAGES if on_images else _NOT_ON_IMAGES)]
        guided = [{"guidance": kind, "guidance_scale": scale} for kind, scale in kinds]
        # a velocity is asked for at s = t anyway, and not every flow map is trained there
        third: dict[str, Any] = {"guidance_time": "t"} if method.prediction == "posterior" else {}
        guided += [
            {"guidance": kind, "guidance_scale": scale, **third}
            for kind, scale in (_AT_T if third else _FURTHER)
        ]
        tried += [{**move, **guide} for guide in guided]
    for setting in tried:
        problem = sampling_problem(SamplingConfig.model_validate(setting), method.prediction)
        assert not problem, problem
    return tried


def second_stage(best: Setting, num_tokens: int, base_len: int = 512) -> list[Setting]:
    """The best setting of the first stage on grids that are shifted by `SHIFTS`.

    Args:
        num_tokens: image tokens, on which the grid's own shift mu(L) depends.
        base_len: anchor of mu(L).
    """
    even = best["sampler"] != "any-step"
    mu = 0.0 if even else length_shift(num_tokens, base_len=base_len)
    return [{**best, "shift": round(mu + shift, 3)} for shift in SHIFTS]
