"""Checkpoints that survive being killed at any instant.

A checkpoint is a folder `step-00001000` with the parts model, ema and optimizer, and state.json,
which holds the sha256 of every other file. A part is one safetensors file or, in sharded runs, a
folder of them (`selfe.run_folder.checkpoint_sharded`); ema is the file ema.safetensors in both. The
folder is written under a dotted name, flushed, and renamed: it is there whole or not at all.
Milestones are never pruned."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from safetensors import SafetensorError

from selfe.files import file_sha256, fsync_directory, naming, write_atomically
from selfe.run_folder.checkpoint_state import (
    NAME,
    PARTS,
    STATE,
    CheckpointError,
    CheckpointState,
    Owner,
    check_owner,
    read_state,
    state_document,
)
from selfe.temporaries import temporary as temporary_name

if TYPE_CHECKING:  # lists of runs start without torch
    import torch
    from torch import Tensor, nn

Parts: TypeAlias = "Mapping[str, Mapping[str, Tensor]]"
"""Part -> name -> tensor."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int
    milestone: bool

    @property
    def digest(self) -> str:
        """Identity of the weights that are scored: sha256 of ema.safetensors."""
        return read_state(self.path).sha256["ema.safetensors"]


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


CONDITIONAL = "conditional"
"""Entry of a parameter's average that only the loss evaluates with. It lies with Adam's moments:
training alone needs it, and the files that others read stay as they are."""


def collect_parts(
    model: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    conditional: nn.Module | None = None,
) -> Parts:
    """All tensors of a training state; those of the optimiser are named by parameter and entry."""
    import torch

    moments = {
        f"{name}/{entry}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }
    if conditional is not None:
        average = conditional.state_dict()
        moments |= {f"{name}/{CONDITIONAL}": tensor for name, tensor in average.items()}
    parts = (model.state_dict(), ema.state_dict(), moments)
    return dict(zip(PARTS, parts, strict=True))


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file of detached copies on the host.

    Raises:
        OSError: if it cannot be written; safetensors reports a full disk by another exception.
    """
    from safetensors.torch import save_file

    try:
        with naming(path):
            save_file(_plain(tensors), path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from None


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    milestone: bool,
    conditional: nn.Module | None = None,
) -> Path:
    """`write_checkpoint` of a training state."""
    record = {**state, "step": step, "milestone": milestone}
    return write_checkpoint(folder, collect_parts(model, ema, optimizer, conditional), record)


def write_checkpoint(folder: Path, parts: Parts, record: Mapping[str, Any]) -> Path:
    """Write `folder/step-XXXXXXXX` atomically and return it.

    Args:
        record: content of state.json beside the checksums, with "step" and "milestone".

    Raises:
        OSError: if the disk is full or the folder not writable; nothing half-written stays behind.
    """
    temporary = prepare(folder, record["step"])
    try:
        digests = {}
        for name, tensors in parts.items():
            path = temporary / f"{name}.safetensors"
            write_tensors(tensors, path)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            digests[path.name] = file_sha256(path)
        return commit(temporary, {**record, "sha256": digests})
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def prepare(folder: Path, step: int) -> Path:
    """An empty folder under a dotted name, for `commit` to rename."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(folder / f"step-{step:08d}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def commit(temporary: Path, record: Mapping[str, Any]) -> Path:
    """Turn a folder whose files are flushed into the checkpoint of `record["step"]`.

    Args:
        record: state.json, with the sha256 of every file by its name within the folder.
    """
    folder = temporary.parent
    final = folder / f"step-{record['step']:08d}"
    write_atomically(temporary / STATE, state_document(record))
    replaced = temporary_name(final, "old")
    if final.exists():
        # the same step again, after a resume from an earlier one: a broken one is replaced
        os.rename(final, replaced)
    os.rename(temporary, final)
    fsync_directory(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def verify(path: Path, owner: Owner | None = None) -> CheckpointState:
    """Check every file against its checksum and return the state.

    safetensors loads flipped bytes without complaint: the checksum is what notices them.

    Args:
        owner: the run that it must belong to.

    Raises:
        CheckpointError: names the first file that is missing, differs or does not belong there.
    """
    state = read_state(path)
    if owner is not None:
        check_owner(path, state, owner)
    for part in PARTS:
        if not any(re.fullmatch(rf"{part}(\.safetensors|/.+)", name) for name in state.sha256):
            raise CheckpointError(f"{path}: {STATE} lists no file of the {part}")
    for name, recorded in state.sha256.items():
        try:
            actual = file_sha256(path / name)
        except OSError as error:
            raise CheckpointError(f"{path / name} cannot be read ({error.strerror})") from None
        if actual != recorded:
            raise CheckpointError(f"{path / name} is damaged: its sha256 is not the recorded one")
    there = {str(p.relative_to(path)) for p in path.rglob("*.safetensors")}
    if others := sorted(there - state.sha256.keys()):
        raise CheckpointError(f"{path / others[0]} does not belong to this checkpoint: remove it")
    return state


def list_checkpoints(folder: Path, without: Collection[str] = ()) -> list[Checkpoint]:
    """All checkpoints whose state can be read, by rising step; contents are not verified.

    Args:
        without: names of folders that are left out.
    """
    found = []
    for path in sorted(folder.glob("step-*")):
        if NAME.fullmatch(path.name) and path.name not in without:
            try:
                state = read_state(path)
            except CheckpointError:
                continue
            found.append(Checkpoint(path, state.step, state.milestone))
    return found


def newest_path(folder: Path) -> Path | None:
    """The checkpoint of the highest iteration, whatever is in it."""
    return max((p for p in folder.glob("step-*") if NAME.fullmatch(p.name)), default=None)


def newest_valid(folder: Path, owner: Owner | None = None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that passes `verify`, and why newer ones were passed over."""
    problems: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if NAME.fullmatch(path.name):
            try:
                verify(path, owner)
            except CheckpointError as error:
                problems.append(str(error))
            else:
                return path, problems
    return None, problems


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file; anything else, a pickle for example, is refused and never executed.

    Raises:
        CheckpointError: if the file is not safetensors.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error})") from None


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Strict load.

    Raises:
        CheckpointError: lists missing and unexpected keys, wrong shapes and types.
    """
    from selfe.published_weights import other_kinds

    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    kinds = other_kinds(expected, tensors)
    if missing or unexpected or shapes or kinds:
        problems = [
            f"{title}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
            for title, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("shapes", shapes),
                ("whole numbers in place of fractions", kinds),
            )
            if names
        ]
        raise CheckpointError(f"{source} does not fit this network; {'; '.join(problems)}")
    module.load_state_dict(dict(tensors))


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    source: object,
) -> None:
    """Restore Adam's moments by parameter name.

    Raises:
        CheckpointError: if a parameter's state is missing, left over, or of another shape.
    """
    names = dict(model.named_parameters())
    seen = {key.rpartition("/")[0] for key in tensors}
    if tensors and seen != names.keys():
        raise CheckpointError(
            f"{source} does not fit this network; parameters without state: "
            f"{sorted(names.keys() - seen)[:8]}, state without parameter: "
            f"{sorted(seen - names.keys())[:8]}"
        )
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        parameter = names[name]
        if entry != "step" and tensor.shape != parameter.shape:
            raise CheckpointError(f"{source}: {key} has shape {tuple(tensor.shape)}")
        device = "cpu" if entry == "step" and not parameter.is_cuda else parameter.device
        optimizer.state[parameter][entry] = tensor.clone().to(device)
