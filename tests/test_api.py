"""The public Python API: runs, scores, comparisons, and GenEval on images in memory."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import selfe
from evals.registry import open_suite
from evals.suites.geneval import COCO_CLASSES, geneval_records
from evals.suites.prompts import record_of
from selfe.api.runs import as_assignments
from selfe.data.shapes_world import ShapesWorld
from selfe.run_folder.records import write_config
from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import RATES, write_result
from tests.helpers.tiny import tiny_config, tiny_train

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def scenes() -> tuple[list[np.ndarray], list[dict]]:
    """Right renders of twelve held-out prompts, two of every task."""
    world, records = ShapesWorld("grid"), []
    for tag in ("single_object", "two_object", "counting", "colors", "position", "color_attr"):
        records += [r for r in open_suite("shapes@1").records if r["tag"] == tag][:2]
    rng = np.random.default_rng(0)
    return [world.render(world.scene_for(record, rng)) for record in records], records


@pytest.fixture(scope="module")
def judge() -> selfe.GenEval:
    return selfe.GenEval("cpu", suite="shapes@1")


def test_images_in_memory_are_judged_with_reasons(judge, scenes):
    images, records = scenes
    prompts = [record["prompt"] for record in records]
    right = judge(images, prompts)
    assert sum(v.correct for v in right) >= 11 and [v.prompt for v in right] == prompts
    wrong = judge(images[::-1], prompts)
    assert sum(v.correct for v in wrong) <= 6
    assert all(bool(v.reason) != v.correct and (v.met == 1) == v.correct for v in right + wrong)
    assert right[0].detections and right[0].detections[0].mask is None


def test_every_kind_of_image_gets_the_same_verdict(judge, scenes):
    images, records = scenes
    array = np.stack(images)
    floats = torch.from_numpy(array).permute(0, 3, 1, 2) / 255
    expected = judge.reward(images, records).tolist()
    assert judge.reward([Image.fromarray(image) for image in images], records).tolist() == expected
    assert judge.reward(floats, records).tolist() == expected
    assert judge.reward(floats.to(torch.float16), records).tolist() == expected
    assert judge.reward(array.astype(np.float64) / 255, records).tolist() == expected
    one = judge([images[0]], records[0])
    assert len(one) == 1 and one[0].correct == bool(expected[0])


def test_what_is_no_image_or_no_prompt_is_refused_in_a_sentence(judge, scenes):
    images, records = scenes
    with pytest.raises(ValueError, match="2 images but 1 prompts"):
        judge(images[:2], [records[0]])
    with pytest.raises(ValueError, match=r"lies in \[0, 1\].*rescale"):
        judge([images[0] / 127.5 - 1], records[0])
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        judge([np.zeros((5, 32, 32), np.uint8)], records[0])
    for alone in (
        Image.fromarray(images[0]),
        images[0],
        torch.from_numpy(images[0]).movedim(-1, 0),
    ):
        with pytest.raises(ValueError, match=r"give \[image\] for one alone"):
            judge(alone, records[0])
    with pytest.raises(ValueError, match="a.png is the name of a file: open it"):
        judge(["a.png"], records[0])
    with pytest.raises(ValueError, match="without pixels"):
        judge([np.zeros((0, 4, 3))], records[0])
    for images_of, prompts in ((None, "x"), ("a.png", "x"), (images[:1], None), (images[:1], [3])):
        with pytest.raises(ValueError, match=r"^(images are|prompts are|a prompt is)"):
            judge(images_of, prompts)
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        selfe.GenEval("gpu", suite="shapes@1").open()
    with pytest.raises(ValueError, match="^rules: treshold: extra inputs") as caught:
        selfe.GenEval("cpu", suite="shapes@1", rules={"treshold": 0.5})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="worded like none of GenEval's"):
        judge(images[:1], "a sleeping circle")
    with pytest.raises(ValueError, match="knows no 'dog'"):
        judge(images[:1], {"tag": "mine", "prompt": "x", "include": [{"class": "dog", "count": 1}]})
    (verdict,) = judge([torch.full((3, 32, 32), float("nan"))], records[0])
    assert (verdict.correct, verdict.reason, verdict.met) == (False, "not finite", 0.0)


def test_a_judge_can_be_sent_to_another_process(judge, scenes):
    images, records = scenes
    judge.open()
    again = pickle.loads(pickle.dumps(judge))
    assert len(pickle.dumps(judge)) < 200_000  # the prompts, not the networks
    assert (
        again.reward(images[:2], records[:2]).tolist()
        == judge.reward(images[:2], records[:2]).tolist()
    )


def test_partial_reward_is_the_share_of_clauses(judge, scenes):
    images, _ = scenes
    nothing = np.full_like(images[0], 128)
    record = {
        "tag": "two_object",
        "prompt": "",
        "include": [{"class": "circle", "count": 1}, {"class": "star", "count": 1}],
        "exclude": [{"class": "ring", "count": 1}],
    }
    assert judge.reward([nothing], [record], partial=True) == pytest.approx([1 / 3])


@pytest.mark.parametrize("record", geneval_records()[::9] + geneval_records()[-3:])
def test_the_record_of_every_prompt_of_geneval_is_found_from_its_words(record):
    assert record_of(record["prompt"], COCO_CLASSES) == record


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [("a photo of a benhc", "bench"), ("a photo of 3 dogs", ""), ("a photo of a teal dog", "")],
)
def test_a_prompt_without_a_record_is_refused(prompt, hint):
    with pytest.raises(ValueError, match="no record for the prompt") as raised:
        record_of(prompt, COCO_CLASSES)
    assert f"did you mean {hint!r}" in str(raised.value) or not hint


def test_settings_are_nested_or_dotted():
    assert as_assignments({"optim.lr": 1e-3, "train": {"compile": False}}) == [
        "optim.lr=0.001",
        "train.compile=false",
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> selfe.Run:
    runs = tmp_path_factory.mktemp("api") / "runs"
    config = tiny_config("fm")
    tiny_train(config, runs / "deep" / "mine")
    write_config(runs / "deep" / "mine", config)
    return selfe.open_run("mine", runs)


def test_a_run_draws_the_same_images_whatever_is_drawn_beside_them(run):
    images = run.sample("a photo of a star", steps=2, images_per_prompt=2, device="cpu")
    assert [image.size for image in images] == [(32, 32)] * 2 and images.steps == 2
    both = run.sample(["a photo of a ring", "a photo of a star"], steps=2, device="cpu")
    np.testing.assert_array_equal(np.asarray(both[1]), np.asarray(images[0]))
    assert images._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="guidance_scale"):
        run.sample("a", settings={"guidance_scale": -1})
    with pytest.raises(ValueError, match=r"is one number, got \[1, 2\]"):
        run.sample("a", steps=[1, 2])


def test_scores_are_frames_with_failures_that_show_themselves(run, capsys):
    result = run.score(steps=1, limit=1, images_per_prompt=1, device="cpu", progress=False)
    frame = result.frame()
    assert list(frame["steps"]) == [1] and 0 <= frame["overall"][0] <= 1
    verdicts = result.verdicts()
    assert len(verdicts) == 6 and verdicts["prompt"].str.startswith("a photo of").all()
    failures = result.failures()
    assert len(failures) == int((~verdicts["correct"]).sum()) > 0
    failures.show(2)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("a photo of") and shown[0].endswith("(1 steps)")
    assert shown[1].startswith("  wanted") and sum(line.endswith(".png") for line in shown) == 2
    assert failures._repr_html_().count("data:image/png") == len(failures)
    with pytest.raises(ValueError, match="no task 'colour'"):
        result.failures("colour")
    assert len(run.scores()) == 1 and "overall" in result._repr_html_()
    assert "finished" in run._repr_html_() and "mine" in repr(run)


def test_training_by_name_is_resumed_and_listed(tmp_path, run):
    with pytest.raises(ValueError, match="did you mean 'selfe'"):
        selfe.train("slefe", runs_dir=tmp_path)
    with pytest.raises(ValueError, match="name is that of a folder"):
        selfe.train("fm", name="../x", runs_dir=tmp_path)
    frame = selfe.list_runs(run.runs_dir)
    assert list(frame["name"]) == ["mine"] and list(frame["state"]) == ["finished"]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Self-E and Flow Matching of three training seeds each, and IMM of one."""
    runs = tmp_path_factory.mktemp("study") / "runs"
    for method, seeds in (("selfe", (0, 1, 2)), ("fm", (0, 1, 2)), ("imm", (0,))):
        for seed in seeds:
            folder = runs / "q" / f"{method}-{seed}"
            folder.mkdir(parents=True)
            config = tiny_config(method, f"optim.lr={1e-3}").model_copy(update={"seed": seed})
            write_config(folder, config)
            training = {"seed": seed, "config_digest": config.digest, "init_from": None,
                        "seedless_digest": config.seedless_digest, "precision": "fp32"}  # fmt: skip
            for steps, rate in zip((2, 4), RATES[method][:2], strict=True):
                place = folder / "results" / "step-00003000" / "shapes@1-heldout" / f"steps-{steps}"
                drawn = (method, seed, steps) == ("fm", 0, 2)  # prompts are read beside images
                write_result(place, method, steps=steps, rate=rate, training=training,
                             seed=seed, images=drawn, prompts_per_task=8)  # fmt: skip
    return runs


def test_runs_are_compared_by_name_over_all_they_share(study, monkeypatch):
    monkeypatch.chdir(study.parent)
    found = selfe.compare("selfe-0", "fm-0")
    frame = found.frame()
    assert sorted(set(frame["steps"])) == [2, 4] and len(frame) == 14
    assert set(frame["seeds"]) == {(0, 1, 2)}  # other seeds were found by itself
    row = frame[(frame["steps"] == 2) & (frame["task"] == "overall")].iloc[0]
    assert row["verdict"] == "A" and row["a"] > row["b"] and row["low"] > 0
    assert (frame["p_adjusted"] >= frame["p_value"]).all()
    flipped = found.flipped()
    assert (flipped[flipped["steps"] == 2]["prompt"].str.startswith("a photo of prompt")).all()
    assert "difference" in found._repr_html_()
    one = selfe.compare("selfe-1", selfe.open_run("imm-0"), steps=[2])
    assert (
        set(one.frame()["steps"]) == {2} and "A as named has training seed 1" in one.facts.notes[0]
    )
    with pytest.raises(ValueError, match="fm-0 is compared with itself"):
        selfe.compare("fm-0", selfe.open_run("fm-0"))
    again = selfe.compare("fm-0", "fm-1")  # two trainings of one configuration
    assert set(again.frame()["seeds"]) == {(0,)}


def test_a_damaged_run_is_named_where_runs_are_compared(study, tmp_path, monkeypatch):
    """It may be one of the seeds, which would be missing without a word."""
    shutil.copytree(study, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs" / "q" / "fm-2" / "config.json"
    path.write_text(path.read_text()[:100])
    found = selfe.compare("selfe-0", "fm-0", steps=[2])
    assert set(found.frame()["seeds"]) == {(0, 1)}
    assert "fm-2 is left out, which may be another seed" in found.facts.notes[0]


def test_the_command_compares_runs_in_sixty_columns(study, monkeypatch):
    monkeypatch.chdir(study.parent)
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = selfe_bench("compare", "selfe-0", "fm-0", "--steps", "2")
    assert code == 0
    rows = out.splitlines()
    assert max(map(len, rows)) <= 60 and sum(" overall" in row for row in rows) == 1
    assert "--page FOLDER" in out
    code, out, _ = selfe_bench("compare", "selfe-0", "fm-0", "--steps", "2", "--page", "flipped")
    assert code == 0 and "their images: flipped/index.html" in out
    assert "selfe-0 against fm-0" in Path("flipped/index.html").read_text()
    code, out, _ = selfe_bench("compare", "selfe-0", "fm-0", "--json")
    assert code == 0 and len(json.loads(out)["rows"]) == 14
    code, _, err = selfe_bench("compare", "selfe-0", "fm-5")
    assert code == 2 and "did you mean 'fm-" in err
    code, _, err = selfe_bench("compare", "selfe-0", "fm-0", "--steps", "16")
    assert code == 2 and "share no protocol at 16 steps" in err


def test_importing_selfe_is_cheap_and_says_what_it_has():
    program = (
        "import sys, selfe; assert 'GenEval' in dir(selfe) and selfe.__version__; "
        "assert not {'torch', 'numpy', 'pandas', 'pydantic'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=30)
    assert {name for name in selfe.__all__ if not hasattr(selfe, name)} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = selfe.nothing
