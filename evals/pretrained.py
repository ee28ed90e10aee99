"""Published networks of transformers: found like every other weight, loaded key by key.

Names of repositories and files stand here, where reading them does not start torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfe.files import file_sha256
from selfe.hub import Source, locate, locate_files, open_folder, weight_gaps

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")

QWEN3_VL_8B = "Qwen/Qwen3-VL-8B-Instruct"
CLIP_L_336 = "openai/clip-vit-large-patch14-336"
CLIP_B_32 = "openai/clip-vit-base-patch32"
DINOV2_BASE = "facebook/dinov2-base"
PICKSCORE = "yuvalkirstain/PickScore_v1"
CLIP_H_14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
HPS, HPS_FILE = "xswu/HPSv2", "HPS_v2.1_compressed.pt"
IMAGE_REWARD, IMAGE_REWARD_FILE = "THUDM/ImageReward", "ImageReward.pt"
BERT_BASE = "google-bert/bert-base-uncased"
BERT_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
WEIGHTS, PICKLE = "*.safetensors", "pytorch_model.bin"
PATTERNS = ("*.json", WEIGHTS, "*.txt", "*.model", "*.jinja")
PINNED: Mapping[str, str] = {
    QWEN3_VL_8B: "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
    CLIP_L_336: "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
    # the conversion to safetensors, which the main branch never took
    CLIP_B_32: "c237dc49a33fc61debc9276459120b7eac67e7ef",
    DINOV2_BASE: "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    PICKSCORE: "a4e4367c6dfa7288a00c550414478f865b875800",
    CLIP_H_14: "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    HPS: "697403c78157020a1ae59d23f111aa58ced35b0a",
    IMAGE_REWARD: "5736be03b2652728fb87788c9797b0570450ab72",
    BERT_BASE: "86b5e0934494bd15c9632b12f734a8a67f723594",
}
"""Commit of each repository whose weights judges and measures use, so that two people measure with
the same. They are the commits that others' public code names; none was fetched here."""


def pinned(repository: str) -> str:
    """The commit that is used unless a user names another; of other repositories, their main."""
    return PINNED.get(repository, "main")


def split_revision(place: str) -> tuple[str, str]:
    """ "OWNER/NAME@COMMIT" as repository and revision; "" where none is named.

    What exists on this machine is a path, whatever its name.
    """
    if Path(place).exists():
        return place, ""
    repository, _, revision = place.partition("@")
    return repository, revision


def not_pinned(place: str, source: Source, revision: str = "") -> list[str]:
    """A sentence for readers of a score where nobody chose the version of its weights.

    A user's own files are known by their sha256, and need none.

    Args:
        place: as the user or this project named the weights.
        source: what was found there.
        revision: the one named beside `place`, if any.
    """
    repository, named = split_revision(place)
    if not source.repository or revision or named or repository in PINNED:
        return []
    return [
        f"nobody named a version of {repository}: its newest was used, commit {source.revision}; "
        "name that commit to use the same again"
    ]


def find_network(
    repository: str,
    revision: str = "",
    *,
    weights: bool = True,
    pickled: bool = False,
    licence: str = "",
    cache_dir: str | None = None,
) -> Source:
    """The folder of a model in transformers' layout: a user's own, the hub's cache, or the hub.

    Args:
        repository: hub id, hub id@revision, or a folder.
        revision: branch, tag or commit, "" for the one beside the id, or else `pinned`; the commit
            that it stands for is recorded.
        weights: False for a repository of which only a tokenizer or a preprocessor is wanted.
        pickled: whether PyTorch's own format will do, for a repository that has no other.

    Raises:
        ValueError: if files are missing and cannot be fetched: names them and the command.
    """

    def find_missing(folder: Path) -> list[str]:
        if not weights:  # the newer name first
            names = ("processor_config.json", "preprocessor_config.json")
            return [] if any((folder / name).is_file() for name in names) else [names[1]]
        if not (folder / "config.json").is_file():
            return ["config.json"]
        if pickled and (folder / PICKLE).is_file():
            return []
        return [gap.removeprefix("./") for gap in weight_gaps(folder, ".")]

    def download(wanted: str) -> None:
        from huggingface_hub import snapshot_download

        snapshot_download(
            repository, revision=wanted, cache_dir=cache_dir, allow_patterns=list(patterns)
        )

    patterns = [p for p in PATTERNS if weights or p != WEIGHTS]
    patterns += [PICKLE] * pickled

    if Path(repository).is_dir():
        return open_folder(repository, find_missing)
    repository, named = split_revision(repository)
    revision = revision or named
    return locate(
        repository,
        revision or pinned(repository),
        find_missing=find_missing,
        download=download,
        patterns=patterns,
        cache_dir=cache_dir,
        licence=licence,
    )


def find_file(
    given: str, repository: str, filename: str, licence: str = ""
) -> tuple[Path, str, list[str]]:
    """One file of weights: a user's own, or of the hub.

    Args:
        given: the user's file, a hub id@revision that holds `filename`, or "" for `repository` at
            its pinned commit.

    Returns:
        The file, its identity, and sentences as of `not_pinned`.

    Raises:
        ValueError: if the user's file does not exist, or the hub's is missing and cannot be
            fetched.
    """
    if given and Path(given).is_file():
        return Path(given), f"sha256:{file_sha256(given)[:12]}", []
    if given and not HUB_ID.fullmatch(given):
        raise ValueError(f"{given} is no file, and no OWNER/NAME@COMMIT of the hub either")
    place = given or repository
    name, revision = split_revision(place)
    source = locate_files(
        name, [filename], revision=revision or pinned(name), cache_dir=None, licence=licence
    )
    return source.folder / filename, source.digest, not_pinned(place, source)


def load_network(
    kind: Any,
    source: Source,
    *,
    unused: Sequence[str] = (),
    optional: Sequence[str] = (),
    pickled: bool = False,
    **extra: Any,
) -> Any:
    """A network of transformers from a folder, in evaluation mode and without gradients.

    Args:
        kind: class with `from_pretrained`.
        unused: starts of names of weights in the file that this network has no part for.
        optional: starts of names of parts that the file may lack (computed buffers).
        pickled: whether PyTorch's own format is read where there is no other.
        extra: keywords of `from_pretrained`.

    Raises:
        ValueError: if the file lacks a weight, or holds one that the network does not know.
    """
    from selfe.published_weights import load_weights

    pickled = pickled and not any(source.folder.glob(WEIGHTS))
    model = load_weights(
        kind, source.folder, unused=unused, optional=optional, pickled=pickled, **extra
    )
    return model.eval().requires_grad_(False)
