"""What the iterations of a run cost in FLOPs, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfe.config.schema import RunConfig
from selfe.config.stages import stage_at, stages_of
from selfe.network.flops import flops_per_image
from selfe.planning.assumptions import NULL_TOKENS
from selfe.planning.memory import CODEC_GEOMETRY, resolutions_of
from selfe.planning.passes import Pass, passes_at


@dataclass(frozen=True)
class CostStage:
    """Iterations of equal cost, `start` <= iteration < `stop`.

    Attributes:
        resolutions: side of the square in pixels -> share of the samples.
    """

    start: int
    stop: int
    batch_size: int
    resolutions: Mapping[int, float]
    flops_per_step: int
    passes: tuple[Pass, ...]

    @property
    def captions(self) -> set[str]:
        """Kinds of captions that differ from image to image: its own, and a fake one."""
        return {each.caption for each in self.passes if each.caption != "null"}


def forward_flops(config: RunConfig, side: int, text_tokens: int) -> int:
    """FLOPs of one forward pass for one square image."""
    downsample = CODEC_GEOMETRY[config.data.codec][1]
    return flops_per_image(config.model.model_dump(), side, side, text_tokens, downsample)


def step_flops(
    config: RunConfig,
    batch_size: int,
    resolutions: Mapping[int, float],
    passes: Sequence[Pass],
    text_tokens: int,
) -> int:
    """FLOPs of one optimiser step on the global batch; the update itself counts nothing."""
    total = 0.0
    for side, share in resolutions.items():
        for each in passes:
            forward = forward_flops(
                config, side, NULL_TOKENS if each.caption == "null" else text_tokens
            )
            total += share * each.share * each.cost * forward * batch_size
    return round(total)


def cost_stages(config: RunConfig, text_tokens: int, first: int = 0) -> tuple[CostStage, ...]:
    """The run from iteration `first` on, cut where batch, resolutions or passes change."""
    end = config.train.iterations
    switch = config.objective.get("aux_from") or 0
    starts = {first, *(stage.start for stage in stages_of(config)), switch}
    cuts = [*sorted(start for start in starts if first <= start < end), end]
    stages = []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        stage, passes = stage_at(config, start), passes_at(config, start)
        mix = resolutions_of(config, stage)
        flops = step_flops(config, stage.batch_size, mix, passes, text_tokens)
        stages.append(CostStage(start, stop, stage.batch_size, dict(mix), flops, passes))
    return tuple(stages)
