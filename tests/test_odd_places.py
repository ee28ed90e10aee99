"""Data in odd places: all of it is read, or what is not is named; nothing hangs or fills memory.

Longer than other files: every odd place and packing has its test.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from selfe.data.readers.base import open_reader
from selfe.data.readers.locations import expand
from selfe.text import without_secrets
from tests.helpers.image_data import add_member
from tests.test_odd_samples import PNG, read_all

ENDINGS = ("jpg", "JPG", "JPEG", "gif", "avif", "image.jpg")


def put(path: Path, content: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pair(folder: Path, name: str) -> None:
    put(folder / f"{name}.png")
    put(folder / f"{name}.txt", name.encode())


def tar_of(*members: tuple[str, bytes], packed: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{packed}") as tar:
        for name, content in members:
            add_member(tar, name, content)
    return buffer.getvalue()


def captions(spelling: str, **columns: str) -> list[str]:
    samples, skipped = read_all(spelling, **columns)
    assert not [s for s in skipped if s.samples], skipped
    return [s.caption for s in samples]


def test_linked_folders_are_entered_once_and_hidden_ones_never(tmp_path: Path) -> None:
    pair(tmp_path / "far", "a")
    mine = tmp_path / "mine"
    pair(mine, "z")
    pair(mine / "deep", "y")
    (mine / "far").symlink_to("../far")
    (mine / "again").symlink_to("deep")
    (mine / "circle").symlink_to("..", target_is_directory=True)
    for hidden in (".ipynb_checkpoints", "__MACOSX", "deep/.old", "@eaDir", "#recycle"):
        pair(mine / hidden, "old")
    put(mine / "._z.png")
    assert sorted(captions(f"folder:{mine}")) == ["a", "y", "z"]
    (mine / "self.png").symlink_to("self.png")
    (mine / "gone.png").symlink_to("nowhere.png")
    samples, skipped = read_all(f"folder:{mine}")
    assert len(samples) == 3
    assert [Path(s.name).name for s in skipped] == ["gone.png", "self.png"]
    assert all("cannot be read" in s.reason for s in skipped)


def test_linked_images_are_read(tmp_path: Path) -> None:
    """As in a snapshot of the hub's cache, metadata or not."""
    pair(tmp_path / "blobs", "a")
    (tmp_path / "data").mkdir()
    for name in ("a.png", "a.txt"):
        (tmp_path / "data" / name).symlink_to(f"../blobs/{name}")
    assert captions(f"folder:{tmp_path / 'data'}") == ["a"]
    put(tmp_path / "data" / "metadata.csv", b"file_name,text\na.png,listed\n")
    assert captions(f"folder:{tmp_path / 'data'}") == ["listed"]


def test_tars_of_any_spelling_and_packing_are_found(tmp_path: Path) -> None:
    for number, name in enumerate(["0.tar", "1.TAR", "2.tar.gz", "3.tgz", "4.tar.xz", "5.tar.bz2"]):
        packed = {"gz": "gz", "tgz": "gz", "xz": "xz", "bz2": "bz2"}.get(name.split(".")[-1], "")
        content = tar_of(("./a.png", PNG), ("./a.txt", str(number).encode()), packed=packed)
        put(tmp_path / "tars" / name, content)
    put(tmp_path / "far" / "6.tar", tar_of(("a.png", PNG), ("a.txt", b"6")))
    (tmp_path / "tars" / "more").symlink_to("../far")
    put(tmp_path / "tars" / ".old.tar", b"not data")
    put(tmp_path / "tars" / "0_stats.json", b"{}")
    for spelling in (f"wds:{tmp_path}/tars", f"{tmp_path}/tars", f"wds:{tmp_path}/ta*"):
        assert captions(spelling) == list("0123456"), spelling
    assert captions(f"wds:{tmp_path}/tars/*") == list("0123456")[:6]
    put(tmp_path / "tars" / "7.tar.zst", b"(\xb5/\xfd")
    with pytest.raises(ValueError, match=r"7\.tar\.zst is packed in a way that is not read"):
        open_reader(f"wds:{tmp_path}/tars")


def test_a_tar_and_links_to_it_are_read_once(tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    put(tars / "1.tar", tar_of(("a.png", PNG), ("a.txt", b"1")))
    put(tmp_path / "far" / "2.tar", tar_of(("a.png", PNG), ("a.txt", b"2")))
    for link, target in (("0", "1.tar"), ("3", "../far/2.tar"), ("4", "../far/2.tar")):
        (tars / f"{link}.tar").symlink_to(target)
    for spelling in (f"wds:{tars}", f"wds:{tars}/*.tar"):
        assert captions(spelling) == ["1", "2"]
    assert captions(f"wds:{tars}/{{0..1}}.tar") == ["1", "1"]  # both were named


@pytest.mark.parametrize("name", ["1.TAR", "more/1.tar"])
def test_tars_that_the_datasets_library_passes_over_are_named(name: str, tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    put(tars / "0.tar", tar_of(("a.png", PNG), ("a.txt", b"0")))
    put(tars / "deep" / "2.tar", tar_of(("a.png", PNG), ("a.txt", b"2")))
    assert sorted(captions(f"hf:{tars}")) == ["0", "2"]
    (tmp_path / "far").mkdir()
    (tars / "more").symlink_to("../far")
    put(tars / name, tar_of(("a.png", PNG), ("a.txt", b"1")))
    with pytest.raises(ValueError, match=rf"2 of 3 files, and not {name}: say wds:"):
        open_reader(f"hf:{tars}")


def test_brackets_in_names_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "[2024] {0..1}"
    for number in range(2):
        put(folder / f"{number}.tar", tar_of(("a.png", PNG), ("a.txt", str(number).encode())))
    assert captions(f"wds:{folder}") == ["0", "1"]
    assert captions(f"wds:{folder}/1.tar") == ["1"]
    assert captions(f"wds:{folder}/*.tar") == ["0", "1"]
    plain = tmp_path / "[a]"
    folder.rename(plain)
    assert captions(f"wds:{plain}/{{0..1}}.tar") == ["0", "1"]
    with pytest.raises(ValueError, match=r"\[a\]/2.tar is missing"):
        read_all(f"wds:{plain}/{{0..2}}.tar")


@pytest.mark.parametrize(
    ("location", "sentence"),
    [("a{5..2}.tar", "names no shard"), ("a{0..99999999999}.tar", "names too many shards")],
)
def test_ranges_that_cannot_be_meant(location: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        expand(location, (".tar",))


def test_metadata_speaks_for_its_own_folder(tmp_path: Path) -> None:
    pair(tmp_path / "beside", "own")
    for name in ("a.png", "deeper/b.png", "c.png"):
        put(tmp_path / "train" / name)
    rows = b'{"file_name": "a.png", "text": "A"}\n{"file_name": "deeper/b.png", "text": "B"}\n'
    put(tmp_path / "train" / "metadata.jsonl", rows)
    samples, skipped = read_all(f"folder:{tmp_path}")
    assert [s.caption for s in samples] == ["own", "A", "B"]
    (told,) = skipped
    assert told.samples == 0 and told.reason.endswith("that it does not list (1)")
    put(tmp_path / "train" / "metadata.csv", b"file_name,text\nc.png,C\n")
    with pytest.raises(ValueError, match="metadata.*keep one"):
        open_reader(f"folder:{tmp_path}")


def test_what_a_folder_holds_beside_images_is_told(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    put(tmp_path / "b.HEIC", b"ftypheic")
    put(tmp_path / "b.txt", b"B")
    put(tmp_path / "more.zip", b"PK")
    samples, skipped = read_all(f"folder:{tmp_path}")
    assert [s.key for s in samples] == ["a.png", "b.HEIC"]  # the decoder names its format
    (told,) = skipped
    assert told.samples == 0 and "archives, the first is more.zip" in told.reason


def test_the_kind_of_a_folder_is_told_or_asked_for(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    files = tmp_path / "files"  # as img2dataset writes them
    for number in range(2):
        pair(files / "00000", str(number))
    listing = pyarrow.table({"url": ["u"] * 2, "caption": ["c"] * 2, "status": ["success"] * 2})
    pyarrow.parquet.write_table(listing, files / "00000.parquet")
    assert captions(str(files)) == ["0", "1"]
    images = pyarrow.table({"image": [PNG], "caption": ["in the table"]})
    (tmp_path / "table").mkdir()
    pyarrow.parquet.write_table(images, tmp_path / "table" / "a.PARQUET")
    assert captions(str(tmp_path / "table")) == ["in the table"]
    pair(tmp_path / "table", "loose")
    with pytest.raises(ValueError, match="say folder:.* or parquet:"):
        open_reader(str(tmp_path / "table"))
    put(tmp_path / "files" / "0.tar", tar_of(("a.png", PNG), ("a.txt", b"x")))
    with pytest.raises(ValueError, match="say wds:.* or folder:"):
        open_reader(str(files))


def test_bytes_are_preferred_to_a_path_beside_them(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    put(tmp_path / "a.png")
    columns = {"image": ["gone.png"], "image_bytes": [PNG], "caption": ["x"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "two.parquet")
    assert captions(f"parquet:{tmp_path}/two.parquet") == ["x"]
    columns = {"image": ["a.png"], "caption": ["by its path"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "path.parquet")
    assert captions(f"parquet:{tmp_path}/path.parquet") == ["by its path"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_images_of_a_tar_under_any_usual_ending(ending: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.tar", tar_of((f"a.{ending}", PNG), ("a.txt", b"x")))
    assert captions(f"wds:{path}") == ["x"]
    assert captions(f"wds:{path}", image_column=ending) == ["x"]
    assert captions(f"wds:{path}", image_column=f".{ending.upper()}") == ["x"]


def test_files_of_macos_in_a_tar_cost_nothing(tmp_path: Path) -> None:
    members = [("._a.png", b"x"), ("a.png", PNG), ("._a.txt", b"x"), ("a.txt", b"A"),
               ("__MACOSX/._a.png", b"x"), ("d/.DS_Store", b"x"), ("d/b.png", PNG),
               ("d/.cache/b.txt", b"no"), ("d/b.txt", b"B")]  # fmt: skip
    assert captions(f"wds:{put(tmp_path / 'a.tar', tar_of(*members))}") == ["A", "B"]


@pytest.mark.fault(14)
def test_members_that_are_no_samples_are_named_with_what_they_have(tmp_path: Path) -> None:
    members = [("a.mask.png", PNG), ("a.txt", b"A"), ("b.png", PNG), ("b.npy", bytes(100))]
    samples, skipped = read_all(f"wds:{put(tmp_path / 'a.tar', tar_of(*members))}")
    assert not samples
    assert skipped[0].reason == "no image (its files: .mask.png, .txt)"
    assert skipped[1].reason == "no caption"


@pytest.mark.fault(14)
def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path)
    (tmp_path / "x").mkdir()
    for ending, content in ((b".png", PNG), (b".txt", b"caption")):
        with open(raw + b"/x/caf\xe9" + ending, "wb") as file:
            file.write(content)
    (tmp_path / "caption.txt").write_text("x")
    samples, skipped = read_all(f"folder:{tmp_path / 'x'}")
    assert [s.key for s in samples] == ["caf\\udce9.png"] and not skipped
    content = tar_of(("caf\udce9.png", PNG), ("caf\udce9.txt", b"in a tar"))
    samples, skipped = read_all(f"wds:{put(tmp_path / 'a.tar', content)}")
    assert [s.caption for s in samples] == ["in a tar"] and samples[0].key.encode()
    (tmp_path / "x" / os.fsdecode(b"caf\xe9.txt")).unlink()
    _, (skipped_one,) = read_all(f"folder:{tmp_path / 'x'}")
    assert skipped_one.name.endswith("caf\\udce9.png")


@pytest.mark.fault(15)
def test_pipes_and_endless_files_are_not_read(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    os.mkfifo(tmp_path / "b.png")
    put(tmp_path / "c.png")
    os.mkfifo(tmp_path / "c.txt")
    put(tmp_path / "d.png")
    with open(tmp_path / "d.txt", "wb") as file:
        file.truncate(64 * 2**30)
    with open(tmp_path / "e.png", "wb") as file:
        file.truncate(64 * 2**30)
    samples, skipped = read_all(f"folder:{tmp_path}")
    assert [s.caption for s in samples] == ["a"]
    assert [s.reason.partition(":")[0] for s in skipped] == ["refused"] * 4
    os.mkfifo(tmp_path / "f.tar")
    with pytest.raises(ValueError, match="f.tar is not a plain file"):
        read_all(f"wds:{tmp_path / 'f.tar'}")
    with open(tmp_path / "metadata.jsonl", "wb") as file:
        file.truncate(64 * 2**30)
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 1: longer than"):
        open_reader(f"folder:{tmp_path}")


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[148:156] = size, b"00000000000\0", b" " * 8
    block[156:157], block[257:265] = kind, b"ustar\00000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_pipe_in_place_of_metadata_is_named(name: str, tmp_path: Path) -> None:
    pair(tmp_path, "a")
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} cannot be read .*not a plain file"):
        open_reader(f"folder:{tmp_path}")


def test_what_lies_behind_the_end_of_a_tar_is_told(tmp_path: Path) -> None:
    one, two = (tar_of(("a.png", PNG), ("a.txt", text)) for text in (b"1", b"2"))
    samples, (skipped,) = read_all(f"wds:{put(tmp_path / 'a.tar', one + two)}")
    assert [s.caption for s in samples] == ["1"] and "joined with cat" in skipped.reason
    samples, skips = read_all(f"wds:{put(tmp_path / 'b.tar', one + bytes(100_000))}")
    assert [s.caption for s in samples] == ["1"] and not skips
    for content in (tar_of(), bytes(50_000), tar_of(packed="gz")):  # a file that was never filled
        samples, (told,) = read_all(f"wds:{put(tmp_path / 'c.tar', content)}")
        assert not samples and told.reason == "the tar is empty"


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "state",
    ["", "[1]", "[" * 100_000, "{}", '{"_data_files": [1]}', '{"_data_files": [{"filename": 1}]}',
     '{"_data_files": [{"filename": "../../x.arrow"}]}', '{"_data_files": [{"filename": "/x"}]}'],
)  # fmt: skip
def test_saved_data_whose_state_is_damaged_or_leads_out(state: str, tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"image": [PNG], "text": ["a"]})
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "several"))
    for root, folder in (("one", "one"), ("several", "several/train")):
        assert len(read_all(f"hf:{tmp_path / root}")[0]) == 1
        (tmp_path / folder / "state.json").write_text(state)
        with pytest.raises(ValueError, match=f"{root} is no sound saved data set"):
            open_reader(f"hf:{tmp_path / root}")
    for splits in ('{"splits": ["../one"]}', '{"splits": 1}', "[]"):
        (tmp_path / "several" / "dataset_dict.json").write_text(splits)
        with pytest.raises(ValueError, match="several is no sound saved data set"):
            open_reader(f"hf:{tmp_path / 'several'}")


MINUS = (256**12 - 512).to_bytes(12, "big")


def whole_sample() -> bytes:
    content = tar_of(("a.png", PNG), ("a.txt", b"A"))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        last = tar.getmembers()[-1]
    return content[: last.offset_data + 512]


@pytest.mark.fault(15)
@pytest.mark.parametrize("packed", ["", "gz"])
@pytest.mark.parametrize(
    "evil",
    [
        header(b"b.png", MINUS),
        header(b"././@LongLink", MINUS, b"L"),
        header(b"././@LongLink", b"%011o\0" % (6 << 30), b"L"),
        header(b"pax", b"%011o\0" % (6 << 30), b"x"),
        header(b"pax", b"%011o\0" % 20, b"x") + b"20 size=-512\n".ljust(512, b"\0")
        + header(b"b.png", b"00000000000\0"),
        (header(b"pax", b"%011o\0" % 11, b"x") + b"11 a=bbbbb\n".ljust(512, b"\0")) * 2000,
        header(b"b.png", b"%011o\0" % 0o77777777777),
        b"\xff" * 512,
    ],
    ids=["negative", "negative name", "long name", "long header", "negative in a header", "chain",
         "beyond the end", "noise"],
)  # fmt: skip
def test_hostile_headers_end_a_tar_and_nothing_else(
    evil: bytes, packed: str, tmp_path: Path
) -> None:
    content = whole_sample() + evil + bytes(1024)
    path = put(tmp_path / "a.tar", gzip.compress(content, 1) if packed else content)
    samples, skipped = read_all(f"wds:{path}")
    assert [s.caption for s in samples] == ["A"]
    assert skipped and all(str(path) in s.name for s in skipped)


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it has no bytes"),
        (b"<html>no</html>" * 100, "damaged"),
        (lzma.compress(whole_sample())[:-40], "damaged"),
        (gzip.compress(whole_sample())[:-20], "damaged"),
    ],
    ids=["empty", "page", "xz", "gz"],
)
def test_damaged_tars_are_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    _, skipped = read_all(f"wds:{put(tmp_path / 'a.tar', content)}")
    assert words in skipped[-1].reason and "\n" not in skipped[-1].reason


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://h/a.tar?X-Sig=abc&part=1", "https://h/a.tar?X-Sig=***&part=***"),
        ("https://me:key@h/a.tar", "https://***@h/a.tar"),
        ("simplecache::s3://k:s@b/{0..3}.tar#t", "simplecache::s3://***@b/{0..3}.tar#***"),
        ("hf:owner/name?split=train", "hf:owner/name?split=train"),
        ("/data/a?b=c.tar", "/data/a?b=c.tar"),
        ("got https://h/a?k=v and https://h/b?c", "got https://h/a?k=*** and https://h/b?***"),
    ],
)
def test_secrets_of_urls_are_hidden(text: str, wanted: str) -> None:
    assert without_secrets(text) == wanted
    assert without_secrets(wanted) == wanted


def test_secrets_are_in_no_name_or_reason(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    content = tar_of(("a.png", PNG), ("a.txt", b"A"), ("b.png", PNG))
    memory.pipe("/s.tar?sig=SECRET", content)
    samples, skipped = read_all("wds:memory://s.tar?sig=SECRET")
    assert len(samples) == 1 and len(skipped) == 1
    assert "SECRET" not in samples[0].key + skipped[0].name + skipped[0].reason
    with pytest.raises(ValueError, match="is missing") as caught:
        read_all("wds:memory://gone.tar?sig=SECRET")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be opened"):
        read_all("wds:nothing://a.tar")
