"""Data sets of the `datasets` library: a hub id, or a folder written by `save_to_disk`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, Field

from selfe.data.readers.base import (
    MOST_IMAGE_BYTES,
    SHARD_ROWS,
    CheckedReader,
    RawSample,
    Skipped,
    sample,
)
from selfe.data.readers.cells import CAPTION_NAMES, IMAGE_NAMES, image_bytes, pick_column
from selfe.data.readers.locations import (
    IMAGE_ENDINGS,
    PARQUET_ENDINGS,
    TAR_ENDINGS,
    place_below,
    read_below,
    read_plain_file,
    walk,
)
from selfe.json_files import JsonFault, read_json
from selfe.text import first_line

_OPTIONS = ("split", "config", "revision", "streaming")
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no")


class HubReader(CheckedReader):
    """`RawReader` of `NAME?split=train&config=...&revision=...&streaming=true`.

    Downloaded and saved data is cut into shards of 1,000 rows; streamed data has those of its
    files, and nothing of it is kept on disk. Rows that name a file instead of holding its bytes may
    name files of the data set alone.

    Raises:
        ValueError: for unknown or unusable options, a data set that cannot be loaded, and unknown
            columns.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.name, _, query = location.partition("?")
        options = _parse_options(query)
        self.streaming = _parse_flag("streaming", options.get("streaming", "false"))
        data = self._load(options)
        if data.column_names is None:  # of a stream, before its first row is looked at
            data = data._resolve_features()
        self.image = pick_column(data.column_names, image_column, IMAGE_NAMES, "image")
        self.caption = pick_column(data.column_names, caption_column, CAPTION_NAMES, "caption")
        self.data = self._undecoded(data)

    def shards(self) -> list[str]:
        if self.streaming:
            return [f"stream {number}" for number in range(self.data.num_shards)]
        if not len(self.data):
            raise ValueError(f"the data set is empty: {self.name} has no rows")
        return [f"rows {start}" for start in range(0, len(self.data), SHARD_ROWS)]

    def fingerprint(self, shard: str) -> str:
        return "" if self.streaming else f"{len(self._range(shard))} rows"

    def items(self, shard: str) -> Iterator[RawSample | Skipped]:
        if not self.streaming:
            for row, number in enumerate(self._range(shard)):
                yield self._sample(
                    f"{self.name}/{shard}/{row}", partial(self.data.__getitem__, number)
                )
            return
        number = int(shard.split()[1])
        rows = self.data.shard(num_shards=self.data.num_shards, index=number)
        row = -1
        try:
            for row, values in enumerate(rows):
                yield self._sample(f"{self.name}/{shard}/{row}", partial(dict, values))
        except Exception as error:  # of any protocol or file format
            # a stream that breaks off: how many samples went with it is not known
            reason = f"it cannot be read after row {max(row, 0)} ({first_line(error)})"
            yield Skipped(f"{self.name}/{shard}", reason)

    def _range(self, shard: str) -> range:
        start = int(shard.split()[1])
        return range(start, min(start + SHARD_ROWS, len(self.data)))

    def _sample(self, name: str, row: Callable[[], dict[str, Any]]) -> RawSample | Skipped:
        import pyarrow

        try:
            values = row()
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, IndexError) as error:
            return Skipped(name, f"the row cannot be read ({first_line(error)})")
        return sample(
            name,
            lambda: image_bytes(values[self.image], self._read_named),
            lambda: values[self.caption],
        )

    def _read_named(self, place: str) -> bytes:
        """A file that a row names, if it is one of this data set."""
        if os.path.isdir(self.name):
            if "://" in place or "::" in place:
                raise ValueError("refused: the row names a URL")
            return read_below(self.name, place)
        if place.startswith(f"hf://datasets/{self.name}@") and "::" not in place:
            return _read_url(place)
        if "://" in place or "::" in place:
            raise ValueError("refused: the row names a URL, or a file in an archive")
        for root in _caches(self.name):
            try:
                return read_plain_file(place_below(root, place))
            except (ValueError, FileNotFoundError):
                continue
        raise ValueError("refused: its path leads out of the data set")

    def _load(self, options: dict[str, str]) -> Any:
        import datasets

        local = Path(self.name)
        saved = local.is_dir() and any(
            (local / name).is_file() for name in ("state.json", "dataset_dict.json")
        )
        if local.is_dir():
            refused = [o for o in ("revision", "config") if o in options and (saved or o[0] == "r")]
            if refused:
                raise ValueError(f"{self.name} is a folder: it has no {refused[0]}; leave it out")
        split = options.get("split", "train")
        try:
            if saved:
                _check_saved(local)
                data = _part_of_saved(datasets.load_from_disk(self.name), self.name, split)
                return data.to_iterable_dataset(num_shards=1) if self.streaming else data
            if local.is_dir() and "config" in options:
                known = datasets.get_dataset_config_names(self.name)
                if options["config"] not in known:
                    raise _Unusable(
                        f"{self.name} has no config {options['config']!r}: {', '.join(known)}"
                    )
            elif local.is_dir():
                _check_all_seen(local, datasets.load_dataset_builder(self.name))
            return datasets.load_dataset(
                self.name,
                options.get("config"),
                split=split,
                revision=options.get("revision"),
                streaming=self.streaming,
            )
        except _Unusable as error:
            raise ValueError(str(error)) from None
        except Exception as error:  # of any builder, protocol or file format
            fetch = (
                ""
                if local.is_dir()
                else (f"; fetch it with: hf download --repo-type dataset {self.name}")
            )
            raise ValueError(
                f"the data set {self.name} cannot be loaded ({first_line(error)}){fetch}"
            ) from None

    def _undecoded(self, data: Any) -> Any:
        """The two columns alone, images as the bytes they were stored in: nothing is decoded, so
        that one damaged image is one sample."""
        import datasets

        data = data.select_columns(list(dict.fromkeys((self.image, self.caption))))
        if not self.streaming:
            data = data.with_format(None)
        if data.features is not None and isinstance(data.features[self.image], datasets.Image):
            data = data.cast_column(self.image, datasets.Image(decode=False))
        return data


def _check_all_seen(folder: Path, builder: Any) -> None:
    """Raise `_Unusable` where the library would pass over files of a folder, as it does with those
    in linked folders or with an ending in capitals."""
    if any((folder / card).is_file() for card in ("README.md", ".huggingface.yaml")):
        return  # which may say what belongs to the data set
    kind = {"webdataset": TAR_ENDINGS, "parquet": PARQUET_ENDINGS, "imagefolder": IMAGE_ENDINGS}
    name = str(builder.name)
    seen = {
        os.path.realpath(path)
        for paths in (builder.config.data_files or {}).values()
        for path in paths
    }
    there = [n for n in walk(folder) if name in kind and n.lower().endswith(kind[name])]
    passed_over = [n for n in there if os.path.realpath(folder / n) not in seen]
    if passed_over:
        scheme = {"webdataset": "wds", "imagefolder": "folder"}.get(name, name)
        raise _Unusable(
            f"hf:{folder} would read {len(there) - len(passed_over)} of {len(there)} files, and "
            f"not {passed_over[0]}: say {scheme}:{folder}"
        )


class _Unusable(ValueError):
    """Options that do not fit the data; already one clear sentence."""


def _parse_options(query: str) -> dict[str, str]:
    """The part after "?". Raises ValueError for what is unknown, empty or there twice."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise ValueError(
            f"hf: options are written ?split=train&config=NAME, got {query!r}"
        ) from None
    options: dict[str, str] = {}
    for name, value in pairs:
        if name not in _OPTIONS:
            raise ValueError(f"hf: unknown option {name!r} (known: {', '.join(_OPTIONS)})")
        if name in options or not value.strip():
            raise ValueError(f"hf: the option {name} is {'there twice' if value else 'empty'}")
        options[name] = value
    return options


def _parse_flag(name: str, value: str) -> bool:
    if value.lower() not in (*_YES, *_NO):
        raise ValueError(f"hf: {name} takes true or false, got {value!r}")
    return value.lower() in _YES


def _part_of_saved(data: Any, name: str, split: str) -> Any:
    """A split or slice, such as train[:10%], of what `save_to_disk` wrote."""
    import datasets

    if isinstance(data, datasets.DatasetDict):
        parts = dict(data)
    else:
        parts = {str(data.split or "train"): data}
    try:
        wanted = datasets.ReadInstruction.from_spec(split).to_absolute(
            {part: len(rows) for part, rows in parts.items()}
        )
    except (ValueError, AssertionError, KeyError) as error:
        raise _Unusable(
            f"{name} has no split {split!r}: {', '.join(parts)} ({first_line(error)})"
        ) from None
    found = [
        parts[each.splitname].select(range(each.from_ or 0, _end(each, parts))) for each in wanted
    ]
    return found[0] if len(found) == 1 else datasets.concatenate_datasets(found)


def _check_saved(folder: Path) -> None:
    """Raise _Unusable where the state of saved data is damaged, or names files elsewhere."""
    try:
        if (folder / "dataset_dict.json").is_file():
            found = read_json(folder / "dataset_dict.json", _SavedParts)
            parts = [folder / name for name in found.splits if _is_name(name)]
            whole = len(parts) == len(found.splits)
        else:
            parts, whole = [folder], True
        for part in parts:
            files = read_json(part / "state.json", _SavedState).data_files
            whole = whole and all(_is_name(file.get("filename")) for file in files)
    except (JsonFault, OSError) as error:
        raise _Unusable(f"{folder} is no sound saved data set ({first_line(error)})") from None
    if not whole:
        raise _Unusable(f"{folder} is no sound saved data set: it names a file outside of it")


def _is_name(name: Any) -> bool:
    """Whether it is that of something in a folder itself."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


@dataclass(frozen=True)
class _SavedParts:
    splits: list[str]


class _SavedState(BaseModel):
    data_files: list[dict[str, Any]] = Field(alias="_data_files")


def _end(instruction: Any, parts: dict[str, Any]) -> int:
    size = len(parts[instruction.splitname])
    return size if instruction.to is None else min(size, instruction.to)


def _caches(name: str) -> list[str]:
    """Folders of this machine where the `datasets` library keeps a data set of the hub."""
    from datasets import config
    from huggingface_hub import constants

    own = name.replace("/", "--")
    return [
        os.path.join(constants.HF_HUB_CACHE, f"datasets--{own}"),
        os.path.join(config.DOWNLOADED_DATASETS_PATH, "extracted"),
    ]


def _read_url(place: str) -> bytes:
    import fsspec

    with fsspec.open(place, "rb") as file:
        return file.read(MOST_IMAGE_BYTES + 1)
