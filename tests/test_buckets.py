"""Buckets and the order in which they are dealt: proportions, passes, stages, random access."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from selfe.config.stages import Stage
from selfe.data.latent_cache.buckets import (
    MOST_ELONGATED,
    Bucket,
    BucketSchedule,
    Dealer,
    bucket_table,
    enlargement,
    nearest_bucket,
)
from selfe.data.latent_cache.images import fit_to_bucket
from selfe.images import DamagedImage, decode_image

SMALL = {Bucket(32, 32, 32): 40, Bucket(32, 24, 40): 24, Bucket(32, 40, 24): 1}
LARGE = {Bucket(64, 64, 64): 30, Bucket(64, 48, 80): 10}


@pytest.mark.parametrize(("family", "multiple"), [(256, 16), (512, 16), (32, 8), (64, 8)])
def test_buckets_have_the_familys_area_and_whole_patches(family, multiple):
    table = bucket_table(family, multiple)
    assert Bucket(family, family, family) in table
    assert {(b.width, b.height) for b in table} == {(b.height, b.width) for b in table}
    for b in table:
        assert b.family == family and b.height % multiple == b.width % multiple == 0
        assert max(b.height, b.width) / min(b.height, b.width) <= MOST_ELONGATED
        # the longer side is rounded by at most half a multiple
        assert abs(b.height * b.width - family**2) <= min(b.height, b.width) * multiple / 2
        assert Bucket.parse(b.name) == b


def test_the_table_of_256_pixels_is_fixed():
    sizes = [(b.height, b.width) for b in bucket_table(256)]
    half = [(192, 336), (208, 320), (224, 288), (240, 272)]
    assert sizes == [*half, (256, 256), *[(w, h) for h, w in reversed(half)]]
    with pytest.raises(ValueError, match="multiple of 16"):
        bucket_table(250)


def test_an_image_goes_to_the_nearest_aspect_ratio():
    table = bucket_table(256)
    for bucket in table:
        assert nearest_bucket(3 * bucket.height, 3 * bucket.width, table) == bucket
    assert nearest_bucket(100, 1000, table) == Bucket(256, 192, 336)
    assert enlargement(512, 512, Bucket(256, 256, 256)) == 0.5
    assert enlargement(200, 1000, Bucket(256, 192, 336)) == 192 / 200


def test_resizing_is_centred_and_antialiased():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 255  # the middle square
    fitted = fit_to_bucket(Image.fromarray(wide), Bucket(32, 32, 32))
    assert fitted.shape == (32, 32, 3)
    assert fitted[:, 2:-2].min() >= 250, "of the margins only the filter's foot is seen"
    assert np.array_equal(fitted, fitted[:, ::-1])
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (128, 64, 3))
    grey = fit_to_bucket(Image.fromarray(stripes), Bucket(32, 32, 32))
    assert abs(grey[:, 4:-4].astype(int) - 127).max() <= 2, "nearest would give black or white"


def test_decoding_turns_and_flattens():
    image = Image.new("RGB", (20, 10), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue()).size == (10, 20)
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "PNG")
    assert np.asarray(decode_image(buffer.getvalue())).min() == 255
    buffer = io.BytesIO()
    Image.new("I;16", (4, 4), 65535).save(buffer, "PNG")
    assert decode_image(buffer.getvalue()).mode == "RGB"


@pytest.mark.fault
@pytest.mark.parametrize("keep", [0, 7, 20, 60, 100])
def test_a_truncated_image_is_refused(keep):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    with pytest.raises(DamagedImage):
        decode_image(buffer.getvalue()[:keep])


@pytest.mark.parametrize("weights", [(1,), (1, 1), (5, 3, 1), (40, 24, 1), (1, 1000)])
def test_dealing_is_proportional_everywhere_and_countable(weights):
    dealer = Dealer(weights, seed=3)
    total = sum(weights)
    seen: Counter[int] = Counter()
    for unit in range(3 * total):
        assert all(dealer.count(k, unit) == seen[k] for k in range(len(weights)))
        receiver, before = dealer.deal(unit)
        assert before == seen[receiver]
        seen[receiver] += 1
        for k, weight in enumerate(weights):
            assert abs(seen[k] - (unit + 1) * weight / total) < len(weights)
    assert [seen[k] for k in range(len(weights))] == [3 * weight for weight in weights]


def schedule(stages: list[Stage] | None = None, unit: int = 4, seed: int = 0) -> BucketSchedule:
    stages = stages or [Stage(0, 100, 8, 0, {32: 1.0})]
    return BucketSchedule({**SMALL, **LARGE}, stages, unit, seed)


def walk(s: BucketSchedule, start: int, stop: int) -> list[tuple[Bucket, int]]:
    """(bucket, row) of every position, one after the other."""
    found = []
    for position in range(start, stop):
        bucket, rows = s.locate(torch.tensor([position]))
        found.append((bucket, int(rows)))
    return found


def test_units_share_a_bucket_and_batches_equal_single_positions():
    s = schedule()
    singles = walk(s, 0, 64 * 4)
    for unit in range(64):
        positions = torch.arange(4 * unit, 4 * unit + 4)
        bucket, rows = s.locate(positions)
        assert [(bucket, row) for row in rows.tolist()] == singles[4 * unit : 4 * unit + 4]
    assert walk(schedule(), 100, 110) == singles[100:110], "no replay is needed"
    assert walk(schedule(seed=1), 0, 64) != singles[:64]


def test_every_pass_over_a_bucket_visits_every_sample_once():
    found = walk(schedule(), 0, 65 * 4 * 3)
    for bucket, size in SMALL.items():
        rows = [row for b, row in found if b == bucket]
        assert len(rows) == 12 * size, "in proportion to its size"
        passes = [rows[i : i + size] for i in range(0, len(rows), size)]
        assert all(sorted(each) == list(range(size)) for each in passes)
        assert size < 3 or passes[0] != passes[1]


def test_two_families_of_equal_share_alternate():
    s = schedule([Stage(0, 100, 16, 0, {32: 0.5, 64: 0.5})])
    families = [s.locate(torch.tensor([4 * unit]))[0].family for unit in range(100)]
    assert all({a, b} == {32, 64} for a, b in zip(families, families[1:], strict=False))
    uneven = schedule([Stage(0, 100, 16, 0, {32: 0.75, 64: 0.25})])
    families = [uneven.locate(torch.tensor([4 * unit]))[0].family for unit in range(100)]
    assert Counter(families) == {32: 75, 64: 25}


def test_a_stage_goes_on_where_the_buckets_were():
    """First 90 samples of 32 alone, ending inside a unit, then a mix."""
    stages = [Stage(0, 9, 10, 0, {32: 1.0}), Stage(9, 100, 8, 90, {32: 0.5, 64: 0.5})]
    found = walk(schedule(stages), 0, 90 + 4 * 200)
    assert {b.family for b, _ in found[:90]} == {32}
    mixed = Counter(b.family for b, _ in found[90:])
    assert mixed == {32: 400, 64: 400}
    for bucket, size in {**SMALL, **LARGE}.items():
        rows = [row for b, row in found if b == bucket]
        for i in range(0, len(rows) - size + 1, size):
            assert sorted(rows[i : i + size]) == list(range(size))


def test_bad_requests_are_explained():
    with pytest.raises(ValueError, match="no samples of resolution 128 .it has 32, 64."):
        schedule([Stage(0, 1, 8, 0, {128: 1.0})])
    with pytest.raises(ValueError, match="must divide data.bucket_unit = 4"):
        schedule().locate(torch.arange(0, 64))
