"""Published networks of transformers: found like every other weight, loaded key by key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfe.hub import Source, locate, open_folder, weight_gaps
from selfe.published_weights import load_weights

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def find_network(
    repository: str,
    revision: str = "main",
    *,
    weights: bool = True,
    licence: str = "",
    cache_dir: str | None = None,
) -> Source:
    """The folder of a model in transformers' layout: a user's own, the hub's cache, or the hub.

    Args:
        repository: hub id, or a folder.
        revision: branch, tag or commit; the commit that it stands for is recorded.
        weights: False for a repository of which only a tokenizer or a preprocessor is wanted.

    Raises:
        ValueError: if files are missing and cannot be fetched: names them and the command.
    """

    def find_missing(folder: Path) -> list[str]:
        if not weights:  # the newer name first
            names = ("processor_config.json", "preprocessor_config.json")
            return [] if any((folder / name).is_file() for name in names) else [names[1]]
        if not (folder / "config.json").is_file():
            return ["config.json"]
        return [gap.removeprefix("./") for gap in weight_gaps(folder, ".")]

    def download(wanted: str) -> None:
        from huggingface_hub import snapshot_download

        patterns = PATTERNS if weights else [p for p in PATTERNS if p != "*.safetensors"]
        snapshot_download(
            repository, revision=wanted, cache_dir=cache_dir, allow_patterns=list(patterns)
        )

    if Path(repository).is_dir():
        return open_folder(repository, find_missing)
    return locate(
        repository,
        revision,
        find_missing=find_missing,
        download=download,
        patterns=PATTERNS,
        cache_dir=cache_dir,
        licence=licence,
    )


def load_network(
    kind: Any,
    source: Source,
    *,
    unused: Sequence[str] = (),
    optional: Sequence[str] = (),
    **extra: Any,
) -> Any:
    """A network of transformers from a folder, in evaluation mode and without gradients.

    Args:
        kind: class with `from_pretrained`.
        unused: starts of names of weights in the file that this network has no part for.
        optional: starts of names of parts that the file may lack (computed buffers).
        extra: keywords of `from_pretrained`.

    Raises:
        ValueError: if the file lacks a weight, or holds one that the network does not know.
    """
    model = load_weights(kind, source.folder, unused=unused, optional=optional, **extra)
    return model.eval().requires_grad_(False)
