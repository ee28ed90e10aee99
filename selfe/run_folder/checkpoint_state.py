"""state.json of a checkpoint: what it is, of which run, at which iteration, and what its files are.

It is sealed (`selfe.sealed_files`), so that a flipped digit is noticed, and it is compared with
the name of its folder and with the run's config.json, so that a renamed or swapped checkpoint is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from selfe.json_files import STRICT, JsonFault
from selfe.sealed_files import digest_of, read_sealed, seal

PARTS = ("model", "ema", "optimizer")
STATE = "state.json"

NAME = re.compile(r"step-(\d{8})")
"""Of a checkpoint's folder."""
FileName = Annotated[
    str, StringConstraints(pattern=r"^(model|ema|optimizer)(\.safetensors|/[^/]+)$")
]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class CheckpointError(ValueError):
    """A checkpoint that must not be used; the message names it and says why."""


class CheckpointState(BaseModel):
    """Content of state.json.

    Attributes:
        step: iterations done.
        milestone: whether it is never pruned.
        sha256: of every file, by its name within the folder.
        config_digest: `RunConfig.digest` of the run.
        run: `Owner.run`; "" where it is not known.
        skipped: iterations without an update, in a row, up to this one.
        samples_seen: samples drawn by then; None where it is not known.
    """

    model_config = STRICT

    step: int = Field(ge=0, lt=10**8)
    milestone: bool
    sha256: dict[FileName, Sha256]
    config_digest: str = ""
    run: str = ""
    skipped: int = Field(0, ge=0)
    samples_seen: int | None = Field(None, ge=0)


@dataclass(frozen=True)
class Owner:
    """The run that a checkpoint must belong to.

    Attributes:
        folder: of the run, for messages.
        config_digest: of its configuration.
        run: identity of the run, data included; "" where it is not known.
    """

    folder: Path
    config_digest: str
    run: str = ""


def run_identity(config_digest: str, data: Mapping[str, str]) -> str:
    """Identity of what a run computes: its configuration and its data (`BatchSource.facts`)."""
    return digest_of(["run", config_digest, dict(data)])


def state_document(record: Mapping[str, Any]) -> str:
    """The text of state.json."""
    return seal("checkpoint", record)


def read_state(path: Path) -> CheckpointState:
    """state.json of the checkpoint folder `path`.

    Raises:
        CheckpointError: if it is missing, malformed or changed, or of another iteration than the
            folder's name says.
    """
    try:
        state = read_sealed(path / STATE, CheckpointState, "checkpoint")
    except JsonFault as fault:
        raise CheckpointError(f"{path}: {STATE} is damaged ({fault.detail})") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {STATE} cannot be read ({error.strerror})") from None
    named = NAME.fullmatch(path.name)
    if named and int(named[1]) != state.step:
        raise CheckpointError(
            f"{path} is the checkpoint of iteration {state.step}: its folder was renamed or "
            f"{STATE} changed"
        )
    return state


def check_owner(path: Path, state: CheckpointState, owner: Owner) -> None:
    """Raise CheckpointError where a checkpoint lies in the folder of another run than its own."""
    if state.config_digest and state.config_digest != owner.config_digest:
        raise CheckpointError(
            f"{path} is not a checkpoint of the run {owner.folder}: it was trained with another "
            "configuration"
        )
    if state.run and owner.run and state.run != owner.run:
        raise CheckpointError(
            f"{path} is not a checkpoint of the run {owner.folder}: it was trained on other data"
        )
