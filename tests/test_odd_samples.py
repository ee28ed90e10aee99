"""One table of odd captions and images that every reader of raw data reads alike.

A caption is right, or its sample is skipped by name with a reason; the samples beside it are
always there.

Longer than other files: every odd file and its pixels have a test.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfe.data.readers.base import RawSample, Skipped, open_reader
from tests.helpers.image_data import make_items

PNG = make_items(1)[0].png
GOOD = "a good caption"
LONG = "word " * 60_000  # longer than a cell that Python's reader of CSV takes

Write = Callable[[Path, list[tuple[Any, Any]]], str]


class Unspeakable(Exception):
    """A layout has no way to say this."""


def as_text(caption: Any) -> bytes:
    if not isinstance(caption, str | bytes):
        raise Unspeakable
    return caption if isinstance(caption, bytes) else caption.encode("utf-8", "surrogatepass")


def as_json(caption: Any) -> bytes:
    if isinstance(caption, bytes):
        raise Unspeakable
    return json.dumps({"other": 1, "caption": caption}).encode()


def write_tar(folder: Path, samples: list[tuple[Any, Any]], ending: str, spell: Any) -> str:
    import tarfile

    with tarfile.open(folder / "a.tar", "w") as tar:
        for number, (image, caption) in enumerate(samples):
            for name, content in ((f"{number}.png", image), (f"{number}.{ending}", spell(caption))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return f"wds:{folder}"


def write_folder(folder: Path, samples: list[tuple[Any, Any]], ending: str, spell: Any) -> str:
    for number, (image, caption) in enumerate(samples):
        (folder / f"{number}.png").write_bytes(image)
        (folder / f"{number}.{ending}").write_bytes(spell(caption))
    return f"folder:{folder}"


def write_jsonl(folder: Path, samples: list[tuple[Any, Any]]) -> str:
    lines = []
    for number, (image, caption) in enumerate(samples):
        (folder / f"{number}.png").write_bytes(image)
        if isinstance(caption, bytes):
            raise Unspeakable
        lines.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return f"folder:{folder}"


def write_csv(folder: Path, samples: list[tuple[Any, Any]]) -> str:
    content = b"file_name,text\n"
    for number, (image, caption) in enumerate(samples):
        (folder / f"{number}.png").write_bytes(image)
        content += f"{number}.png,".encode() + b'"' + as_text(caption).replace(b'"', b'""') + b'"\n'
    (folder / "metadata.csv").write_bytes(content)
    return f"folder:{folder}"


def table(samples: list[tuple[Any, Any]]) -> Any:
    import pyarrow

    images = [{"bytes": image, "path": None} for image, _ in samples]
    odd = samples[1][1]
    # the column's type is that of the odd caption; the good ones follow it
    wrap = (lambda c: [c]) if isinstance(odd, list) else (lambda c: c)
    if isinstance(odd, bytes):
        wrap = str.encode
    if isinstance(odd, int):
        wrap = len
    if isinstance(odd, dict):
        wrap = lambda c: {"a": 1}  # noqa: E731
    captions = [odd if caption is odd else wrap(caption) for _, caption in samples]
    try:
        return pyarrow.table({"image": images, "caption": captions})
    except (pyarrow.ArrowInvalid, UnicodeEncodeError):
        raise Unspeakable from None


def write_parquet(folder: Path, samples: list[tuple[Any, Any]]) -> str:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table(samples), folder / "a.parquet")
    return f"parquet:{folder}"


def write_saved(folder: Path, samples: list[tuple[Any, Any]]) -> str:
    import datasets

    data = datasets.Dataset(table(samples)).cast_column("image", datasets.Image())
    data.save_to_disk(str(folder / "saved"))
    return f"hf:{folder / 'saved'}"


LAYOUTS: dict[str, Write] = {
    "tar, txt": lambda folder, samples: write_tar(folder, samples, "txt", as_text),
    "tar, json": lambda folder, samples: write_tar(folder, samples, "json", as_json),
    "folder, txt": lambda folder, samples: write_folder(folder, samples, "txt", as_text),
    "folder, json": lambda folder, samples: write_folder(folder, samples, "json", as_json),
    "metadata.jsonl": write_jsonl,
    "metadata.csv": write_csv,
    "parquet": write_parquet,
    "hf": write_saved,
}
CAPTIONS: dict[str, tuple[Any, str]] = {
    # caption as written, and as read
    "plain": ("a red cat", "a red cat"),
    "byte order mark": ("\ufeffa red cat", "a red cat"),
    "blanks": (" \n a red cat\r\n", "a red cat"),
    "empty": ("", ""),
    "line separator": ("a\u2028b\u0085c", "a\u2028b\u0085c"),
    "comma, quote and line break": ('red, "big"\nand round', 'red, "big"\nand round'),
    "another script": ("猫 🐈 е́", "猫 🐈 е́"),
    "long": (LONG, LONG.strip()),
    "nul": ("a\0b", "a\0b"),
    "list": (["first", "second"], "first"),
    "list with a gap": ([None, "second"], "second"),
    "bytes": ("é".encode(), "é"),
}
NO_CAPTIONS: dict[str, tuple[Any, str]] = {
    # caption as written, and the start of the reason
    "no list": ([], "no caption"),
    "list of nothing": ([None], "no caption"),
    "nothing": (None, "no caption"),
    "number": (7, "no caption"),
    "map": ({"a": 1}, "no caption"),
    "half of a pair": ("nice \ud83d", "unreadable"),
    "Latin-1": (b"caf\xe9", "unreadable"),
    "UTF-16": ("cat".encode("utf-16"), "unreadable"),
}


def read_all(spelling: str, **columns: str) -> tuple[list[RawSample], list[Skipped]]:
    reader = open_reader(spelling, **columns)
    found = [item for shard in reader.shards() for item in reader.read(shard)]
    assert all(reader.fingerprint(shard) is not None for shard in reader.shards())
    samples = [item for item in found if isinstance(item, RawSample)]
    return samples, [item for item in found if isinstance(item, Skipped)]


def write_three(layout: str, folder: Path, odd: Any) -> str:
    try:
        return LAYOUTS[layout](folder, [(PNG, GOOD), (PNG, odd), (PNG, GOOD)])
    except Unspeakable:
        pytest.skip("this layout cannot say it")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CAPTIONS)
def test_odd_captions_are_read_alike(name: str, layout: str, tmp_path: Path) -> None:
    written, wanted = CAPTIONS[name]
    samples, skipped = read_all(write_three(layout, tmp_path, written))
    assert not skipped
    assert [s.caption for s in samples] == [GOOD, wanted, GOOD]
    assert all(s.image == PNG for s in samples)


@pytest.mark.fault(14)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NO_CAPTIONS)
def test_captions_that_are_none_cost_their_sample_alone(
    name: str, layout: str, tmp_path: Path
) -> None:
    written, reason = NO_CAPTIONS[name]
    samples, skipped = read_all(write_three(layout, tmp_path, written))
    good = 0 if layout in ("parquet", "hf") and name in ("number", "map") else 2
    assert [s.caption for s in samples] == [GOOD] * good
    skipped = [s for s in skipped if s.samples]  # without what is only told
    assert len(skipped) == 3 - good and all(s.reason.startswith(reason) for s in skipped)
    assert all(s.name and s.samples == 1 for s in skipped)


@pytest.mark.fault(14)
@pytest.mark.parametrize("layout", ["tar, json", "folder, json", "metadata.jsonl"])
@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b'{"a":' * 100_000, b"[1]", b"nul", b"{", b"1" * 5000, b"\xff{}", b'"a"'],
    ids=["deep list", "deep map", "list", "word", "open", "number", "Latin-1", "text"],
)
def test_broken_records_cost_their_sample_alone(
    content: bytes, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spelling = LAYOUTS[layout](tmp_path, [(PNG, GOOD), (PNG, GOOD), (PNG, GOOD)])
    if layout == "metadata.jsonl":
        lines = (tmp_path / "metadata.jsonl").read_bytes().splitlines()
        (tmp_path / "metadata.jsonl").write_bytes(b"\n".join([lines[0], content, lines[2]]))
    elif layout == "folder, json":
        (tmp_path / "1.json").write_bytes(content)
    else:
        spell = {GOOD: as_json(GOOD), "odd": content}
        spelling = write_tar(tmp_path, [(PNG, c) for c in (GOOD, "odd", GOOD)], "json", spell.get)
    samples, skipped = read_all(spelling)
    assert [s.caption for s in samples] == [GOOD, GOOD]
    damaged = [s for s in skipped if s.samples]
    assert len(damaged) == 1 and damaged[0].reason.startswith(("unreadable", "no caption"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_of_a_column_does_not_matter(layout: str, tmp_path: Path) -> None:
    spelling = write_three(layout, tmp_path, "usual")
    usual = "text" if layout.startswith("metadata") else "txt" if "txt" in layout else "caption"
    samples, skipped = read_all(spelling, caption_column=usual.upper())
    assert [s.caption for s in samples] == [GOOD, "usual", GOOD] and not skipped


def test_case_of_a_metadata_file_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "METADATA.CSV").write_text("File_Name,Text\na.png,a caption\n")
    samples, skipped = read_all(f"folder:{tmp_path}")
    assert [s.caption for s in samples] == ["a caption"] and not skipped


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_asked_caption_column_is_read_and_no_other(layout: str, tmp_path: Path) -> None:
    spelling = write_three(layout, tmp_path, "usual")
    with_text = layout in ("metadata.jsonl", "metadata.csv")
    usual = "text" if with_text else "txt" if layout.endswith("txt") else "caption"
    samples, _ = read_all(spelling, caption_column=usual)
    assert [s.caption for s in samples] == [GOOD, "usual", GOOD]
    if layout in ("parquet", "hf") or with_text:
        with pytest.raises(ValueError, match="no_such.*--caption-column"):
            read_all(spelling, caption_column="no_such")
    else:
        samples, skipped = read_all(spelling, caption_column="no_such")
        assert not samples and len(skipped) == 3
        assert all(s.reason.startswith("no caption under 'no_such'") for s in skipped)


@pytest.mark.parametrize("layout", ["tar, json", "folder, json"])
def test_a_caption_column_is_taken_before_the_usual_caption(layout: str, tmp_path: Path) -> None:
    def both(caption: str) -> bytes:
        return json.dumps({"caption": "usual", "Long": caption}).encode()

    write = write_tar if layout.startswith("tar") else write_folder
    spelling = write(tmp_path, [(PNG, "one"), (PNG, "two")], "json", both)
    if write is write_folder:
        (tmp_path / "0.txt").write_text("beside")
    for column in ("Long", "long"):
        samples, _ = read_all(spelling, caption_column=column)
        assert [s.caption for s in samples] == ["one", "two"]


@pytest.mark.fault(14)
def test_rows_of_csv_that_are_wrong_cost_themselves_alone(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(PNG)
    (tmp_path / "metadata.csv").write_text(
        "file_name,text\n"
        "0.png,good\n"
        "1.png,red, big\n"  # a comma without quotes
        '2.png,"open\n'  # a quote that nobody closes
        '3.png,"two\nlines"\n'
        "4.png\n"  # no caption
        '5.png,"closed" late\n'
        '6.png,5" high\n'
    )
    samples, skipped = read_all(f"folder:{tmp_path}")
    assert [s.caption for s in samples] == ["good", "two\nlines", '5" high']
    lines = [s.name.rpartition("line ")[2] for s in skipped if s.samples]
    assert lines == ["3", "4", "7", "8"]
    assert "a text with a comma must stand in quotes" in skipped[0].reason
    assert "not closed" in skipped[1].reason


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfef\0",
        b"file_name,file_name\na.png,a\n",
        b'"a\n',
        b"file_name;text\na.png;b\n",
        b"file_name\ttext\na.png\tb\n",
    ],
)
def test_headers_of_csv_that_make_no_sense_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"metadata\.csv"):
        read_all(f"folder:{tmp_path}")


@pytest.mark.fault(14)
@pytest.mark.parametrize("layout", ["parquet", "hf"])
@pytest.mark.parametrize("cell", [None, b"", "gone.png", "../out.png", "/etc/hostname", 7])
def test_image_cells_that_hold_no_image(cell: Any, layout: str, tmp_path: Path) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    cells = {"image": [cell, cell], "caption": [GOOD, GOOD]}
    if layout == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(cells), tmp_path / "a.parquet")
        spelling = f"parquet:{tmp_path}"
    else:
        datasets.Dataset(pyarrow.table(cells)).save_to_disk(str(tmp_path / "saved"))
        spelling = f"hf:{tmp_path / 'saved'}"
    samples, skipped = read_all(spelling)
    assert not samples and len(skipped) == 2
    words = ("no image", "gone.png cannot be read", "refused: its path leads out")
    assert all(s.reason.startswith(words) for s in skipped)


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "place", ["https://host/a.png", "zip://a.png::b.zip", "file:///etc/hostname", "/etc/hostname"]
)
@pytest.mark.parametrize("query", ["", "?streaming=true"])
def test_rows_of_a_data_set_name_no_file_outside_it(place: str, query: str, tmp_path: Path) -> None:
    import datasets
    import pyarrow

    data = {"image": [{"bytes": None, "path": place}], "caption": [GOOD]}
    datasets.Dataset(pyarrow.table(data)).save_to_disk(str(tmp_path / "saved"))
    samples, (skipped,) = read_all(f"hf:{tmp_path / 'saved'}{query}")
    assert not samples and skipped.reason.startswith("refused")


@pytest.mark.parametrize(
    ("query", "count", "sentence"),
    [
        ("split=train[:1]", 1, ""),
        ("split=train[1:]%2Btrain[:1]", 3, ""),
        ("split=train[50%:]", 1, ""),
        ("split=validation", 0, "has no split 'validation': train"),
        ("split=train[a]", 0, "has no split"),
        ("config=other", 0, "is a folder: it has no config"),
        ("revision=main", 0, "is a folder: it has no revision"),
        ("colour", 0, "options are written"),
        ("split=", 0, "option split is empty"),
        ("split=train&split=test", 0, "there twice"),
        ("streaming=maybe", 0, "streaming takes true or false"),
    ],
)
def test_options_of_saved_data_are_used_or_refused(
    query: str, count: int, sentence: str, tmp_path: Path
) -> None:
    spelling = f"{write_three('hf', tmp_path, 'odd')}?{query}"
    if sentence:
        with pytest.raises(ValueError, match=sentence):
            read_all(spelling)
    else:
        assert len(read_all(spelling)[0]) == count
