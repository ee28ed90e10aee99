"""Readers of raw image-text data: every layout gives the same samples, damage is skipped and named,
nothing is ever written.

Longer than other files by one set of damages for each layout.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from pathlib import Path

import pytest

from selfe.data.readers import base
from selfe.data.readers.base import READERS, RawSample, Skipped, open_reader, split_spelling
from tests.helpers.image_data import (
    LAYOUTS,
    add_member,
    make_items,
    write_folder,
    write_parquet,
    write_tar,
    write_tars,
)

ITEMS = make_items(12)


@pytest.fixture(autouse=True)
def no_cache_elsewhere(tmp_path_factory, monkeypatch):
    """What `datasets` converts goes to a temporary folder."""
    import datasets

    folder = str(tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


def read_all(spelling: str, **columns: str) -> tuple[list[RawSample], list[Skipped]]:
    reader = open_reader(spelling, **columns)
    found = [item for shard in reader.shards() for item in reader.read(shard)]
    samples = [item for item in found if isinstance(item, RawSample)]
    return samples, [item for item in found if isinstance(item, Skipped)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_captions(layout, tmp_path):
    spelling = LAYOUTS[layout](tmp_path, ITEMS)
    samples, skipped = read_all(spelling)
    assert not skipped
    assert [(s.image, s.caption) for s in samples] == [(i.png, i.caption) for i in ITEMS]
    assert len({s.key for s in samples}) == len(ITEMS)
    assert read_all(spelling)[0] == samples
    assert not list(tmp_path.rglob("*.tmp"))
    path, _, query = spelling.partition(":")[2].partition("?")
    if not query:  # the scheme may be left out
        assert [s.image for s in read_all(path)[0]] == [s.image for s in samples]


def test_all_schemes_are_covered():
    schemes = {"tars": "wds", "sidecar": "folder", "metadata": "folder", "parquet": "parquet"}
    covered = {schemes.get(layout.split()[0].split(".")[0], "hf") for layout in LAYOUTS}
    assert covered == set(READERS)


def test_webdatasets_own_writer_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for item in ITEMS:
            writer.write({"__key__": item.key, "png": item.png, "json": {"caption": item.caption}})
    samples, skipped = read_all(str(tmp_path / "a.tar"))
    assert [(s.image, s.caption) for s in samples] == [(i.png, i.caption) for i in ITEMS]
    assert not skipped


def test_ranges_globs_and_compressed_tars(tmp_path):
    write_tars(tmp_path, ITEMS, 4)
    expected = read_all(f"wds:{tmp_path}")[0]
    assert read_all(f"{tmp_path}/{{000..002}}.tar")[0] == expected
    assert read_all(f"wds:{tmp_path}/0*.tar")[0] == expected
    packed = tmp_path / "packed" / "000.tar.gz"
    packed.parent.mkdir()
    with tarfile.open(packed, "w:gz") as tar:
        for item in ITEMS:
            add_member(tar, f"{item.key}.png", item.png)
            add_member(tar, f"{item.key}.txt", item.caption.encode())
    assert [s.caption for s in read_all(f"wds:{packed}")[0]] == [i.caption for i in ITEMS]


def test_remote_shards_are_read_through_fsspec(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/shards/000.tar", write_tar(tmp_path / "a.tar", ITEMS).read_bytes())
    samples, skipped = read_all("wds:memory://shards/{000..000}.tar")
    assert [s.caption for s in samples] == [i.caption for i in ITEMS] and not skipped
    with pytest.raises(ValueError, match=r"memory://shards/001.tar is missing"):
        read_all("wds:memory://shards/001.tar")


def test_columns_can_be_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    columns = {"picture": [i.png for i in ITEMS], "words": [i.caption for i in ITEMS]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="picture, words with --image-column"):
        read_all(str(tmp_path))
    samples, _ = read_all(str(tmp_path), image_column="picture", caption_column="words")
    assert [s.image for s in samples] == [i.png for i in ITEMS]


@pytest.mark.parametrize(
    ("spelling", "sentence"),
    [
        ("zip:a", "unknown data scheme 'zip'"),
        ("wds:", "no location"),
        ("nowhere", "no such folder"),
        ("{tmp}", "holds no tars"),
        ("wds:{tmp}", r"empty: .* has no \*.tar"),
        ("wds:{tmp}/*.tar", "empty"),
        ("wds:{tmp}/{{000..002}}.tar", r"the shard .*000.tar is missing"),
        ("folder:{tmp}", "empty: .* has no images"),
        ("folder:{tmp}/no", "there is no folder"),
        ("parquet:{tmp}", "empty"),
        ("parquet:{tmp}/a.parquet", "a.parquet is missing"),
        ("hf:{tmp}?colour=1", "unknown option 'colour'"),
        ("hf:nobody/nothing", "hf download --repo-type dataset nobody/nothing"),
    ],
)
@pytest.mark.fault(16)
def test_missing_and_empty_data_is_named_at_once(spelling, sentence, tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match=sentence) as caught:
        open_reader(spelling.format(tmp=tmp_path)).shards()
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


def hostile(kind: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("evil.png")
    if kind == "parent":
        member.name = "../evil.png"
    elif kind == "inner parent":
        member.name = "a/../../evil.png"
    elif kind == "absolute":
        member.name = "/tmp/selfe-evil.png"
    elif kind in ("symbolic link", "hard link"):
        member.type = tarfile.SYMTYPE if kind == "symbolic link" else tarfile.LNKTYPE
        member.linkname = "/etc/passwd"
    elif kind == "device":
        member.type = tarfile.CHRTYPE
    return member


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "kind",
    ["parent", "inner parent", "absolute", "symbolic link", "hard link", "device", "oversized"],
)
def test_hostile_members_are_refused_and_nothing_is_written(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MOST_IMAGE_BYTES", 100_000)
    monkeypatch.setattr("selfe.data.readers.tars.MOST_IMAGE_BYTES", 100_000)
    member, content = hostile(kind), ITEMS[0].png
    if kind == "oversized":
        content = bytes(100_001)
    member.size = len(content) if member.isreg() else 0
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        add_member(tar, "0.png", ITEMS[0].png)
        add_member(tar, "0.txt", b"first")
        tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
        add_member(tar, f"{member.name.removesuffix('.png')}.txt", b"a caption")
        add_member(tar, "1.png", ITEMS[1].png)
        add_member(tar, "1.txt", b"last")
    before = snapshot(tmp_path)
    monkeypatch.chdir(folder)
    samples, skipped = read_all(f"wds:{folder}")
    assert [s.caption for s in samples] == ["first", "last"]
    assert len(skipped) == 1 and skipped[0].reason.startswith("refused")
    assert snapshot(tmp_path) == before
    assert not Path("/tmp/selfe-evil.png").exists()


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.fault(14)
@pytest.mark.parametrize("keep", [0, 100, 512, 513, 4000, 9000])
def test_a_truncated_tar_keeps_what_came_before(keep, tmp_path):
    path = write_tar(tmp_path / "a.tar", ITEMS)
    with tarfile.open(path) as tar:
        ends = [m.offset_data + m.size for m in tar.getmembers()]
    content = path.read_bytes()[:keep]
    path.write_bytes(content)
    samples, skipped = read_all(str(path))
    whole = sum(end <= keep for end in ends[1::2])  # a caption is the second file of a sample
    assert [s.image for s in samples] == [i.png for i in ITEMS[:whole]]
    assert any("cut short" in s.reason and s.name == str(path) for s in skipped)


@pytest.mark.fault(14)
def test_a_damaged_header_does_not_end_a_tar_quietly(tmp_path):
    """tarfile and webdataset take it for the end of the archive."""
    path = write_tar(tmp_path / "a.tar", ITEMS)
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[6].offset
    content = bytearray(path.read_bytes())
    content[offset + 10] ^= 0xFF
    path.write_bytes(bytes(content))
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 6
    samples, skipped = read_all(str(path))
    assert [s.image for s in samples] == [i.png for i in ITEMS[:3]]
    assert [s.name for s in skipped] == [str(path)] and "after 0002.txt" in skipped[0].reason


@pytest.mark.fault
def test_samples_without_image_or_caption_are_skipped(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_member(tar, "0.png", ITEMS[0].png)
        add_member(tar, "1.txt", b"a caption")
        add_member(tar, "2.png", ITEMS[0].png)
        add_member(tar, "2.txt", b"\xff\xfe")
        add_member(tar, "3.png", ITEMS[0].png)
        add_member(tar, "3.json", b"{broken")
        add_member(tar, "4.png", ITEMS[0].png)
        add_member(tar, "4.txt", b"")
    samples, skipped = read_all(str(tmp_path / "a.tar"))
    assert [s.reason.partition(" (")[0] for s in skipped] == [
        "no caption",
        "no image",
        "unreadable caption",
        "unreadable record",
    ]
    assert [s.caption for s in samples] == [""]  # an empty caption is one: the null prompt


def test_names_that_come_again_in_a_tar_lose_nothing(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for item in ITEMS[:2]:
            add_member(tar, "same.png", item.png)
            add_member(tar, "same.txt", item.caption.encode())
        add_member(tar, "same.png", ITEMS[2].png)  # its caption is missing: it gets no other
        add_member(tar, "same.png", ITEMS[3].png)
        add_member(tar, "same.txt", ITEMS[3].caption.encode())
    samples, skipped = read_all(str(tmp_path / "a.tar"))
    read = [(s.image, s.caption) for s in samples]
    assert read == [(ITEMS[i].png, ITEMS[i].caption) for i in (0, 1, 3)]
    assert [s.reason for s in skipped] == ["no caption"]


def test_metadata_names_an_image_once_and_has_captions(tmp_path):
    write_folder(tmp_path / "a", ITEMS[:2], "csv")
    table = tmp_path / "a" / "metadata.csv"
    table.write_text(table.read_text(), encoding="utf-8-sig")  # as spreadsheets save it
    assert len(read_all(f"folder:{tmp_path / 'a'}")[0]) == 2
    table.write_text(f"file_name,text\n{ITEMS[0].key}.png,a\n{ITEMS[0].key}.png,b\n")
    with pytest.raises(ValueError, match=r"line 3: 0000.png was listed in line 2 already"):
        read_all(f"folder:{tmp_path / 'a'}")
    table.write_text(f"file_name,words\n{ITEMS[0].key}.png,a\n")
    with pytest.raises(ValueError, match="name one of file_name, words with --caption-column"):
        read_all(f"folder:{tmp_path / 'a'}")
    assert len(read_all(f"folder:{tmp_path / 'a'}", caption_column="words")[0]) == 1
    table.write_text("picture,text\n0000.png,a\n")
    with pytest.raises(
        ValueError, match=r"line 2: no name of an image \(expected .*, found picture, text"
    ):
        read_all(f"folder:{tmp_path / 'a'}")


def test_captions_beside_images_may_be_in_capitals(tmp_path):
    (tmp_path / "UP.PNG").write_bytes(ITEMS[0].png)
    (tmp_path / "UP.TXT").write_text("a caption")
    samples, skipped = read_all(f"folder:{tmp_path}")
    assert [s.caption for s in samples] == ["a caption"] and not skipped


@pytest.mark.fault
def test_a_stream_that_breaks_off_is_named(tmp_path):
    reader = open_reader(LAYOUTS["streamed data set"](tmp_path, ITEMS))

    class Breaking:
        num_shards = 1

        def shard(self, num_shards, index):
            yield {"image": {"bytes": ITEMS[0].png, "path": None}, "caption": "first"}
            raise ConnectionError("the line is dead")

    reader.data = Breaking()
    sample, skipped = reader.read("stream 0")
    assert sample.caption == "first"
    assert "after row 0 (the line is dead)" in skipped.reason


@pytest.mark.fault(15)
def test_paths_in_tables_do_not_lead_out(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.png").write_bytes(ITEMS[0].png)
    (tmp_path / "out.png").write_bytes(ITEMS[0].png)
    names = ["in.png", "../out.png", str(tmp_path / "out.png"), "gone.png"]
    table = {"image": [{"bytes": None, "path": n} for n in names], "text": ["x"] * 4}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "data" / "a.parquet")
    samples, skipped = read_all(f"parquet:{tmp_path / 'data'}")
    assert len(samples) == 1
    assert [s.reason.split()[0] for s in skipped] == ["refused:", "refused:", "gone.png"]


@pytest.mark.fault
def test_folders_name_what_is_wrong(tmp_path):
    write_folder(tmp_path / "a", ITEMS[:3])
    (tmp_path / "a" / "0001.txt").unlink()
    samples, (skipped,) = read_all(f"folder:{tmp_path / 'a'}")
    assert len(samples) == 2 and skipped.name.endswith("0001.png")
    write_folder(tmp_path / "b", ITEMS[:3], "jsonl")
    metadata = tmp_path / "b" / "metadata.jsonl"
    whole = metadata.read_text()
    metadata.write_text(whole + '{"file_name": "../a/0000.png", "text": "x"}\n')
    samples, (skipped,) = read_all(f"folder:{tmp_path / 'b'}")
    assert len(samples) == 3 and "leads out" in skipped.reason
    (tmp_path / "b" / "0002.png").unlink()
    metadata.write_text(whole)
    samples, (skipped,) = read_all(f"folder:{tmp_path / 'b'}")
    assert len(samples) == 2 and "cannot be read" in skipped.reason
    metadata.write_text(whole + "{broken\n")
    samples, skipped = read_all(f"folder:{tmp_path / 'b'}")
    assert len(samples) == 2 and "metadata.jsonl, line 4" in skipped[0].name
    metadata.write_text("{broken\n")
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 1: unreadable record"):
        read_all(f"folder:{tmp_path / 'b'}")


@pytest.mark.fault
def test_a_damaged_parquet_page_costs_exactly_its_rows(tmp_path):
    path = Path(write_parquet(tmp_path / "a.parquet", ITEMS, row_group=4)[8:])
    place = path.read_bytes().find(ITEMS[5].png[-60:])
    assert place > 0
    content = bytearray(path.read_bytes())
    content[place + 5] ^= 0xFF
    path.write_bytes(bytes(content))
    samples, skipped = read_all(str(path))
    assert sum(s.samples for s in skipped) == 4
    kept = ITEMS[:4] + ITEMS[8:]
    assert [s.image for s in samples] == [i.png for i in kept]
    path.write_bytes(bytes(content[:-100]))
    with pytest.raises(ValueError, match="a.parquet cannot be read as parquet"):
        read_all(str(path))


def test_spellings():
    assert split_spelling("wds:a/b.tar") == ("wds", "a/b.tar")
    assert split_spelling("https://host/{0..3}.tar") == ("wds", "https://host/{0..3}.tar")
    assert split_spelling("hf:org/name?split=test") == ("hf", "org/name?split=test")
    assert split_spelling("C/x.parquet") == ("parquet", "C/x.parquet")
