"""`selfe-bench prepare`: what is stored, kills, sharing of work, damage.

Longer than other files: all of it is one command and what may happen to it.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from selfe.cli.prepare import describe
from selfe.data.in_memory import fake_caption
from selfe.data.latent_cache.buckets import Bucket
from selfe.data.latent_cache.encode_shard import PrepareSettings
from selfe.data.latent_cache.images import fit_to_bucket
from selfe.data.latent_cache.index import SAMPLES, CacheIndex, read_index, write_index
from selfe.data.latent_cache.prepare import prepare, verify_cache
from selfe.data.readers.base import open_reader
from selfe.data.shapes_latents import images_to_float
from selfe.encoders.registry import load_codec
from selfe.encoders.shapes import ShapesTextEncoder
from selfe.images import decode_image
from tests.helpers.image_data import (
    add_member,
    make_items,
    write_folder,
    write_parquet,
    write_tar,
    write_tars,
)

SIZES = ((32, 32), (32, 32), (40, 64), (64, 40), (16, 16))
ITEMS = make_items(30, SIZES)
FIT = [item for i, item in enumerate(ITEMS) if i % 5 != 4]
"""Those that need no enlargement at 32 pixels."""


def run_prepare(spelling: str, out: Path, **options: object) -> CacheIndex | None:
    names = PrepareSettings.__dataclass_fields__
    settings = {"codec": "shapes-grid", "text": "shapes", "sizes": (32,), "batch_size": 4}
    settings |= {key: value for key, value in options.items() if key in names}
    rest = {key: value for key, value in options.items() if key not in names}
    return prepare(
        PrepareSettings(data=spelling, **settings),
        out,
        open_reader(spelling),
        load_codec("shapes-grid", "cpu"),
        ShapesTextEncoder(),
        **{"max_skipped": 1.0, **rest},
    )


def rows_of(out: Path, name: str) -> list[dict]:
    """All rows of one kind of file, as the `datasets` library reads them."""
    import datasets

    rows = []
    for folder in sorted((out / "shards").iterdir()):
        if (folder / name).is_file():
            data = datasets.Dataset.from_file(str(folder / name))
            assert data.cache_files, "memory-mapped"
            rows += [{**row, "shard": folder.name} for row in data]
    return rows


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_stored(tmp_path):
    index = run_prepare(write_tars(tmp_path / "tars", ITEMS, 10), tmp_path / "out", fake=True)
    assert index == read_index(tmp_path / "out")
    samples = rows_of(tmp_path / "out", SAMPLES)
    assert [s["caption"] for s in samples] == [item.caption for item in FIT]
    assert [s["sha256"] for s in samples] == [hashlib.sha256(i.png).hexdigest() for i in FIT]
    assert sum(shard.too_small for shard in index.shards) == 6
    assert sum(shard.seen for shard in index.shards) == 30
    text = ShapesTextEncoder()
    for row, item in zip(samples, FIT, strict=True):
        for prefix, caption in (("", item.caption), ("fake_", fake_caption(item.caption))):
            condition = text.encode([caption])
            assert row[f"{prefix}tokens"] == condition.tokens[0].half().numpy().tobytes()
            assert row[f"{prefix}pooled"] == condition.pooled[0].half().numpy().tobytes()
    prompts = load_file(tmp_path / "out" / "prompts.safetensors")
    assert torch.equal(prompts["null.tokens"], text.encode([""]).tokens[0].half())
    assert torch.equal(prompts["fake.tokens"], text.encode(["fake image"]).tokens[0].half())


def test_latents_are_those_of_the_fitted_images_in_their_buckets(tmp_path):
    index = run_prepare(write_tars(tmp_path / "tars", ITEMS, 10), tmp_path / "out")
    square, wide, tall = (Bucket(32, h, w) for h, w in ((32, 32), (24, 40), (40, 24)))
    assert index.bucket_sizes() == {wide: 6, square: 12, tall: 6}
    assert index.samples == 24
    codec = load_codec("shapes-grid", "cpu")
    samples = rows_of(tmp_path / "out", SAMPLES)
    starts = {s["shard"]: i for i, s in reversed(list(enumerate(samples)))}
    for bucket in (square, wide, tall):
        for row in rows_of(tmp_path / "out", f"{bucket.name}.arrow"):
            item = FIT[starts[row["shard"]] + row["sample"]]
            pixels = torch.from_numpy(fit_to_bucket(decode_image(item.png), bucket).copy())
            expected = codec.encode(images_to_float(pixels[None]))[0]
            stored = torch.from_numpy(np.frombuffer(row["latents"], np.float16).copy())
            assert torch.allclose(
                stored.view(4, bucket.height // 4, bucket.width // 4).float(), expected, atol=2e-2
            )


def test_two_families_share_the_text(tmp_path):
    index = run_prepare(
        write_tars(tmp_path / "tars", ITEMS, 10), tmp_path / "out", sizes=(32, 64), min_size=16
    )
    sizes = index.bucket_sizes()
    assert index.samples == 30
    for family in (32, 64):
        assert sum(n for b, n in sizes.items() if b.family == family) == 30


def test_bf16_is_stored_as_bf16(tmp_path):
    run_prepare(write_tars(tmp_path / "tars", ITEMS[:4], 10), tmp_path / "out", dtype="bf16")
    row = rows_of(tmp_path / "out", SAMPLES)[0]
    pooled = torch.frombuffer(bytearray(row["pooled"]), dtype=torch.bfloat16)
    assert torch.equal(pooled, ShapesTextEncoder().encode([ITEMS[0].caption]).pooled[0].bfloat16())


def test_cut_captions_are_counted_and_reported(tmp_path):
    items = [ITEMS[0], ITEMS[1]]
    long = " ".join(["word"] * 24)  # one more than fits beside the begin token
    path = write_tar(tmp_path / "a.tar", items)
    with tarfile.open(path, "a") as tar:
        add_member(tar, "x.png", ITEMS[0].png)
        add_member(tar, "x.txt", long.encode())
    index = run_prepare(str(path), tmp_path / "out")
    assert index.shards[0].truncated == {"shapes": 1}
    assert "captions that lost their end: 1 (shapes)" in describe(tmp_path / "out", index)
    assert json.loads((tmp_path / "out" / "index.json").read_text())["shards"][0]["truncated"]


def test_the_result_does_not_depend_on_processes_threads_or_order(tmp_path):
    spelling = write_tars(tmp_path / "tars", ITEMS, 7)
    assert run_prepare(spelling, tmp_path / "one", workers=3) is not None
    for rank in (2, 0):
        assert run_prepare(spelling, tmp_path / "three", rank=rank, world_size=3) is None
    assert run_prepare(spelling, tmp_path / "three", rank=1, world_size=3) is not None
    assert tree(tmp_path / "one") == tree(tmp_path / "three")
    before = tree(tmp_path / "one")
    assert run_prepare(spelling, tmp_path / "one") is not None
    assert tree(tmp_path / "one") == before


def test_a_limit_is_spread_over_the_shards(tmp_path):
    index = run_prepare(write_tars(tmp_path / "tars", ITEMS, 10), tmp_path / "out", limit=7)
    assert [shard.seen for shard in index.shards] == [3, 2, 2]


def test_other_settings_do_not_go_on(tmp_path):
    spelling = write_tars(tmp_path / "tars", ITEMS[:5], 5)
    run_prepare(spelling, tmp_path / "out")
    with pytest.raises(ValueError, match="started with another dtype, fake: .* another --out"):
        run_prepare(spelling, tmp_path / "out", dtype="bf16", fake=True)
    write_tar(tmp_path / "tars" / "more.tar", ITEMS[:2])
    with pytest.raises(ValueError, match="started with another shards"):
        run_prepare(spelling, tmp_path / "out")


def test_another_encoder_does_not_go_on(tmp_path):
    spelling = write_tars(tmp_path / "tars", ITEMS[:5], 5)
    run_prepare(spelling, tmp_path / "out")
    text = ShapesTextEncoder()
    text.digest = "other"
    with pytest.raises(ValueError, match="was started with another text"):
        prepare(
            PrepareSettings(spelling, "shapes-grid", "shapes", (32,), batch_size=4),
            tmp_path / "out",
            open_reader(spelling),
            load_codec("shapes-grid", "cpu"),
            text,
        )


def spoil(png: bytes, how: str) -> bytes:
    return png[: len(png) // 2] if how == "truncated" else b"\0" * 8 + png[8:]


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", ["truncated", "overwritten"])
def test_damaged_images_are_skipped_counted_and_named(how, tmp_path):
    broken = [2, 11]
    items = [
        type(item)(item.key, spoil(item.png, how) if i in broken else item.png, item.caption)
        for i, item in enumerate(ITEMS)
    ]
    spelling = write_tars(tmp_path / "tars", items, 10)
    index = run_prepare(spelling, tmp_path / "out")
    skipped = [s for shard in index.shards for s in shard.skipped]
    assert [s.name[-4:] for s in skipped] == ["0002", "0011"]
    assert "skipped as damaged: 2" in describe(tmp_path / "out", index)
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [s.name for s in skipped]
    captions = [row["caption"] for row in rows_of(tmp_path / "out", SAMPLES)]
    assert captions == [x.caption for i, x in enumerate(ITEMS) if i % 5 != 4 and i not in broken]


@pytest.mark.fault(14)
def test_too_much_damage_ends_the_work_with_count_and_names(tmp_path):
    items = make_items(40)
    items[3] = type(items[3])(items[3].key, b"nothing", items[3].caption)
    spelling = write_tars(tmp_path / "tars", items, 10)
    with pytest.raises(ValueError, match=r"1 of 40 samples \(2.50%\) are damaged.*000.tar/0003"):
        run_prepare(spelling, tmp_path / "out", max_skipped=0.024)
    assert not (tmp_path / "out" / "index.json").exists()
    assert run_prepare(spelling, tmp_path / "out", max_skipped=0.025) is not None


@pytest.mark.fault(14)
def test_much_damage_is_noticed_before_everything_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr("selfe.data.latent_cache.prepare.ENOUGH_TO_JUDGE", 3)
    spelling = write_tars(tmp_path / "tars", ITEMS, 10)
    first = tmp_path / "tars" / "000.tar"
    first.write_bytes(first.read_bytes()[:9000])
    with pytest.raises(ValueError, match="are damaged"):
        run_prepare(spelling, tmp_path / "out", max_skipped=0.001)
    assert not (tmp_path / "out" / "shards" / "000001").exists()


@pytest.mark.fault(16)
def test_nothing_usable_is_said(tmp_path):
    spelling = write_folder(tmp_path / "images", make_items(3, ((16, 16),)))
    with pytest.raises(ValueError, match=r"none of the 3 samples .*\(3 smaller than"):
        run_prepare(spelling, tmp_path / "out")
    spelling = write_folder(tmp_path / "bare", ITEMS[:2])
    for caption in (tmp_path / "bare").glob("*.txt"):
        caption.unlink()
    with pytest.raises(ValueError, match=r"none of the 2 samples .*\(2 no caption\)"):
        run_prepare(spelling, tmp_path / "none")
    assert len((tmp_path / "none" / "skipped.jsonl").read_text().splitlines()) == 2


def test_empty_captions_are_counted(tmp_path):
    items = [type(i)(i.key, i.png, "" if i is ITEMS[1] else i.caption) for i in ITEMS[:3]]
    index = run_prepare(write_folder(tmp_path / "images", items), tmp_path / "out")
    assert "captions without a word: 1" in describe(tmp_path / "out", index)
    index = run_prepare(write_folder(tmp_path / "others", ITEMS[:3]), tmp_path / "all")
    assert "without a word" not in describe(tmp_path / "all", index)


@pytest.mark.parametrize("how", ["folder", "captions", "jsonl", "tars", "parquet"])
def test_changed_data_is_noticed(how, tmp_path):
    """An unfinished cache is made of the new data, a finished one is left to its runs."""

    def write(items):
        if how == "tars":
            return write_tars(tmp_path / "data", items, 8)
        if how == "parquet":
            return write_parquet(tmp_path / "data" / "a.parquet", items)
        return write_folder(tmp_path / "data", items, "jsonl" if how == "jsonl" else "txt")

    def caption(words):
        return [type(ITEMS[0])(i.key, i.png, i.caption + words) for i in ITEMS[:4]]

    more = ITEMS[:6] if how in ("folder", "tars", "parquet") else caption(" at night")
    unfinished, finished = tmp_path / "unfinished", tmp_path / "finished"
    spelling = write(ITEMS[:4])
    for out in (unfinished, finished):
        assert len(run_prepare(spelling, out).shards) == 1
    (unfinished / "index.json").unlink()
    before = tree(finished)
    write(more)
    said: list[str] = []
    index = run_prepare(spelling, unfinished, message=said.append)
    assert "made of other data" in said[0]
    assert index == run_prepare(spelling, tmp_path / "anew")
    with pytest.raises(ValueError, match="the data of .* changed since"):
        run_prepare(spelling, finished)
    assert tree(finished) == before


def test_what_was_not_noted_by_earlier_versions_is_not_asked_for(tmp_path):
    spelling = write_folder(tmp_path / "images", ITEMS[:3])
    out = tmp_path / "out"
    index = run_prepare(spelling, out)
    shard = index.shards[0]
    old = CacheIndex(**{**index.__dict__, "shards": (replace(shard, source=""),)})
    assert "source" not in old.shards[0].as_json()
    (out / "shards" / "000000" / "shard.json").write_text(json.dumps(old.shards[0].as_json()))
    write_index(out, old)
    stored = (out / "index.json").read_bytes()
    write_folder(tmp_path / "images", ITEMS[:4])
    run_prepare(spelling, out)
    assert (out / "index.json").read_bytes() == stored


@pytest.mark.fault(14)
def test_odd_samples_are_stored_or_skipped_by_name(tmp_path):
    """Captions that no other check of this file holds, images of other kinds, one file too deep."""
    grey = io.BytesIO()
    values = (np.arange(32 * 32) * 64).astype(np.uint16).reshape(32, 32)
    Image.fromarray(values).save(grey, "PNG")
    captions = [b"a\0b", "\u2028 \U0001f408".encode(), b"word " * 60_000, b"\xef\xbb\xbfmarked"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, caption in enumerate(captions):
            add_member(tar, f"{number}.png", grey.getvalue())
            add_member(tar, f"{number}.txt", caption)
        add_member(tar, "caf\udce9.png", b"%!PS-Adobe-3.0 EPSF-3.0\n")
        add_member(tar, "caf\udce9.txt", b"a caption")
        add_member(tar, "deep.png", grey.getvalue())
        add_member(tar, "deep.json", b"[" * 200_000)
    index = run_prepare(f"wds:{tmp_path / 'a.tar'}", tmp_path / "out", workers=2)
    stored = rows_of(tmp_path / "out", SAMPLES)
    assert [row["caption"] for row in stored] == [
        caption.decode("utf-8-sig").strip() for caption in captions
    ]
    assert [s.name.rpartition("/")[2] for s in index.shards[0].skipped] == ["caf\\udce9", "deep"]


def test_unknown_files_have_a_reason_without_an_address(tmp_path):
    items = [type(i)(i.key, b"no image at all", i.caption) for i in ITEMS[:1]] + ITEMS[1:3]
    index = run_prepare(write_folder(tmp_path / "images", items), tmp_path / "out")
    (skipped,) = index.shards[0].skipped
    assert skipped.reason.startswith("the image is damaged, or of a format that is not read")
    assert " object at 0x" not in skipped.reason


@pytest.mark.fault
def test_features_that_do_not_fit_are_never_stored(tmp_path):
    text = ShapesTextEncoder()
    encode = text.encode

    def huge(captions):
        condition = encode(captions)
        return type(condition)(condition.tokens * 1e6, condition.mask, condition.pooled)

    text.encode = huge
    spelling = write_tars(tmp_path / "tars", ITEMS[:5], 5)
    with pytest.raises(ValueError, match="not finite in fp16"):
        prepare(
            PrepareSettings(spelling, "shapes-grid", "shapes", (32,)),
            tmp_path / "out",
            open_reader(spelling),
            load_codec("shapes-grid", "cpu"),
            text,
        )


@pytest.mark.fault(14)
def test_damaged_shards_are_named_and_made_again(tmp_path):
    spelling = write_tars(tmp_path / "tars", ITEMS, 10)
    out = tmp_path / "out"
    run_prepare(spelling, out)
    whole = tree(out)
    file = out / "shards" / "000001" / "32-32x32.arrow"
    file.unlink()
    with pytest.raises(ValueError, match=r"000001/32-32x32.arrow of the cache is missing"):
        read_index(out)
    run_prepare(spelling, out)
    assert tree(out) == whole
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is cut short"):
        read_index(out)
    run_prepare(spelling, out)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"1 files of the cache are damaged.*32-32x32.arrow"):
        verify_cache(out, read_index(out))
    run_prepare(spelling, out, verify=True)
    assert tree(out) == whole
    (out / "index.json").unlink()
    with pytest.raises(ValueError, match="not finished: run the command in"):
        read_index(out)


COMMAND = "from selfe.cli import main; main()"


def command(spelling: str, out: Path) -> list[str]:
    words = ["prepare", "--data", spelling, "--out", str(out), "--device", "cpu"]
    words += ["--codec", "shapes-grid", "--text", "shapes", "--sizes", "32", "--batch-size", "4"]
    return [sys.executable, "-c", COMMAND, *words]


@pytest.mark.slow
@pytest.mark.fault
def test_kill_and_go_on_gives_the_same_bits(tmp_path):
    spelling = write_tars(tmp_path / "tars", make_items(300, ((32, 32), (24, 40))), 10)
    run_prepare(spelling, tmp_path / "whole")
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command(spelling, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(out.glob("shards/0*/shard.json"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finished = len(list(out.glob("shards/0*")))
    assert 2 <= finished < 30 and not (out / "index.json").exists()
    times = {path: path.stat().st_mtime_ns for path in out.glob("shards/0*/*")}
    (out / "shards" / ".000007.1.tmp").mkdir(exist_ok=True)  # at any rate one such leftover
    result = subprocess.run(command(spelling, out), capture_output=True, text=True, check=True)
    assert "samples: 300 of 300 read" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times
    ours, theirs = tree(out), tree(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["prepare.json"]  # who ran it
    shutil.rmtree(tmp_path)
