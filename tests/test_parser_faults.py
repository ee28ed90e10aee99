"""Every parser of foreign data against random damage: values, skipped samples or a sentence.

`--fault-count` says how often: 300 cases in the checks of every change, 10,000 and more in
scripts.checks.fault_report.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from evals.results import read_result
from evals.scoring.detections import read_detections
from evals.suites.geneval import read_long_records
from evals.verdicts import read_verdicts
from selfe.config.resolve import resolve
from selfe.data.readers.base import RawSample, open_reader, split_spelling
from selfe.data.readers.cells import caption_text, parse_record
from selfe.data.readers.hub_datasets import _parse_options
from selfe.files import as_json_lines
from selfe.hub import read_map
from selfe.images import FORMATS, DamagedImage, decode_image, png_fault
from selfe.run_folder.records import read_config, write_config
from selfe.text import decode_text, is_storable, without_secrets
from tests.helpers.synthetic_results import write_result
from tests.test_odd_places import tar_of

QUICK, FULL = 300, 12_000
"""Cases of all parsers together."""


def encoded(kind: str, seed_: int = 0) -> bytes:
    pixels = np.random.default_rng(seed_).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


PNG = encoded("PNG")
IMAGES = [encoded(kind) for kind in FORMATS]
TAR = tar_of(*[(f"{n}.{e}", c) for n in range(3) for e, c in (("png", PNG), ("txt", b"words"))])
TARS = [TAR, gzip.compress(TAR, 1), lzma.compress(TAR, preset=0)]
RECORD = json.dumps({"caption": "a cat", "more": [1, {"x": None}]}).encode()
CSV = b'file_name,text\na.png,"red, big"\nb.png,plain\nc.png,"two\nlines"\n'
JSONL = b"".join(
    json.dumps({"file_name": f"{n}.png", "text": f"caption {n}"}).encode() + b"\n" for n in "abc"
)


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """An original with bytes changed, cut, repeated or put in."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        how = draw(st.sampled_from(["change", "cut", "drop", "put", "repeat", "zero"]))
        if how == "change":
            content[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del content[place:]
        elif how == "drop":
            del content[place : place + draw(st.integers(1, 600))]
        elif how == "put":
            content[place:place] = draw(st.binary(max_size=20))
        elif how == "repeat":
            content[place:place] = content[place : place + draw(st.integers(1, 600))]
        else:
            length = draw(st.integers(1, 16))
            content[place : place + length] = bytes(len(content[place : place + length]))
    return bytes(content)


def read_folder(files: dict[str, bytes], spelling: str) -> list[Any]:
    """What a reader makes of a folder; a ValueError in one sentence counts as nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        try:
            reader = open_reader(spelling.format(folder))
            found = [item for shard in reader.shards() for item in reader.read(shard)]
        except ValueError as error:
            assert "\n" not in str(error)
            return []
    for item in found:
        texts = (item.key, item.caption) if isinstance(item, RawSample) else (
            item.name, item.reason
        )  # fmt: skip
        assert all(is_storable(text) and "\n" not in texts[0] for text in texts)
    return found


def check_tar(content: bytes) -> None:
    for item in read_folder({"a.tar": content}, "wds:{}/a.tar"):
        assert not isinstance(item, RawSample) or item.image


def check_csv(content: bytes) -> None:
    images = {f"{n}.png": PNG for n in "abc"}
    read_folder({**images, "metadata.csv": content}, "folder:{}")


def check_jsonl(content: bytes) -> None:
    images = {f"{n}.png": PNG for n in "abc"}
    read_folder({**images, "metadata.jsonl": content}, "folder:{}")


def check_sidecar(content: bytes) -> None:
    (found,) = read_folder({"a.png": PNG, "a.json": content}, "folder:{}")
    assert isinstance(found, RawSample) or found.samples == 1


def check_image(content: bytes) -> None:
    try:
        image = decode_image(content)
    except DamagedImage as error:
        assert "\n" not in str(error)
        return
    assert image.mode == "RGB"


def check_png(content: bytes) -> None:
    """A damaged PNG is noticed, or its pixels are what they were."""
    if png_fault(content) is None:
        assert np.array_equal(np.asarray(decode_image(content)), np.asarray(decode_image(PNG)))


def check_record(content: bytes) -> None:
    try:
        values = parse_record(content)
    except ValueError:
        return
    assert isinstance(values, dict)


def check_prompts(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        Path(file.name).write_bytes(content)
        with pytest.raises(ValueError, match=Path(file.name).name):
            read_long_records(file.name)


def check_index(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        Path(file.name).write_bytes(content)
        try:
            assert isinstance(read_map(Path(file.name)), dict)
        except ValueError as error:
            assert file.name in str(error)


def check_text(content: bytes) -> None:
    for value in (content, content.decode("utf-8", "surrogateescape"), [content], None):
        try:
            assert is_storable(caption_text(value))
        except ValueError:
            continue
    try:
        text = decode_text(content)
    except ValueError:
        return
    assert without_secrets(without_secrets(text)) == without_secrets(text)


def check_spelling(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    for parse in (split_spelling, _parse_options):
        try:
            parse(text)
        except ValueError:
            continue


CONFIG = resolve("shapes", "selfe")
VERDICT = {"prompt_id": 0, "sample_id": 0, "tag": "colors", "correct": True, "reason": "",
           "prompt": "a red cat"}  # fmt: skip
DETECTION = {"prompt_id": 0, "sample_id": 0, "size": [8, 8], "detections": [
    {"label": "cat", "box": [0.0, 0.0, 4.0, 4.0], "score": 0.5, "color": "red"}]}  # fmt: skip


def config_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), CONFIG)
        return Path(folder, "config.json").read_bytes()


def result_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_result(Path(folder, "r"), prompts_per_task=1)
        (path,) = Path(folder).rglob("result.json")
        return path.read_bytes()


def check_config(content: bytes) -> None:
    """A damaged configuration is noticed, or it is what it was."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_bytes(content)
        try:
            assert read_config(Path(folder)) == CONFIG
        except ValueError as error:
            assert "config.json" in str(error)


def read_file(read: Callable[[Path], Any]) -> Callable[[bytes], None]:
    def check(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            path.write_bytes(content)
            with contextlib.suppress(ValueError):
                read(path)

    return check


PARSERS: dict[str, tuple[Callable[[bytes], None], list[bytes], int]] = {
    # check, originals, share of all cases
    "tar": (check_tar, TARS, 4),
    "metadata.csv": (check_csv, [CSV], 3),
    "metadata.jsonl": (check_jsonl, [JSONL], 2),
    "json beside an image": (check_sidecar, [RECORD], 2),
    "image": (check_image, IMAGES, 4),
    "png": (check_png, [PNG], 4),
    "record": (check_record, [RECORD, b"[" * 60, b"\xef\xbb\xbf{}"], 3),
    "prompts": (check_prompts, [b'{"prompt": "a cat", "tag": "colors", "include": []}\n' * 2], 2),
    "model index": (check_index, [b'{"unet": ["diffusers", "UNet"], "_class_name": "X"}'], 2),
    "text": (check_text, ["é 猫 https://me:k@h/a?s=x&t#f \u2028".encode(), b"cat"], 2),
    "config.json": (check_config, [config_file()], 2),
    "result.json": (read_file(read_result), [result_file()], 2),
    "images.jsonl": (read_file(read_verdicts), [as_json_lines([VERDICT] * 2).encode()], 2),
    "detections.jsonl": (read_file(read_detections), [as_json_lines([DETECTION] * 2).encode()], 2),
    "spelling": (check_spelling, [b"hf:a/b?split=train&config=c", b"wds:/x/{0..3}.tar"], 2),
}


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", PARSERS)
def test_damage_gives_values_or_a_sentence(name: str, request: pytest.FixtureRequest) -> None:
    check, originals, share = PARSERS[name]
    whole = FULL if request.config.getoption("--fault-count") == "full" else QUICK
    cases = -(-whole * share // sum(shares for _, _, shares in PARSERS.values()))
    tried = 0

    @seed(0)
    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(damaged(originals))
    def attack(content: bytes) -> None:
        nonlocal tried
        tried += 1
        check(content)

    attack()
    assert tried >= cases


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\0"), max_size=30
        ),
        min_size=1,
        max_size=4,
    )
)
def test_metadata_that_is_written_rightly_is_read_rightly(captions: list[str]) -> None:
    images = {f"{n}.png": PNG for n in range(len(captions))}
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["file_name", "text"])
    writer.writerows([f"{n}.png", caption] for n, caption in enumerate(captions))
    lines = "".join(
        json.dumps({"file_name": f"{n}.png", "text": caption}) + "\n"
        for n, caption in enumerate(captions)
    )
    for name, content in (("metadata.csv", buffer.getvalue()), ("metadata.jsonl", lines)):
        found = read_folder({**images, name: content.encode()}, "folder:{}")
        assert [item.caption for item in found] == [caption.strip() for caption in captions], name
