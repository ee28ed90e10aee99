"""How many processes a training should use on this machine. Plans ask, too, without torch."""

from __future__ import annotations

import contextlib
from pathlib import Path

from selfe.config.resolve import objective_of_section
from selfe.config.schema import RunConfig
from selfe.config.stages import check_batches, stages_of
from selfe.distributed.environment import launched
from selfe.network.flops import parameter_counts
from selfe.run_folder.records import read_record

SMALLEST_SHARE = 32
"""Samples of a batch a process must get: with fewer it waits for Python again."""


LARGEST_NETWORK = 100_000_000
"""Parameters up to which every process gets a copy of its own; matrix products of larger networks
keep several threads busy."""


def usable_workers(config: RunConfig, device: str, threads: int | None = None) -> int:
    """Processes worth training with on `device`: no more than `threads`.

    One where a launcher has already decided, or where there is a GPU.

    Args:
        threads: that the processes share; None for as many as torch would use.
    """
    if device != "cpu" or launched():
        return 1
    if parameter_counts(config.model.model_dump())[0] > LARGEST_NETWORK:
        return 1
    smallest_batch = min(stage.batch_size for stage in stages_of(config))
    objective = objective_of_section(config.method, config.objective, config.times)
    group_size = objective.group_size
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    for count in range(min(threads, smallest_batch // SMALLEST_SHARE), 1, -1):
        with contextlib.suppress(ValueError):
            check_batches(config, group_size, count)
            return count
    return 1


def workers_for(config: RunConfig, run_dir: Path, device: str) -> int:
    """`usable_workers` of a new run; as many as it began with where there is one to be resumed.

    Sums over other parts of the batch are rounded differently.
    """
    usable = usable_workers(config, device)
    if device != "cpu" or launched() or not (run_dir / "config.json").exists():
        return usable
    record = read_record(run_dir)
    return record.processes if record.shard == 1 else 1
