"""A latent cache notices swapped files, swapped shards and every change of its documents; caches of
the first format are read, and keep their identity."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from selfe.data.latent_cache.index import (
    SAMPLES,
    CacheIndex,
    checksum,
    read_index,
    read_shard_record,
    seed_of_row,
    shard_folder,
    write_index,
)
from selfe.data.shapes_latents import shapes_latents
from selfe.data.shapes_world import ShapesWorld
from selfe.encoders.registry import load_codec
from tests.helpers.image_data import make_items, write_tars
from tests.helpers.mutations import mutations, texts
from tests.test_cached_latents import at, open_cache
from tests.test_prepare import run_prepare

SIZES = ((32, 32), (32, 32), (40, 64), (80, 64))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """24 images in two shards of equal sizes: their files can take each other's place."""
    folder = tmp_path_factory.mktemp("cache")
    run_prepare(write_tars(folder / "tars", make_items(24, SIZES), 12), folder / "out")
    return folder / "out"


@pytest.fixture
def cache(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "cache")
    return tmp_path / "cache"


def swap(a: Path, b: Path) -> None:
    aside = a.with_name("aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def read_all(cache: Path) -> None:
    source = open_cache(cache)
    for position in range(0, 48, 4):
        source.batch(at(position))


@pytest.mark.fault(27)
@pytest.mark.parametrize("name", [SAMPLES, "32-32x32.arrow", ""])
def test_swapped_files_and_shards_are_never_trained_on(cache, name):
    read_all(cache)
    first, second = (shard_folder(cache, number) / name for number in (0, 1))
    swap(first, second)
    with pytest.raises(ValueError, match="cut short|are damaged"):
        read_all(cache)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """Two caches of other images and captions, whose files have the same names, rows and bytes."""
    root = tmp_path_factory.mktemp("alike")
    items = make_items(32, SIZES)
    for name, caption, first in (("one", "a big star", 0), ("two", "a big ring", 8)):
        own = [
            replace(item, key=f"{n:04d}", caption=caption)
            for n, item in enumerate(items[first : first + 24])
        ]
        run_prepare(write_tars(root / "tars" / name, own, 12), root / name)
    return root


@pytest.mark.fault(27)
@pytest.mark.parametrize("name", [SAMPLES, "32-32x32.arrow", ""])
def test_a_file_of_another_cache_is_never_trained_on(alike, name, tmp_path):
    """Its rows' checksums are right, and it lies in its place."""
    for cache in ("one", "two"):
        shutil.copytree(alike / cache, tmp_path / cache)
    here, there = (shard_folder(tmp_path / cache, 0) / name for cache in ("one", "two"))
    if name:
        assert here.stat().st_size == there.stat().st_size
        assert here.read_bytes() != there.read_bytes()
    swap(here, there)
    with pytest.raises(ValueError, match="not the one that the index lists"):
        read_all(tmp_path / "one")


@pytest.mark.fault(27)
def test_a_shard_that_other_settings_made_is_made_again(prepared, cache, tmp_path):
    spelling = f"wds:{prepared.parent / 'tars'}"
    run_prepare(spelling, tmp_path / "other", dtype="bf16")
    shutil.rmtree(shard_folder(cache, 1))
    shutil.copytree(shard_folder(tmp_path / "other", 1), shard_folder(cache, 1))
    (cache / "index.json").unlink()
    run_prepare(spelling, cache)
    for name in (SAMPLES, "32-32x32.arrow", "shard.json"):
        again = (shard_folder(cache, 1) / name).read_bytes()
        assert again == (shard_folder(prepared, 1) / name).read_bytes()


def to_first_format(cache: Path) -> None:
    """Take from a cache what the first format did not have: seals, and the place in checksums."""
    import pyarrow as pa

    index = read_index(cache)
    shards = []
    for number, shard in enumerate(index.shards):
        files = dict(shard.files)
        for name, record in shard.files.items():
            path = shard_folder(cache, number) / name
            with pa.memory_map(str(path)) as mapped:
                table = pa.ipc.open_stream(mapped).read_all()
            rows = table.to_pylist()
            sums = []
            for row, values in enumerate(rows):
                sample = values.get("sample", row)
                parts = [values[n] for n in ("latents", "tokens", "pooled") if n in values]
                assert values["checksum"] == checksum(
                    *parts, seed=seed_of_row(path, row, sample, True)
                )
                sums.append(checksum(*parts, seed=seed_of_row(path, row, sample, False)))
            column = table.schema.get_field_index("checksum")
            table = table.set_column(column, table.schema.field(column), pa.array(sums, "uint64"))
            path.unlink()
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[name] = replace(record, bytes=path.stat().st_size, sha256=digest, checksums="")
        shards.append(replace(shard, files=files, placed=False, made_by=""))
        document = json.dumps(shards[-1].as_json(), indent=1)
        (shard_folder(cache, number) / "shard.json").write_text(document)
    write_index(cache, replace(index, shards=tuple(shards)))


@pytest.mark.fault(27)
def test_a_cache_of_the_first_format_is_read_and_its_swapped_files_are_named(cache):
    to_first_format(cache)
    stored = (cache / "index.json").read_bytes()
    assert json.loads(stored)["format"] == "selfe-latents@1" and b"checksum" not in stored
    read_all(cache)
    first, second = (shard_folder(cache, number) / "32-32x32.arrow" for number in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    swap(first, second)
    with pytest.raises(ValueError, match="were swapped; put them back"):
        read_all(cache)


@pytest.mark.fault(27)
def test_every_change_of_the_index_is_noticed(cache):
    path = cache / "index.json"
    original, index = path.read_text(), read_index(cache)
    document = json.loads(original)
    document["shards"] = document["shards"][:1]  # of the same kind, and half as many changes
    for what, text in (*mutations(document), *texts(original)):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=r"index\.json"):
            read_index(cache)
            pytest.fail(f"not noticed: {what}")
    path.write_text(original)
    assert read_index(cache) == index


@pytest.mark.fault(27)
def test_a_malformed_index_of_the_first_format_is_named(cache):
    to_first_format(cache)
    path = cache / "index.json"
    original = path.read_text()
    for what, text in (*mutations(json.loads(original)), *texts(original)):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            assert isinstance(read_index(cache), CacheIndex), what
        except ValueError as error:
            assert str(cache) in str(error), what


@pytest.mark.fault(27)
def test_every_change_of_a_shards_record_has_it_made_again(cache):
    folder = shard_folder(cache, 0)
    original = (folder / "shard.json").read_text()
    for what, text in (*mutations(json.loads(original)), *texts(original)):
        (folder / "shard.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        assert read_shard_record(folder) is None, what


@pytest.mark.fault(27)
def test_the_shapes_cache_is_of_the_right_type_shape_and_name(tmp_path):
    world, codec = ShapesWorld("grid"), load_codec("shapes-grid", "cpu")
    made = shapes_latents(world, codec, 8, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    original = path.read_bytes()
    for old, new in ((b'"F16"', b'"I16"'), (b"[8,", b"[4,")):
        assert old in original
        path.write_bytes(original.replace(old, new, 1))
        again = shapes_latents(world, codec, 8, tmp_path)
        assert torch.equal(again[0], made[0]) and again[1] == made[1]
        original = path.read_bytes()
    shapes_latents(world, codec, 9, tmp_path)
    (other,) = set(tmp_path.glob("*.safetensors")) - {path}
    shutil.copy(other, path)
    assert len(shapes_latents(world, codec, 8, tmp_path)[0]) == 8
    # a file of an earlier version, whose checksum covers the content alone
    captions = json.dumps(made[1])
    old_sum = hashlib.sha256(made[0].numpy().tobytes() + captions.encode())
    metadata = {"captions": captions, "sha256": old_sum.hexdigest()}
    save_file({"latents": made[0]}, path, metadata)
    before = path.read_bytes()
    assert torch.equal(shapes_latents(world, codec, 8, tmp_path)[0], made[0])
    assert path.read_bytes() == before
