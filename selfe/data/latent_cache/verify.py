"""Checks a latent cache against its checksums: every byte of every file is read."""

from __future__ import annotations

from pathlib import Path

from selfe.data.latent_cache.index import (
    CacheIndex,
    damaged_files,
    read_index,
    read_shard_record,
    shard_folder,
)
from selfe.data.latent_cache.prepare import Preparation
from selfe.files import file_sha256
from selfe.json_files import JsonFault
from selfe.sealed_files import read_sealed


def problems_of_cache(root: Path) -> list[str]:
    """What is wrong with a finished cache, a sentence each."""
    try:
        index = read_index(root)
    except ValueError as error:
        return [str(error)]
    again = f"run the command in {root / 'prepare.json'} again with --verify"
    problems = [
        f"{path} is damaged or another file's: its sha256 is not the recorded one: {again}"
        for path in damaged_files(root, index)
    ]
    prompts = root / "prompts.safetensors"
    if not prompts.is_file() or file_sha256(prompts) != index.prompts_sha256:
        problems.append(f"{prompts} is missing or damaged: {again}")
    try:
        read_sealed(root / "prepare.json", Preparation, "preparation")
    except FileNotFoundError:
        pass  # of no use to those who read the cache
    except JsonFault as fault:
        problems.append(f"{root / 'prepare.json'} is damaged ({fault.detail})")
    return problems + _records_that_differ(root, index, again)


def _records_that_differ(root: Path, index: CacheIndex, again: str) -> list[str]:
    folders = [shard_folder(root, number) for number in range(len(index.shards))]
    return [
        f"{folder / 'shard.json'} is damaged, or not what index.json holds of that shard: {again}"
        for folder, shard in zip(folders, index.shards, strict=True)
        if read_shard_record(folder) != shard
    ]
