"""`selfe-bench verify` finds every damaged byte of runs, caches and results, and says where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evals.base import Interval, Result
from evals.image_identity import ImageIdentity
from evals.images import image_is_intact, sample_path, scan_folder, write_metadata, write_png
from evals.measurements import (
    MEASURES,
    PREFERENCE,
    ImageSet,
    Instrument,
    Measurement,
    write_measurement,
)
from evals.report.diversity_table import diversity_frame
from evals.report.model_columns import row_of
from evals.report.result_folders import read_result_folder
from evals.results import write_result as write_sealed
from evals.scoring.stored_rows import StoredRows
from evals.scoring.work_file import WorkFile, sound_rows
from evals.site.summary import diversity_facts
from evals.suites.base import records_sha256
from selfe.cli.verify import things_below
from selfe.files import file_sha256
from selfe.run_folder.records import write_config
from tests.helpers.command_line import selfe_bench
from tests.helpers.image_data import make_items, write_tars
from tests.helpers.mutations import mutations, texts
from tests.helpers.synthetic_results import write_result
from tests.helpers.tiny import tiny_config, tiny_train
from tests.test_prepare import run_prepare

SET, JUDGED = "steps-002-0123abcd", "geneval2-1"
RECORDS = [
    {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": f"a star {n}"}
    for n in range(6)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, a cache and a result, as commands leave them."""
    root = tmp_path_factory.mktemp("made")
    config = tiny_config("fm")
    (root / "runs" / "run").mkdir(parents=True)
    write_config(root / "runs" / "run", config, data={})
    tiny_train(config, root / "runs" / "run")
    run_prepare(write_tars(root / "tars", make_items(6), 3), root / "cache")
    shutil.rmtree(root / "tars")
    result = write_result(
        root / "runs" / "run" / "results" / SET, prompts_per_task=1, images_per_prompt=2
    )
    files = {"images.jsonl": file_sha256(result / "images.jsonl")}
    whole = read_result_folder(result).result
    protocol = whole.protocol.model_copy(update={"prompts_sha256": records_sha256(RECORDS)})
    write_sealed(result, whole.model_copy(update={"files": files, "protocol": protocol}))
    draw(result)
    judged = root / "runs" / "run" / "results" / JUDGED / SET
    draw(judged)
    for folder in (result, judged):
        measure(folder, whole)
    return root


def measure(folder: Path, whole: Result) -> None:
    """A measurement, and what it was made of, in a folder of images."""
    images = scan_folder(folder, RECORDS, 2).images
    rows = StoredRows(folder / MEASURES / "scores-any.jsonl", {"model": "any"}, images, 4)
    rows.look(lambda batch, pixels: [{"score": float(image.sample_id)} for image in batch])
    scores = [(r["prompt_id"], r["sample_id"], r["score"]) for r in rows.finish()]
    found = Measurement(
        images=ImageSet(
            suite="s", prompts_sha256=records_sha256(RECORDS), num_prompts=6, images_per_prompt=2
        ),
        instrument=Instrument(name="any", identity="any@1"),
        aspect=PREFERENCE,
        headline="mean",
        higher_is_better=True,
        values={"mean": Interval(mean=0.5, low=0.4, high=0.6)},
        num_images=12,
        model=whole.model,
        sampling=whole.sampling,
    )
    write_measurement(folder, found, scores)


def draw(folder: Path) -> None:
    for prompt_id, record in enumerate(RECORDS):
        write_metadata(folder, prompt_id, record)
        for sample_id in range(2):
            identity = ImageIdentity(SET, prompt_id, sample_id, record["prompt"])
            image = np.full((8, 8, 3), 40 * prompt_id + sample_id, np.uint8)
            write_png(sample_path(folder, prompt_id, sample_id), image, identity)


@pytest.fixture
def work(made, tmp_path):
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def swap(a: Path, b: Path) -> None:
    a.rename(a.with_name("aside"))
    b.rename(a)
    a.with_name("aside").rename(b)


def test_what_is_whole_passes(work):
    code, out, err = selfe_bench("verify", str(work))
    assert code == 0, err
    kinds = sorted(line.split()[1] for line in out.splitlines())
    assert kinds == ["latent", "measurements", "result", "run"] and "FAIL" not in out


def test_a_run_is_named(work):
    steps = sorted(p.name for p in (work / "runs" / "run" / "checkpoints").glob("step-*"))
    newest = int(steps[-1].removeprefix("step-"))
    (work / "runs" / "run" / "checkpoints" / steps[-1] / "state.json").write_text("{}")
    for name, code in (("run", 1), (f"run@{newest}", 1), ("runn", 2), (f"run@{newest + 1}", 2)):
        found, out, err = selfe_bench("verify", name, "--runs-dir", str(work / "runs"))
        assert found == code, (name, out, err)
        assert ("FAIL" in out) == (code == 1)
    assert "no checkpoint at iteration" in err


def test_what_is_none_of_them_is_said(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        code, _, err = selfe_bench("verify", str(path))
        assert code == 2 and str(path) in err


@pytest.mark.fault(27)
def test_a_flipped_byte_of_every_file_is_found(work):
    files = [p for p in sorted(work.rglob("*")) if p.is_file() and p.name != "skipped.jsonl"]
    assert len(files) > 20
    missed, things = [], list(things_below(work))
    for path in files:
        original = path.read_bytes()
        content = bytearray(original)
        content[len(content) // 2] ^= 4
        path.write_bytes(bytes(content))
        # of the thing that the file belongs to; the command alone would read all of them
        (thing,) = [(f, check) for _, f, check in things if path.is_relative_to(f)][-1:]
        problems = thing[1](thing[0])
        names = (path.name, path.parent.name, path.name.removeprefix(".").partition(".")[0])
        if not any(name in each for name in names for each in problems):
            missed.append(path)
        path.write_bytes(original)
    assert missed == []


@pytest.mark.fault(27)
def test_swapped_images_are_found_and_never_scored(work):
    folder = work / "runs" / "run" / "results" / SET
    assert scan_folder(folder, RECORDS, 2, image_set=SET).complete
    assert scan_folder(folder, RECORDS, 2).complete
    swap(sample_path(folder, 0, 0), sample_path(folder, 1, 0))
    for image_set in (SET, None):
        problems = scan_folder(folder, RECORDS, 2, image_set=image_set).problems
        assert sum("renamed or swapped" in problem for problem in problems) == 2
    identity = ImageIdentity(SET, 0, 0, RECORDS[0]["prompt"])
    assert not image_is_intact(folder, 0, 0, identity)
    draw(folder)
    assert image_is_intact(folder, 0, 0, identity)
    # of another model, in the same place
    problems = scan_folder(folder, RECORDS, 2, image_set="steps-002-another").problems
    assert "it was drawn for prompt 0 of steps-002-0123abcd" in problems[0]


@pytest.mark.fault(27)
def test_a_changed_row_of_a_working_file_is_found_again(tmp_path):
    path, identity = tmp_path / "work.jsonl", {"detector": "a"}
    rows = [{"prompt_id": n, "score": 0.5 + n} for n in range(4)]
    file = WorkFile(path, identity)
    file.append(rows[:2])
    file.append(rows[2:])
    assert sound_rows(path, identity) == rows and sound_rows(path, {"detector": "b"}) == []
    lines = path.read_text().splitlines(keepends=True)
    for what, text in (*mutations(json.loads(lines[2])), *texts(lines[2])):
        middle = text.encode() if isinstance(text, str) else text
        path.write_bytes("".join(lines[:2]).encode() + middle + b"\n" + lines[3].encode())
        assert sound_rows(path, identity) in (rows[:2], rows[:3], rows), what
        assert all(row in rows for row in sound_rows(path, identity)), what
    again = WorkFile(path, identity)
    kept = len(sound_rows(path, identity))
    again.append(rows[kept:])
    assert sound_rows(path, identity) == rows


@pytest.mark.fault(27)
def test_every_change_of_a_result_is_noticed(work):
    path = work / "runs" / "run" / "results" / SET / "result.json"
    original = path.read_text()
    for what, text in (*mutations(json.loads(original)), *texts(original)):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=r"result\.json"):
            read_result_folder(path.parent)
            pytest.fail(f"not noticed: {what}")


@pytest.mark.fault(27)
def test_a_malformed_result_of_somebody_else_is_one_sentence(work):
    folder = work / "runs" / "run" / "results" / SET
    record = json.loads((folder / "result.json").read_text())
    del record["what"], record["checksum"]
    taken = 0
    for what, text in mutations(record):
        (folder / "result.json").write_text(text)
        try:
            found = read_result_folder(folder)
        except ValueError as error:
            assert "result.json" in str(error) or "images.jsonl" in str(error), what
        else:
            taken += 1
            row_of(found)
            diversity_frame([found])
            diversity_facts(found.result.diversity)
    assert taken
