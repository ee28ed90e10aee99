"""Finds the files of a model: a local folder, the hub's cache, or, last, the network.

A warm cache is never checked against the network, so an evaluation runs the same with and without a
connection. What is missing is named, with the licence that guards it and the command that fetches
it. Only `huggingface_hub` is imported here: a cold cache is reported before the heavy libraries
load.

Longer than other files: every way in which files can be missing is told apart in one place.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfe.files import file_sha256
from selfe.json_files import JsonFault, read_json

COMMIT = re.compile(r"[0-9a-f]{40}")
CONTACT_TIMEOUT_S = 5.0
NOWHERE = Path("/nonexistent")
CONFIG_NAMES = (
    "config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
)
LFS_POINTER = b"version https://git-lfs"
"""What a clone without Git LFS has in place of a file."""
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
)
"""Files that hold a tokenizer's words: one of these sets must be there."""
WITHOUT_WEIGHTS = ("Scheduler", "Tokenizer", "TokenizerFast", "Processor", "FeatureExtractor")

FindMissing = Callable[[Path], list[str]]


class MissingFilesError(ValueError):
    """Files of a model are neither on disk nor available from the hub."""


@dataclass(frozen=True)
class Source:
    """Where the files of a model lie, and which version they are.

    Attributes:
        folder: holds the files.
        repository: hub id, or "" for a user's own folder.
        revision: commit hash, or "" for a user's own folder.
    """

    folder: Path
    repository: str = ""
    revision: str = ""

    @property
    def digest(self) -> str:
        """Identity of the weights: repository@commit, else the sha256 of all files."""
        if self.repository:
            return f"{self.repository}@{self.revision}"
        return "sha256:" + folder_sha256(self.folder)


def locate(
    repository: str,
    revision: str,
    *,
    find_missing: FindMissing,
    download: Callable[[str], Any],
    patterns: Sequence[str] = (),
    cache_dir: str | None = None,
    licence: str = "",
    gate: str = "",
) -> Source:
    """The folder with a complete snapshot of `repository` at `revision`.

    Args:
        repository: hub id.
        revision: branch, tag or commit.
        find_missing: lists what a snapshot folder lacks, relative to it; [] when complete.
        download: fetches into the cache, given the revision; called only when online.
        patterns: the files wanted, for the command in errors.
        cache_dir: the hub cache; None means the usual one.
        licence, gate: quoted in errors.

    Raises:
        MissingFilesError: when files are missing and cannot be fetched; names repository, file,
        licence
            gate and command.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Its first base is HTTPError of the HTTP library that this huggingface_hub uses.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]

    def refuse(missing: Sequence[str], why: str) -> MissingFilesError:
        return MissingFilesError(
            explain(repository, revision, missing, why, patterns, cache_dir, licence, gate)
        )

    folder = cached_snapshot(repository, revision, cache_dir)
    missing = find_missing(folder or NOWHERE)
    if folder is not None and not missing:
        return Source(folder, repository, folder.name)
    if constants.HF_HUB_OFFLINE:
        raise refuse(missing, "and the hub is switched off (HF_HUB_OFFLINE)")
    try:
        contact_hub(repository, revision)
    except GatedRepoError:
        raise refuse(missing, "and the hub does not grant access to this account") from None
    except RevisionNotFoundError:
        raise ValueError(f"{repository} has no revision {revision!r} on the hub") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"{repository} does not exist on the hub, or is private; check the name"
        ) from None
    except (http_error, OSError) as error:
        raise refuse(missing, f"and the hub cannot be reached ({type(error).__name__})") from None
    try:
        download(revision)
    except GatedRepoError:
        raise refuse(missing, "and the hub does not grant access to this account") from None
    except (http_error, ConnectionError, LocalEntryNotFoundError) as error:
        raise refuse(missing, f"and its download broke off ({type(error).__name__})") from error
    folder = cached_snapshot(repository, revision, cache_dir)
    missing = find_missing(folder or NOWHERE)
    if folder is None or missing:
        raise refuse(missing, "and the hub does not offer it as safetensors")
    return Source(folder, repository, folder.name)


def contact_hub(repository: str, revision: str) -> None:
    """One short question to the hub, so that a dead connection is noticed in seconds."""
    from huggingface_hub import HfApi

    HfApi().model_info(repository, revision=revision, timeout=CONTACT_TIMEOUT_S)


def cached_snapshot(repository: str, revision: str, cache_dir: str | None) -> Path | None:
    """The cached snapshot folder of a branch, tag or commit, or None. Never asks the network."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = cache_dir or constants.HF_HUB_CACHE
    try:
        found = snapshot_download(
            repository, revision=revision, cache_dir=cache, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found)


def explain(
    repository: str,
    revision: str,
    missing: Sequence[str],
    why: str,
    patterns: Sequence[str],
    cache_dir: str | None,
    licence: str,
    gate: str,
) -> str:
    """One sentence on what is missing, one on the gate, one with the command."""
    command = f"hf download {repository}"
    if revision != "main":
        command += f" --revision {revision}"
    if patterns:
        command += " --include " + " ".join(f"'{pattern}'" for pattern in patterns)
    if cache_dir:
        command += f" --cache-dir {cache_dir}"
    parts = [f"{repository}: {missing[0]} is not in the local cache {why}."]
    if gate:
        parts.append(
            f"The repository is gated ({licence}): {gate}, then sign in with `hf auth login`."
        )
    elif licence:
        parts.append(f"No gate (licence: {licence}).")
    parts.append(f"Fetch it with: {command}")
    return " ".join(parts)


def pipeline_gaps(variant: str = "", skip: Sequence[str] = ()) -> FindMissing:
    """A `find_missing` for a folder in diffusers' layout, weights as safetensors.

    Args:
        variant: "fp16" and such, "" for the plain weight files.
        skip: components that are not loaded.
    """

    def find_missing(folder: Path) -> list[str]:
        index = folder / "model_index.json"
        if not index.is_file():
            return ["model_index.json"]
        components = read_map(index)
        gaps: list[str] = []
        for name, kind in components.items():
            if name.startswith("_") or name in skip or not is_component(kind):
                continue
            gaps += component_gaps(folder, name, str(kind[1]), variant)
        return gaps

    return find_missing


def read_map(path: Path) -> dict[str, Any]:
    """A JSON map of a published model. Raises ValueError where the file is damaged; names it."""
    try:
        return read_json(path, dict[str, Any], nonfinite=True)
    except JsonFault as fault:
        raise ValueError(f"{path} is damaged ({fault.detail}): fetch it again") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None


def is_component(kind: Any) -> bool:
    return isinstance(kind, list) and len(kind) == 2 and kind[0] is not None and kind[1] is not None


def component_gaps(folder: Path, name: str, class_name: str, variant: str = "") -> list[str]:
    """What `folder/name` lacks to be loaded as a `class_name`."""
    part = folder / name
    if not any((part / config).is_file() for config in CONFIG_NAMES):
        wanted = "scheduler_config.json" if class_name.endswith("Scheduler") else "config.json"
        return [f"{name}/{wanted}"]
    if class_name.endswith(("Tokenizer", "TokenizerFast")):
        return vocabulary_gaps(part, name)
    if class_name.endswith(WITHOUT_WEIGHTS):
        return []
    return weight_gaps(part, name, variant)


def vocabulary_gaps(part: Path, name: str) -> list[str]:
    """The missing file of a tokenizer's words, [] where one of the known sets is there."""
    for files in VOCABULARIES:
        there = [(part / file).is_file() for file in files]
        if all(there):
            return []
        if any(there):
            return [f"{name}/{files[there.index(False)]}"]
    return [f"{name}/{VOCABULARIES[0][0]}"]


def weight_gaps(part: Path, name: str, variant: str = "") -> list[str]:
    """Missing safetensors files of one model folder: every shard of the index, or the single
    file.
    """
    indices = [
        path
        for path in part.glob("*.safetensors.index*.json")
        if (variant in path.name.split(".")) == bool(variant) and path.is_file()
    ]
    if indices:
        shards = read_map(indices[0]).get("weight_map")
        if not isinstance(shards, dict):
            raise ValueError(f"{indices[0]} is damaged (it has no weight_map): fetch it again")
        shard = set(map(str, shards.values()))
        return [f"{name}/{shard}" for shard in sorted(shard) if not (part / shard).is_file()]
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    singles = [path for path in part.glob(f"*{ending}") if path.is_file()]
    if not variant:
        singles = [path for path in singles if path.name.count(".") == 1]
    return [] if singles else [f"{name}/*{ending}"]


def locate_pipeline(
    repository: str,
    *,
    revision: str,
    variant: str,
    cache_dir: str | None,
    licence: str = "",
    gate: str = "",
    skip: Sequence[str] = (),
) -> Source:
    """`locate` for a repository in diffusers' layout."""

    def download(wanted: str) -> None:
        from diffusers import DiffusionPipeline

        DiffusionPipeline.download(
            repository,
            revision=wanted,
            variant=variant or None,
            use_safetensors=True,
            cache_dir=cache_dir,
            **dict.fromkeys(skip),
        )

    return locate(
        repository,
        revision,
        find_missing=pipeline_gaps(variant, skip),
        download=download,
        patterns=[
            "model_index.json",
            *("*/*.json", "*/*.txt", "*/*.model"),
            f"*/*.{variant}.safetensors" if variant else "*/*.safetensors",
        ],
        cache_dir=cache_dir,
        licence=licence,
        gate=gate,
    )


def locate_files(
    repository: str,
    filenames: Sequence[str],
    *,
    revision: str,
    cache_dir: str | None,
    licence: str = "",
    gate: str = "",
) -> Source:
    """`locate` for named files of any repository."""

    def download(wanted: str) -> None:
        from huggingface_hub import snapshot_download

        snapshot_download(
            repository, revision=wanted, cache_dir=cache_dir, allow_patterns=list(filenames)
        )

    return locate(
        repository,
        revision,
        find_missing=lambda folder: [name for name in filenames if not (folder / name).is_file()],
        download=download,
        patterns=filenames,
        cache_dir=cache_dir,
        licence=licence,
        gate=gate,
    )


def open_folder(path: str | os.PathLike[str], find_missing: FindMissing) -> Source:
    """A user's own folder, which may itself be a snapshot of the hub's cache.

    Raises:
        MissingFilesError: naming the first file that is not there.
    """
    folder = Path(path)
    missing = find_missing(folder)
    if missing:
        raise MissingFilesError(f"{folder}: {missing[0]} is missing, so no model can be loaded")
    whole = folder.resolve()
    if COMMIT.fullmatch(whole.name) and whole.parent.name == "snapshots":
        owner = whole.parent.parent.name.removeprefix("models--").replace("--", "/")
        return Source(folder, owner, whole.name)
    return Source(folder)


def folder_sha256(folder: Path) -> str:
    """sha256 over the names and contents of all files below `folder`, in the order of their
    names.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(folder).as_posix()
            total.update(f"{name}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()
