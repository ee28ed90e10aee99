"""The latent cache as training data: order, text, buckets, workers, damage, and what it refuses.

Longer than other files: all of it is one cache and what may happen to it.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from selfe.batch import LatentBatch
from selfe.config.resolve import build_objective, resolve
from selfe.config.schema import RunConfig
from selfe.data.latent_cache.buckets import Bucket
from selfe.data.latent_cache.index import SAMPLES
from selfe.data.latent_cache.source import CachedLatents, padded_length
from selfe.data.registry import build_source
from selfe.encoders.shapes import ShapesTextEncoder
from selfe.seeding import SampleRng, derive_seed
from selfe.training.callbacks import Callbacks
from selfe.training.loop import micro_batches
from tests.helpers.image_data import make_items, write_tars
from tests.helpers.tiny import TINY_MODEL, differing, tiny_train
from tests.test_prepare import rows_of, run_prepare

SIZES = ((32, 32), (32, 32), (40, 64), (80, 64))
ITEMS = make_items(60, SIZES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in three shards: families of 32 and 64 pixels, squares and two other shapes."""
    folder = tmp_path_factory.mktemp("cache")
    run_prepare(
        write_tars(folder / "tars", ITEMS, 20),
        folder / "out",
        sizes=(32, 64),
        min_size=16,
        fake=True,
    )
    return folder / "out"


def run_config(path: Path, *assignments: str, method: str = "fm", variant: str = "") -> RunConfig:
    settings = [
        *TINY_MODEL,
        f"data.path={path}",
        "data.codec=shapes-grid",
        "data.text=shapes",
        "data.resolution=32",
        "data.bucket_unit=4",
        "model.in_channels=16",
        "model.joint_attention_dim=64",
        "model.pooled_projection_dim=64",
        "train.iterations=8",
        "train.batch_size=8",
        "train.micro_batch_size=4",
        "train.checkpoint_every=4",
        "train.milestone_every=null",
        "train.sample_every=null",
        "train.compile=false",
        "train.precision=fp32",
        "optim.warmup=2",
        *assignments,
    ]
    return resolve("0.5b", method, variant=variant, assignments=settings)


def open_cache(path: Path, *assignments: str, with_fake: bool = False, **more) -> CachedLatents:
    return CachedLatents(run_config(path, *assignments), with_fake=with_fake, **more)


def at(position: int, count: int = 4, seed: int = 5) -> SampleRng:
    return SampleRng(seed, torch.arange(position, position + count))


def same(a: LatentBatch, b: LatentBatch) -> bool:
    tensors = [
        (x.x_0, x.condition.tokens, x.condition.mask, x.condition.pooled, x.dropped, x.index)
        for x in (a, b)
    ]
    return all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))


def stored_rows(cache: Path, bucket: Bucket) -> list[tuple[dict, dict]]:
    """(latents row, samples row) of a bucket in the order of the cache."""
    samples: dict[str, list[dict]] = {}
    for row in rows_of(cache, SAMPLES):
        samples.setdefault(row["shard"], []).append(row)
    latents = rows_of(cache, f"{bucket.name}.arrow")
    return [(row, samples[row["shard"]][row["sample"]]) for row in latents]


def test_a_batch_is_what_was_stored(cache):
    source = open_cache(cache, "train.caption_dropout=0", with_fake=True)
    firsts, total = {}, 0
    for bucket, size in source.sizes.items():
        firsts[bucket], total = total, total + size
    seen = set()
    for position in range(0, 60 * 4, 4):
        batch = source.batch(at(position))
        height, width = 4 * batch.x_0.shape[2], 4 * batch.x_0.shape[3]
        bucket = Bucket(32, height, width)
        rows = stored_rows(cache, bucket)
        for i, index in enumerate(batch.index.tolist()):
            latents, sample = rows[index - firsts[bucket]]
            x_0 = torch.from_numpy(np.frombuffer(latents["latents"], np.float16).copy()).float()
            assert torch.equal(batch.x_0[i].flatten(), x_0)
            for condition, prefix in ((batch.condition, ""), (batch.fake, "fake_")):
                words = np.frombuffer(sample[f"{prefix}tokens"], np.float16).reshape(-1, 64)
                assert int(condition.mask[i].sum()) == len(words)
                assert np.array_equal(condition.tokens[i, : len(words)].numpy(), words)
                assert not condition.tokens[i, len(words) :].any()
                pooled = np.frombuffer(sample[f"{prefix}pooled"], np.float16)
                assert np.array_equal(condition.pooled[i].numpy(), pooled)
            seen.add(index)
        assert batch.x_0.dtype == torch.float32
    assert len(seen) == 60, "a pass visits every sample of the family"


def test_dropped_captions_are_the_null_prompt_and_keyed_by_position(cache):
    half = open_cache(cache, "train.caption_dropout=0.5", with_fake=True)
    none = open_cache(cache, "train.caption_dropout=0")
    null = ShapesTextEncoder().encode([""])
    fake_null = ShapesTextEncoder().encode(["fake image"])
    assert torch.equal(half.null.tokens, null.tokens.half()) and half.null.no_padding
    dropped = 0
    for position in range(0, 400, 4):
        a, b = half.batch(at(position)), none.batch(at(position))
        assert torch.equal(a.x_0, b.x_0) and torch.equal(a.index, b.index)
        expected = at(position).uniform("caption_dropout") < 0.5
        assert torch.equal(a.dropped, expected) and not b.dropped.any()
        for i in torch.nonzero(a.dropped)[:, 0].tolist():
            assert a.condition.mask[i].sum() == 1
            assert torch.equal(a.condition.tokens[i, :1], null.tokens[0].half())
            assert torch.equal(a.condition.pooled[i], null.pooled[0].half())
            length = int(a.fake.mask[i].sum())
            assert torch.equal(a.fake.tokens[i, :length], fake_null.tokens[0].half())
        dropped += int(a.dropped.sum())
    assert 150 < dropped < 250


def test_text_is_padded_to_few_lengths_known_on_the_host(cache):
    assert [padded_length(n) for n in (1, 8, 9, 33, 65, 129, 500)] == [8, 8, 16, 64, 128, 192, 512]
    assert len({padded_length(n) for n in range(1, 513)}) == 11
    source = open_cache(cache, "train.caption_dropout=0")
    lengths = set()
    for position in range(0, 240, 4):
        condition = source.batch(at(position)).condition
        longest = int(condition.mask.sum(1).max())
        assert condition.tokens.shape[1] == padded_length(longest)
        assert condition.no_padding == bool(condition.mask.all())
        lengths.add(condition.tokens.shape[1])
    assert lengths <= {8, 16}
    long = open_cache(cache)
    long.index.text.sizes["max_tokens"] = 7  # never more than the encoder can give
    assert long._condition([long._null_text] * 2).tokens.shape[1] == 7


@pytest.mark.fault(7)
def test_samples_depend_on_the_position_alone(cache):
    """Not on workers, micro-batches, processes, what was announced, or where reading starts."""
    plain = open_cache(cache, "data.workers=0")
    expected = {position: plain.batch(at(position)) for position in range(0, 80, 4)}
    for workers in (1, 4):
        source = open_cache(cache, f"data.workers={workers}")
        for position in range(40, 80, 4):  # in the middle, as on resume
            source.expect([at(p) for p in range(position, position + 24, 4)])
            assert same(source.batch(at(position)), expected[position])
        assert same(source.batch(at(12)), expected[12]), "never announced"
    for position in range(0, 16, 4):
        parts = [plain.batch(at(position + i, 1)) for i in range(4)]
        assert torch.equal(torch.cat([p.x_0 for p in parts]), expected[position].x_0)
        assert torch.equal(torch.cat([p.dropped for p in parts]), expected[position].dropped)


def test_the_cache_may_lie_elsewhere(cache, tmp_path):
    moved = shutil.copytree(cache, tmp_path / "moved")
    a, b = run_config(cache), run_config(moved, "data.workers=0")
    assert a.digest == b.digest
    assert a.digest != run_config(cache, "data.bucket_unit=8").digest
    assert open_cache(moved).facts == open_cache(cache).facts


def test_what_is_read_ahead_is_what_training_asks_for(cache):
    config = run_config(cache, "data.workers=2")
    source = CachedLatents(config, with_fake=False)
    read = []
    source._ahead.read = lambda rng: (read.append(int(rng.position[0])), source._read(rng))[1]
    tiny = micro_batches(config, 0, torch.device("cpu"))
    source.expect([*tiny, *micro_batches(config, 1, torch.device("cpu"))])
    for rng in tiny:
        source.batch(rng)
    for flying in source._ahead._flying.values():
        flying.result()
    assert sorted(read) == [0, 4, 8, 12], "each once, the next iteration's too"


def test_stages_mix_the_families(cache):
    stages = [{"start": 2, "batch_size": 16, "resolutions": {"32": 1, "64": 1}}]
    config = run_config(cache, f"train.stages={json.dumps(stages)}")
    source = CachedLatents(config, with_fake=False)
    areas = []
    for step in range(8):
        batches = [source.batch(rng) for rng in micro_batches(config, step, torch.device("cpu"))]
        areas.append([round((b.num_tokens * 64) ** 0.5 / 32) * 32 for b in batches])
    assert areas[:2] == [[32, 32]] * 2
    assert all(sorted(each) == [32, 32, 64, 64] for each in areas[2:]), "balanced at each iteration"


@pytest.mark.parametrize(("method", "variant"), [("selfe", "aux"), ("fm", ""), ("imm", "")])
def test_training_on_the_cache_resumes_bit_equal(method, variant, cache, tmp_path):
    def source(*more: str) -> CachedLatents:
        config = run_config(cache, *more, method=method, variant=variant)
        return build_source(
            config,
            with_fake=build_objective(config).needs_fake_captions,
            device="cpu",
            cache_dir=tmp_path,
            progress=lambda done, total: None,
        )

    whole_config = run_config(cache, "data.workers=0", method=method, variant=variant)
    whole = tiny_train(whole_config, tmp_path / "whole", source=source("data.workers=0"))
    short = run_config(cache, "data.workers=0", method=method, variant=variant)
    stops = iter([False, False, True])
    stopped = tiny_train(
        short,
        tmp_path / "parts",
        source=source("data.workers=0"),
        callbacks=Callbacks(should_stop=lambda: next(stops)),
    )
    assert stopped.step == 3
    other = run_config(cache, "data.workers=3", method=method, variant=variant)
    resumed = tiny_train(other, tmp_path / "parts", source=source("data.workers=3"), resume=True)
    assert resumed.step == whole.step == 8
    assert differing(whole, resumed) == []


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["data.path="], "data.path is not set: .*selfe-bench prepare"),
        (["data.path=nowhere"], "no latent cache at nowhere"),
        (["data.codec=shapes-free"], r"its codec is 'shapes-grid', not 'shapes-free'"),
        (["data.text=flux"], "its text is 'shapes', not 'flux'"),
        (["data.text_tokens=9"], "made with data.text_tokens = None, not 9"),
        (["data.signal=0.5"], "made with data.signal = 1.0, not 0.5"),
        (["data.revision=abc"], "made with data.revision = '', not 'abc'"),
        (["model.in_channels=64"], "it needs model.in_channels = 16, not 64"),
        (["model.joint_attention_dim=8"], "it needs model.joint_attention_dim = 64, not 8"),
        (["data.resolution=128"], "no samples of resolution 128"),
        (["train.micro_batch_size=8"], "must divide data.bucket_unit = 4"),
    ],
)
def test_what_does_not_fit_is_refused(assignments, sentence, cache):
    with pytest.raises(ValueError, match=sentence) as caught:
        open_cache(cache, *assignments)
    assert "\n" not in str(caught.value)


def test_aux_needs_fake_captions_in_the_cache(tmp_path):
    run_prepare(write_tars(tmp_path / "tars", ITEMS[:4], 4), tmp_path / "out")
    assert len(open_cache(tmp_path / "out")) == 4
    with pytest.raises(ValueError, match="selfe-bench prepare --fake"):
        open_cache(tmp_path / "out", with_fake=True)


def flip(path: Path, content: bytes) -> None:
    """Change one byte in the middle of where `content` lies in a file."""
    data = bytearray(path.read_bytes())
    place = bytes(data).find(content)
    assert place >= 0
    data[place + len(content) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.fault(14)
@pytest.mark.parametrize("what", ["latents", "tokens", "fake_tokens", "frame"])
def test_damaged_rows_give_way_and_are_counted(what, cache, tmp_path, caplog):
    copy = shutil.copytree(cache, tmp_path / "copy")
    bucket = Bucket(32, 32, 32)
    folder = copy / "shards" / "000001"
    latents, sample = next(
        pair for pair in stored_rows(cache, bucket) if pair[0]["shard"] == "000001"
    )
    expected = 1
    if what == "frame":
        path = folder / f"{bucket.name}.arrow"
        content = bytearray(path.read_bytes())
        content[4:40] = bytes(36)
        path.write_bytes(bytes(content))
        expected = 15  # all squares of the shard
    elif what == "latents":
        flip(folder / f"{bucket.name}.arrow", latents["latents"])
    else:
        flip(folder / SAMPLES, sample[what])
    options = ["train.caption_dropout=0"]
    sound = open_cache(cache, *options, with_fake=True)
    hurt = open_cache(copy, *options, with_fake=True, most_damaged=0.5)
    replaced = 0
    with caplog.at_level(logging.WARNING):
        for position in range(0, 240, 4):
            a, b = sound.batch(at(position)), hurt.batch(at(position))
            differs = a.index != b.index
            replaced += int(differs.sum())
            assert torch.equal(a.x_0[~differs], b.x_0[~differs])
            assert torch.isfinite(b.x_0).all()
            assert not set(b.index.tolist()) & set(hurt.damaged)
    assert len(hurt.damaged) == expected and replaced >= 4 * expected
    assert len(caplog.records) == expected
    assert "000001" in caplog.text
    strict = open_cache(copy, *options, with_fake=True)
    with pytest.raises(ValueError, match=r"1 of 120 samples of the cache .* are damaged.*--verify"):
        for position in range(0, 240, 4):
            strict.batch(at(position))


@pytest.mark.fault(14)
def test_a_flipped_bit_anywhere_is_never_taken_for_data(tmp_path):
    """Each byte of a bucket's file in turn: what is still handed out equals what was stored."""
    run_prepare(write_tars(tmp_path / "tars", ITEMS[:2], 2), tmp_path / "out")
    path = tmp_path / "out" / "shards" / "000000" / "32-32x32.arrow"
    whole = path.read_bytes()
    options = ["train.caption_dropout=0", "train.micro_batch_size=1"]
    sound = open_cache(tmp_path / "out", *options)
    expected = {int((b := sound.batch(at(p, 1))).index): b for p in range(2)}
    noticed = 0
    for place in range(0, len(whole), 23):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        source = open_cache(tmp_path / "out", *options)
        try:
            batches = [source.batch(at(p, 1)) for p in range(2)]
        except ValueError as error:
            assert "are damaged" in str(error)
            noticed += 1
            continue
        for batch in batches:
            stored = expected[int(batch.index)]
            assert torch.equal(batch.x_0, stored.x_0)
            assert torch.equal(batch.condition.tokens, stored.condition.tokens)
    assert noticed > 0


@pytest.mark.fault(14)
def test_damage_found_by_a_worker_ends_training_too(cache, tmp_path):
    copy = shutil.copytree(cache, tmp_path / "copy")
    for folder in (copy / "shards").iterdir():
        path = folder / "32-32x32.arrow"
        content = bytearray(path.read_bytes())
        content[4:40] = bytes(36)
        path.write_bytes(bytes(content))
    config = run_config(copy, "data.workers=2", "data.bucket_unit=4")
    with pytest.raises(ValueError, match="of the cache .* are damaged"):
        tiny_train(config, tmp_path / "run", source=CachedLatents(config, with_fake=False))


@pytest.mark.fault
def test_damaged_prompts_are_refused(cache, tmp_path):
    copy = shutil.copytree(cache, tmp_path / "copy")
    path = copy / "prompts.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="prompts.safetensors is missing or damaged"):
        open_cache(copy)


def test_seeds_order_the_samples(cache):
    first = [open_cache(cache).batch(at(p)).index.tolist() for p in range(0, 32, 4)]
    config = run_config(cache).model_copy(update={"seed": derive_seed("another") % 100})
    other = CachedLatents(config, with_fake=False)
    assert [other.batch(at(p)).index.tolist() for p in range(0, 32, 4)] != first
