"""Folders of training runs: finding them, reading their configuration, finding their
checkpoints."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from selfe.config.resolve import validate
from selfe.config.schema import RunConfig
from selfe.files import write_atomically
from selfe.json_files import JsonFault, read_json
from selfe.run_folder.checkpoint import Checkpoint, list_checkpoints, newest_path
from selfe.run_folder.checkpoint_state import (
    NAME,
    CheckpointError,
    Owner,
    check_owner,
    read_state,
    run_identity,
)
from selfe.sealed_files import read_sealed, seal

CONFIG = "config.json"


class RunRecord(BaseModel):
    """Content of config.json; facts that nothing here reads are kept, too.

    Attributes:
        config: the resolved configuration.
        digest: `RunConfig.digest`, compared at every reading.
        data: what the data source said of itself when the run was started (`BatchSource.facts`).
        init_from: "RUN@STEP" that the run was forked from.
        precision: computed in.
        processes, shard: layout at the start.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    config: dict[str, Any]
    digest: str = ""
    data: dict[str, str] = {}
    init_from: str | None = None
    precision: str | None = None
    command: str = ""
    provenance: dict[str, Any] = {}
    processes: int = Field(1, ge=1)
    shard: int = Field(1, ge=1)


if TYPE_CHECKING:  # lists of runs start without torch
    from selfe.encoders.base import LatentCodec, TextEncoder


def write_config(run_dir: Path, config: RunConfig, **facts: object) -> None:
    """config.json: the resolved configuration, its digest, and how the run was started; sealed."""
    record = {
        "config": config.model_dump(mode="json"),
        "digest": config.digest,
        **facts,
    }
    write_atomically(run_dir / CONFIG, seal("run", record))


def read_record(run_dir: Path) -> RunRecord:
    """config.json of a run.

    Raises:
        ValueError: if it is missing, malformed, or was changed after it was written.
    """
    path = run_dir / CONFIG
    try:
        record = read_sealed(path, RunRecord, "run", nonfinite=True)
    except JsonFault as fault:
        raise ValueError(f"{path} is damaged ({fault.detail})") from None
    except FileNotFoundError:
        raise ValueError(f"no run at {run_dir}: {CONFIG} is missing") from None
    if not record.config:
        raise ValueError(f"{path} is damaged (it holds no configuration)")
    return record


def read_config(run_dir: Path) -> RunConfig:
    """The resolved configuration of a run, whose digest is the recorded one.

    Raises:
        ValueError: if the folder holds no run, or its config.json is damaged.
    """
    path, record = run_dir / CONFIG, read_record(run_dir)
    try:
        config = validate(record.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if record.digest and config.digest != record.digest:
        raise ValueError(
            f"{path} is damaged or of another version of this program: the digest of its "
            f"configuration is {config.digest[:12]}, and {record.digest[:12]} was recorded"
        )
    return config


def owner_of(run_dir: Path) -> Owner | None:
    """What the checkpoints of a run must say of themselves; None where there is no config.json.

    Raises:
        ValueError: see `read_record`.
    """
    if not (run_dir / CONFIG).exists():
        return None
    record = read_record(run_dir)
    return Owner(run_dir, record.digest, run_identity(record.digest, record.data))


def recorded_data(run_dir: Path) -> dict[str, str]:
    """What the data source said of itself when the run was started (`BatchSource.facts`)."""
    return read_record(run_dir).data


def check_data(run_dir: Path, facts: Mapping[str, str]) -> None:
    """Raise ValueError if a run would be resumed on other data than it was started with."""
    recorded = recorded_data(run_dir)
    for name, value in facts.items():
        if recorded.get(name, value) != value:
            raise ValueError(
                f"{run_dir} was started on another {name}: resume it with the data.path it had, "
                "or give the new run another --name"
            )


def check_encoders(run_dir: Path, codec: LatentCodec, text: TextEncoder) -> None:
    """Raise ValueError if images would be drawn with other encoders than those of the run's latents
    and features."""
    recorded = recorded_data(run_dir)
    for name, encoder in (("codec", codec), ("text", text)):
        if recorded.get(name, encoder.digest) != encoder.digest:
            raise ValueError(
                f"{run_dir} was trained on features of the {name} {recorded[name]}, not of "
                f"{encoder.digest}: set data.revision and data.text_tokens as they were"
            )


def find_checkpoint(run_dir: Path, step: int | None = None) -> Checkpoint:
    """The newest checkpoint of a run, or the one at `step`; its files are not read yet.

    Raises:
        ValueError: if there is none, listing what there is; if it, or a newer one than those that
            can be read, is damaged or another run's.
    """
    folder = run_dir / "checkpoints"
    newest = newest_path(folder)
    if step is None and newest is not None:
        step = _step_of(newest)
    path = folder / f"step-{step or 0:08d}"
    if step is None or not path.is_dir():
        steps = ", ".join(str(c.step) for c in list_checkpoints(folder)) or "none"
        wanted = "no checkpoint yet" if step is None else f"no checkpoint at iteration {step}"
        raise ValueError(f"{run_dir} has {wanted} (available: {steps})")
    try:
        state = read_state(path)
        if (owner := owner_of(run_dir)) is not None:
            check_owner(path, state, owner)
    except CheckpointError as error:
        before = [c.step for c in list_checkpoints(folder) if c.path != path]
        if path != newest or not before:
            raise
        raise CheckpointError(
            f"{path} is damaged: `selfe-bench train --resume` continues from the one before, which "
            f"can be named as {run_dir}@{before[-1]} too ({error})"
        ) from None
    return Checkpoint(path, state.step, state.milestone)


def _step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def find_runs(runs_dir: Path) -> list[Path]:
    """Folders below `runs_dir`, at any depth, that hold a training run, sorted by path.

    Hidden folders and what lies inside a run are not searched.
    """
    found: list[Path] = []
    searched: set[str] = set()
    for place, folders, files in os.walk(runs_dir, followlinks=True):
        real = os.path.realpath(place)
        if real in searched:  # a link that leads back
            folders.clear()
            continue
        searched.add(real)
        if CONFIG in files and is_run(Path(place)):
            found.append(Path(place))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether config.json is of a run, damaged perhaps, and not that of an exported network."""
    try:
        record = read_json(folder / CONFIG, dict[str, Any], nonfinite=True)
    except (OSError, ValueError):
        return True  # reading it says what is wrong
    return "config" in record or (folder / "checkpoints").is_dir()


def run_names(runs: Sequence[Path], runs_dir: Path) -> dict[Path, str]:
    """The name of each run: its folder's name, or its path below `runs_dir` where several share
    that name."""
    counts = Counter(path.name for path in runs)
    return {
        path: path.name if counts[path.name] == 1 else path.relative_to(runs_dir).as_posix()
        for path in runs
    }


def unknown_run(text: str, runs_dir: Path, others: Sequence[str] = (), most: int = 12) -> str:
    """The message for a name that no run has: the nearest name, and the names of all runs.

    Args:
        others: further names that would have been right, of models for example.
    """
    names = list(run_names(find_runs(runs_dir), runs_dir).values())
    known = [*names, *others]
    name = text.rpartition("@")[0] if text.rpartition("@")[2].isdigit() else text
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:most]) or "none"
    if names[most:]:
        listed += f" and {len(names) - most} more (selfe-bench ls runs)"
    kind = "run or model" if others else "run"
    tail = f"; models: {', '.join(others)}, or diffusers:ID for any pipeline" if others else ""
    return f"no {kind} {text!r}{hint} (runs in {runs_dir}: {listed}{tail})"


def is_finished(run_dir: Path, config: RunConfig) -> bool:
    found = list_checkpoints(run_dir / "checkpoints")
    return bool(found) and found[-1].step >= config.train.iterations


def parse_run(text: str, runs_dir: Path) -> tuple[Path, int | None] | None:
    """RUN or RUN@STEP: a folder, or the name of a run anywhere below `runs_dir`.

    A name may have the last folders of its path before it, as in "quickstart/shapes-quick-fm".

    Returns:
        The run's folder, and the iteration if one was given; None where there is no such run.

    Raises:
        ValueError: if several runs have that name; lists them.
    """
    name, at, step = text.rpartition("@")
    forms: list[tuple[str, int | None]] = [(text, None)]
    if at and step.isdecimal():
        forms.insert(0, (name, int(step)))
    for path_text, number in forms:
        for folder in (Path(path_text), runs_dir / path_text):
            if (folder / CONFIG).is_file():
                return folder, number
    runs = find_runs(runs_dir)
    for path_text, number in forms:
        parts = Path(path_text).parts
        named = [run for run in runs if parts and run.parts[-len(parts) :] == parts]
        if len(named) > 1:
            listed = ", ".join(str(run) for run in named)
            raise ValueError(f"{path_text!r} names {len(named)} runs: give one of {listed}")
        if named:
            return named[0], number
    return None


def require_run(text: str, runs_dir: Path) -> tuple[Path, int | None]:
    """`parse_run`, or a ValueError that says which runs there are."""
    found = parse_run(text, runs_dir)
    if found is None:
        raise ValueError(unknown_run(text, runs_dir))
    return found


def milestone_steps(run_dir: Path) -> list[int | None]:
    """Iterations of a run's milestones.

    Raises:
        CheckpointError: if a checkpoint is damaged: it may be one.
    """
    folders = [p for p in (run_dir / "checkpoints").glob("step-*") if NAME.fullmatch(p.name)]
    states = [read_state(path) for path in sorted(folders)]
    return [state.step for state in states if state.milestone]
