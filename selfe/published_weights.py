"""The only loader of published weights and tokenizers: it loads all of them, or says what is
missing.

The libraries fill keys that a file lacks with random numbers, and take a tokenizer without its
vocabulary for one whose every word is unknown; both say so at most in a log. Here every load is
asked for what it found, and its tensors get a digest, so that a record names what was loaded.

Longer than other files: everything that a folder of weights may lack is judged in one place.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch
import xxhash
from torch import nn

from selfe.hub import LFS_POINTER, is_component, read_map
from selfe.text import first_line

_NAMED = 5
_LEAST_SHARE = 0.9
"""Of an encoder's rows that its tokenizer has words for, and of the words that merges can make."""
_FRACTIONS = ("F", "BF", "C")
"""How safetensors' names of types of fractions begin."""
_PROBES = ("cat", "dog", "red", "under")
_OWN_WORDS = 8
_SAVED_IN_PARALLEL = "module."


def load_weights(
    loader: Any,
    folder: str | Path,
    *,
    unused: Sequence[str] = (),
    optional: Sequence[str] = (),
    pickled: bool = False,
    **options: Any,
) -> Any:
    """`loader.from_pretrained(folder)` of a transformers or diffusers model, safetensors only.

    Args:
        loader: the model's class, or one of transformers' Auto classes.
        unused, optional: see `require_complete`.
        pickled: read pytorch_model.bin instead, of which nothing but tensors is taken.
        options: further keywords of its `from_pretrained`.

    Raises:
        ValueError: where the files are damaged or lack a weight, hold one that the model does not
            have, or one of another shape; names them.
    """
    for path in sorted(Path(folder).glob("*.safetensors")):
        _refuse_pointer(path)
        index = path.with_name(f"{path.name}.index.json")
        if index.is_file():  # libraries differ in which they take
            raise ValueError(
                f"{folder} holds its weights twice, in {path.name} and in the files that "
                f"{index.name} lists: remove one of them"
            )
    if not loader.__module__.startswith("diffusers"):  # which names the keys itself
        options.setdefault("ignore_mismatched_sizes", True)  # named and refused below
    with _one_sentence(folder, loader.__name__), _quiet():
        model, found = loader.from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=not pickled,
            **({"weights_only": True} if pickled else {}),
            **options,
        )
        found = dict(found)
        if not pickled:
            stored = _whole_numbers(Path(folder), options.get("variant"))
            found["whole_numbers"] = _taken_for_fractions(model, stored)
    require_complete(str(folder), found, unused=unused, optional=optional)
    _check_scale(folder, model)
    return model


def _check_scale(folder: str | Path, model: nn.Module) -> None:
    """Raise ValueError where an autoencoder's latents are scaled by no number."""
    for name, kinds in (("scaling_factor", (int, float)), ("shift_factor", (int, float, NoneType))):
        value = getattr(getattr(model, "config", None), name, 1.0)
        is_number = type(value) in kinds and math.isfinite(value or 0)
        if not is_number or (name == "scaling_factor" and not value):
            raise ValueError(
                f"{folder} has {value!r} as the {name} in its config.json, which must be a number: "
                "fetch it again"
            )


def _whole_numbers(folder: Path, variant: str | None) -> list[str]:
    """Names of the tensors of whole numbers in the safetensors files that are loaded."""
    from safetensors import safe_open

    names: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        words = re.split(r"[.-]", path.stem)
        if variant in words if variant else "." not in path.stem:
            with safe_open(path, "pt") as file:
                kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
            names += [name for name, kind in kinds.items() if not kind.startswith(_FRACTIONS)]
    return names


def _taken_for_fractions(model: nn.Module, stored: Collection[str]) -> list[str]:
    """Those of a file's tensors of whole numbers that became fractions in a model, which names them
    as the file does or with a part's name before it."""
    if not stored:
        return []
    own = model.state_dict()
    return [
        name
        for name in stored
        if any(
            value.is_floating_point()
            for key, value in own.items()
            if f".{key}".endswith(f".{name}") or f".{name}".endswith(f".{key}")
        )
    ]


def other_kinds(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    """Keys of weights that would change their meaning while they are loaded: whole numbers for
    fractions, or the other way about. Loading alone would convert them and say nothing."""
    return sorted(
        key
        for key in own.keys() & given.keys()
        if own[key].is_floating_point() != given[key].is_floating_point()
    )


def require_complete(
    what: str, found: Mapping[str, Any], *, unused: Sequence[str] = (), optional: Sequence[str] = ()
) -> None:
    """Raise ValueError unless a load's info says that files and model hold the same tensors.

    Args:
        what: was loaded, for the message.
        found: "missing_keys", "unexpected_keys", "mismatched_keys", "whole_numbers" for weights
            that are fractions in the model, "error_msgs".
        unused: starts of names of weights that files hold and this model has no part for.
        optional: starts of names of parts that the model computes or never reads.
    """
    problems = []
    for kind, words, allowed in (
        ("missing_keys", "it lacks", optional),
        ("unexpected_keys", "it holds the unknown", unused),
        ("mismatched_keys", "of another shape is", ()),
        ("whole_numbers", "whole numbers in place of fractions are in", ()),
        ("error_msgs", "", ()),
    ):
        keys = {key[0] if isinstance(key, tuple) else str(key) for key in found.get(kind) or ()}
        named = sorted(key for key in keys if not key.startswith(tuple(allowed)))
        if named:
            more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
            problems.append(f"{words} {', '.join(named[:_NAMED])}{more}".strip())
    if problems:
        unexpected = [str(key) for key in found.get("unexpected_keys") or ()]
        hint = (
            f'take "{_SAVED_IN_PARALLEL}" off the keys, which saving a parallel model put there'
            if unexpected and all(key.startswith(_SAVED_IN_PARALLEL) for key in unexpected)
            else "fetch or convert it again"
        )
        raise ValueError(
            f"the weights of {what} do not fit the model ({'; '.join(problems)}): {hint}"
        )


def load_components(
    folder: Path, dtypes: Mapping[str, torch.dtype], variant: str, skip: Collection[str]
) -> dict[str, Any]:
    """The models and tokenizers of a folder in diffusers' layout, by name, for its pipeline.

    Args:
        dtypes: name -> dtype; "default" for the others.
        variant: of the weight files, "" for the plain ones.
        skip: components that are not loaded.

    Raises:
        ValueError: as `load_weights` and `load_tokenizer` do.
    """
    loaded: dict[str, Any] = {}
    for name, kind in read_model_index(folder).items():
        if name.startswith("_") or name in skip or not is_component(kind):
            continue
        component = _class_of(*kind)
        if component is None:
            continue  # diffusers says which library is missing
        if issubclass(component, nn.Module):
            keyword = _dtype_keyword() if component.__module__.startswith("diffusers") else "dtype"
            options: dict[str, Any] = {keyword: dtypes.get(name, dtypes["default"])}
            loaded[name] = load_weights(
                component, folder / name, variant=variant or None, **options
            )
        elif "Tokenizer" in component.__name__:
            loaded[name] = load_tokenizer(folder / name, component)
    for name, part in loaded.items():
        if name.startswith("tokenizer"):
            _check_vocabulary_fits(
                folder / name, part, loaded.get(name.replace("tokenizer", "text_encoder"))
            )
    return loaded


def read_model_index(folder: Path) -> dict[str, Any]:
    """Content of model_index.json. Raises ValueError where it is damaged."""
    path = folder / "model_index.json"
    index = read_map(path)
    for name, kind in index.items():
        if not name.startswith("_") and is_component(kind):
            if not all(isinstance(word, str) for word in kind):
                raise ValueError(f"{path} is damaged ({name} names no class): fetch it again")
    return index


def _class_of(library: str, name: str) -> Any:
    """The class of a component, as diffusers finds it; None where there is none."""
    import diffusers

    if library in ("diffusers", "transformers"):
        found = getattr(importlib.import_module(library), name, None)
    else:
        found = getattr(getattr(diffusers.pipelines, library, None), name, None)
    return found if isinstance(found, type) else None


def _dtype_keyword() -> str:
    """diffusers renamed `torch_dtype` to `dtype` in 0.42."""
    import diffusers
    from packaging.version import parse

    return "dtype" if parse(diffusers.__version__) >= parse("0.42") else "torch_dtype"


def load_tokenizer(folder: str | Path, loader: Any = None, model: Any = None) -> Any:
    """A tokenizer with its whole vocabulary.

    Args:
        loader: its class; by default transformers' AutoTokenizer.
        model: the encoder that reads its tokens.

    Raises:
        ValueError: where the vocabulary or its merges are missing, empty, cut short or a pointer of
            Git LFS, or do not fit the encoder.
    """
    if loader is None:
        from transformers import AutoTokenizer

        loader = AutoTokenizer
    folder = Path(folder)
    _refuse_broken_vocabulary(folder)
    with _one_sentence(folder, "tokenizer"):
        tokenizer = loader.from_pretrained(folder, local_files_only=True)
    _require_vocabulary(folder, tokenizer, model)
    return tokenizer


def _refuse_broken_vocabulary(folder: Path) -> None:
    for path in sorted(folder.glob("*")):
        if path.name in _VOCABULARY_FILES and path.is_file():
            _refuse_pointer(path)
            if not path.stat().st_size:
                raise ValueError(f"the tokenizer's file {path} is empty: fetch it again")


def _require_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    with _one_sentence(folder, "tokenizer"):
        lacking = _lacks_vocabulary(tokenizer)
    if lacking:
        raise ValueError(f"the tokenizer in {folder} {lacking}: fetch it again")
    _check_vocabulary_fits(folder, tokenizer, model)


def load_processor(folder: str | Path, model: Any = None, **options: Any) -> Any:
    """transformers' AutoProcessor, whose tokenizer is as whole as `load_tokenizer` wants it.

    Args:
        options: keywords of `from_pretrained`; backend="pil" has images resized by Pillow.
    """
    from transformers import AutoProcessor

    _refuse_broken_vocabulary(Path(folder))
    with _one_sentence(folder, "processor"):
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, **options)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        _require_vocabulary(Path(folder), tokenizer, model)
    return processor


_VOCABULARY_FILES = (
    *("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)


def _lacks_vocabulary(tokenizer: Any) -> str:
    """What a tokenizer cannot spell, in words, or ""."""
    own = set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab())
    if len(own) < len(_PROBES):
        return "has no vocabulary"
    # words of its own as well: a small vocabulary need not know the probes
    words = [*_PROBES, *(piece.strip("▁Ġ#") for piece in sorted(own)[-_OWN_WORDS:])]
    spelled = {tuple(tokenizer(word, add_special_tokens=False).input_ids) for word in words}
    known = {ids for ids in spelled if not set(ids) <= {tokenizer.unk_token_id}}
    if len(known) < 2:
        return "spells every word alike"
    model = _fast_model(tokenizer)
    if model.get("type") != "BPE":
        return ""
    # a piece of several letters can only come of a merge
    ends = (model.get("end_of_word_suffix") or "", model.get("continuing_subword_prefix") or "")
    merged = {
        "".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]
    }
    long = {piece for piece in own if len(_bare(piece, ends)) > 1}
    if len(long & merged) < _LEAST_SHARE * len(long):
        return f"lacks merges: {len(long - merged)} of its {len(long)} longer pieces are never made"
    return ""


def _bare(piece: str, ends: tuple[str, str]) -> str:
    """A piece without its mark of a word's end or middle; <mask> and the byte <0xE2> are one."""
    if piece.startswith("<") and piece.endswith(">"):
        return "x"
    return piece.removesuffix(ends[0]) if ends[0] else piece.removeprefix(ends[1])


def _fast_model(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else json.loads(backend.to_str())["model"]


def _check_vocabulary_fits(folder: Path, tokenizer: Any, model: Any) -> None:
    """Raise ValueError unless tokenizer and encoder have about the same number of words."""
    find = getattr(model, "get_input_embeddings", None)
    rows = getattr(find(), "num_embeddings", None) if find else None
    if rows is None:
        return
    words = len(tokenizer)
    if not _LEAST_SHARE * rows <= words <= rows / _LEAST_SHARE:
        raise ValueError(
            f"the tokenizer in {folder} has {words} words, but its encoder has {rows}: they do not "
            "belong together, or the vocabulary is cut short; fetch both again"
        )


def weights_digest(module: nn.Module) -> str:
    """XXH3 over names, dtypes, shapes and values of all parameters and stored buffers."""
    digest = xxhash.xxh3_128()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        content = value.detach().cpu().contiguous().reshape(-1)
        if content.numel():
            digest.update(content.view(torch.uint8).numpy())
    return f"xxh3:{digest.hexdigest()}"


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(
                f"{path} is a pointer of Git LFS, not the file: run `git lfs pull`, or fetch it "
                "with `hf download`"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own table of what it made up: that is judged here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _one_sentence(folder: str | Path, kind: str) -> Iterator[None]:
    """Whatever the libraries raise for files that make no sense, as a ValueError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"{folder} cannot be loaded as {kind} ({first_line(error)}): fetch it again"
        ) from error
