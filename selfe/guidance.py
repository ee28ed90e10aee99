"""Classifier-free guidance: linear and energy-preserving, on V or on x0.

The unconditional and conditional predictions are V at one (x_t, t, s), and V is returned whatever
is guided. Self-E's V at s < t already carries a difference of the two, which self-evaluation put
there with the weight lambda; guidance multiplies it by omega once more. `Guidance.time` = "t" takes
the difference where the network has learnt from data alone, at s = t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from selfe.path import expand_time, sample_head, sample_norm

GuidanceKind = Literal["none", "linear", "ep-v", "ep-x0"]
GuidanceTime = Literal["s", "t"]


def linear_guidance(null: Tensor, cond: Tensor, scale: float) -> Tensor:
    """u = u_null + omega (u_cond - u_null); omega = 1 is the conditional prediction."""
    return null + scale * (cond - null)


def energy_preserving_guidance(null: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Linear guidance, scaled per sample to the energy (sum of squares) of `cond`.

    Zhang et al., EP-CFG (2024), which the paper uses with omega = 5 (Sec. 3.4).
    """
    guided = linear_guidance(null, cond, scale)
    # a guided prediction of norm zero has no direction to scale: the clamp keeps it zero
    ratio = sample_norm(cond) / sample_norm(guided).clamp_min(1e-12)
    return guided * expand_time(ratio, guided)


@dataclass(frozen=True)
class Guidance:
    """Guidance kind and scale omega. With "none", or at scale 1, one network call a step is enough.

    "ep-v" is minFM's choice and the default of the paper recipes, "ep-x0" acts on the sample head.

    Attributes:
        time: where the difference of the predictions is taken. "s": at the s of the step, V(t, s,
            c) - V(t, s, null), two network calls. "t": at s = t, so that what is guided is V(t, s,
            c) and its counterpart V(t, s, c) - (V(t, t, c) - V(t, t, null)), three network calls.
    """

    kind: GuidanceKind = "none"
    scale: float = 1.0
    time: GuidanceTime = "s"

    @property
    def needs_null(self) -> bool:
        return self.kind != "none" and self.scale != 1.0

    @property
    def calls(self) -> int:
        """Network calls of a step; a step at s = t has both predictions already and needs two."""
        return (3 if self.time == "t" else 2) if self.needs_null else 1

    def combine(self, null: Tensor, cond: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Guided V from the two predictions; all (B, ...), `t` (B,)."""
        if self.kind == "none":
            return cond
        if self.kind == "linear":
            # linear guidance on V and on x0 = x_t - t V are the same V
            return linear_guidance(null, cond, self.scale)
        if self.kind == "ep-v":
            return energy_preserving_guidance(null, cond, self.scale)
        if self.kind == "ep-x0":
            x0 = energy_preserving_guidance(
                sample_head(x_t, null, t), sample_head(x_t, cond, t), self.scale
            )
            return (x_t - x0) / expand_time(t, x_t)
        raise ValueError(f"unknown guidance {self.kind!r}: use none, linear, ep-v or ep-x0")
