"""Checks a training run against everything it says of itself: every byte is read."""

from __future__ import annotations

from pathlib import Path

from selfe.config.stages import first_position
from selfe.json_files import JsonFault
from selfe.run_folder.checkpoint import verify
from selfe.run_folder.checkpoint_state import NAME, CheckpointError
from selfe.run_folder.records import owner_of, read_config
from selfe.sealed_files import read_chained_lines


def problems_of_run(run_dir: Path) -> list[str]:
    """What is wrong with a run's config.json, metrics.jsonl and checkpoints, a sentence each."""
    try:
        config, owner = read_config(run_dir), owner_of(run_dir)
    except ValueError as error:
        return [str(error)]
    problems: list[str] = []
    log = run_dir / "metrics.jsonl"
    if log.exists():
        try:
            for _ in read_chained_lines(log, config.digest, nonfinite=True):
                pass
        except JsonFault as fault:
            problems.append(str(fault))
    for path in checkpoint_folders(run_dir):
        try:
            state = verify(path, owner)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        wanted = first_position(config, state.step)
        if state.samples_seen not in (None, wanted):
            problems.append(
                f"{path} says that {state.samples_seen} samples were seen by iteration "
                f"{state.step}, which are {wanted}"
            )
    return problems


def checkpoint_folders(run_dir: Path) -> list[Path]:
    folders = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in folders if NAME.fullmatch(path.name))


def problems_of_checkpoint(path: Path) -> list[str]:
    """The same of one checkpoint, by itself."""
    try:
        verify(path)
    except CheckpointError as error:
        return [str(error)]
    return []
