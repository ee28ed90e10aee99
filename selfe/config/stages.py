"""Stages of a run: which batch size and which mix of resolutions hold from which iteration on.

Stages are data in the recipe (`train.stages`). Samples are addressed by their position in one
endless stream, so a change of batch size moves no sample to another noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfe.config.schema import RunConfig


@dataclass(frozen=True)
class Stage:
    """Iterations `start` <= iteration < `stop` under the same batch size and mix.

    Attributes:
        first_position: place of the stage's first sample in the run's stream.
        resolutions: resolution family (side of its square in pixels) -> share of the samples; the
            shares add up to 1.
    """

    start: int
    stop: int
    batch_size: int
    first_position: int
    resolutions: Mapping[int, float]


def micro_batch_size(config: RunConfig, part: int) -> int:
    """Samples of one forward and backward pass, where a process has `part` samples of a batch."""
    return min(config.train.micro_batch_size or part, part)


def stages_of(config: RunConfig) -> tuple[Stage, ...]:
    """All stages of a run, in order; a run without `train.stages` has one."""
    train = config.train
    starts = [0, *(stage.start for stage in train.stages)]
    stops = [*starts[1:], train.iterations]
    batch_size, mix = train.batch_size, {config.data.resolution: 1.0}
    stages: list[Stage] = []
    position = 0
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if number:
            given = train.stages[number - 1]
            batch_size = given.batch_size or batch_size
            mix = dict(given.resolutions) or mix
        total = sum(mix.values())
        shares = {side: share / total for side, share in mix.items()}
        stages.append(Stage(start, stop, batch_size, position, shares))
        position += (stop - start) * batch_size
    return tuple(stages)


def stage_at(config: RunConfig, step: int) -> Stage:
    """The stage of an iteration; the last one from its start on."""
    return [stage for stage in stages_of(config) if stage.start <= max(step, 0)][-1]


def first_position(config: RunConfig, step: int) -> int:
    """Samples drawn before iteration `step`: the position of its first sample."""
    stage = stage_at(config, step)
    return stage.first_position + (step - stage.start) * stage.batch_size


def check_stages(config: RunConfig, group_size: int) -> None:
    """Stages in order, inside the run, with batches that divide as every iteration needs them.

    Args:
        group_size: samples that the objective cannot take apart.

    Raises:
        ValueError: in one sentence that names the stage and the key.
    """
    train = config.train
    earlier = 0
    for number, stage in enumerate(train.stages):
        name = f"train.stages[{number}]"
        if stage.start <= earlier:
            raise ValueError(
                f"{name}: start = {stage.start} must come after {earlier}, the start of the stage "
                "before it"
            )
        if stage.start >= train.iterations:
            raise ValueError(
                f"{name}: start = {stage.start} must lie inside the run of train.iterations = "
                f"{train.iterations}; a run without later stages has train.stages=[]"
            )
        for side, share in stage.resolutions.items():
            if side < 1 or not 0 < share < math.inf:
                raise ValueError(
                    f"{name}: resolutions must map sides in pixels to positive shares, got "
                    f"{side}: {share:g}"
                )
        earlier = stage.start
    check_batches(config, group_size)


def check_batches(config: RunConfig, group_size: int, processes: int = 1) -> None:
    """Every stage's batch must divide into equal parts, micro-batches and groups.

    Args:
        group_size: samples that the objective cannot take apart.
        processes: parts of a batch.

    Raises:
        ValueError: in one sentence that names what does not divide.
    """
    if group_size < 1:
        raise ValueError(f"objective.group_size must be at least 1, got {group_size}")
    for number, stage in enumerate(stages_of(config)):
        where = f"train.stages[{number - 1}].batch_size" if number else "train.batch_size"
        batch = f"{where} = {stage.batch_size}"
        if stage.batch_size % processes:
            raise ValueError(f"{batch} does not divide over {processes} processes")
        part = stage.batch_size // processes
        if processes > 1:
            batch += f" over {processes} processes, which leaves {part} samples each"
        micro = micro_batch_size(config, part)
        if part % micro:
            raise ValueError(f"train.micro_batch_size = {micro} must divide {batch}")
        if micro % group_size:
            raise ValueError(
                f"micro-batches of {micro} do not divide into groups of {group_size} "
                f"(objective.group_size); change train.micro_batch_size or {batch}"
            )
