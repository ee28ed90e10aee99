"""The command line: every help text, and one clear sentence with exit code 2 for bad input."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfe.cli import app
from selfe.cli.targets import run_targets
from selfe.run_folder.records import read_config, write_config
from selfe.training.metrics_log import read_lines
from tests.helpers.command_line import selfe_bench
from tests.helpers.tiny import TINY_MODEL, tiny_config, tiny_train

COMMANDS = sorted(
    (c.name or c.callback.__name__) for c in app.registered_commands if c.callback is not None
)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return selfe_bench


def test_the_commands_of_the_readme_exist():
    assert {
        "train",
        "geneval",
        "report",
        "prompts",
        "rescore",
        "compare",
        "doctor",
        "fetch",
    } <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage: selfe-bench" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "--method", "nope"), "unknown method 'nope'"),
        (("train", "--method", "fm", "--recipe", "nope"), "unknown recipe 'nope'"),
        (("train", "--method", "fm", "--variant", "aux"), "unknown variant"),
        (("train", "--method", "fm", "--set", "optim.lrr=1"), "did you mean 'optim.lr'"),
        (("train", "--method", "fm", "--set", "optim.lr=fast"), "optim.lr must be a number"),
        (("train", "--method", "fm", "--resume"), "nothing to resume"),
        (("train", "--method", "fm", "--init-from", "x"), "RUN@STEP"),
        (("train", "--method", "fm", "--init-from", "x@²"), "RUN@STEP"),
        (
            ("train", "--method", "fm", "--init-from", "x@3"),
            "no run 'x'",
        ),
        (("train", "--method", "fm", "--set", "objective=5"), "objective is a section"),
        (("train", "--method", "fm", "--set", "objective=null"), "objective is a section"),
        (
            ("train", "--method", "fm", "--set", "model.num_attention_heads=0"),
            "num_attention_heads",
        ),
        (("train", "--method", "fm", "--set", "model.num_layers=-1"), "model.num_layers"),
        (("train", "--method", "fm", "--name", "a/b"), "--name takes the name of a folder"),
        (("train", "--method", "fm", "--name", ".."), "--name takes the name of a folder"),
        (("geneval", "--set", "sampling=3"), "sampling is a section"),
        (("geneval", "--steps", "²"), "positive integers"),
        (("sample", "--model", "sdxl", "--prompt", "a", "--out", __file__), "is a file"),
        (("plan", "--method", "fm", "--mean-tokens", "999"), "999 tokens on average"),
        (("train", "--method", "fm", "--device", "tpu9"), "tpu9"),
        (("geneval", "--model", "no/such/run", "--steps", "2"), "no run or model 'no/such/run'"),
        (("geneval", "--steps", "0"), "positive integers"),
        (("geneval", "--steps", "2,x"), "positive integers"),
        (("geneval", "--steps", "2"), "no finished run"),
        (("geneval", "--images", "nowhere"), "nowhere"),
        (("geneval", "--images", "x", "--model", "sdxl"), "leave out --model"),
        (("geneval", "--set", "optim.lr=1"), "sampling.KEY=VALUE"),
        (("prompts", "--suite", "geneval@9"), "unknown suite"),
        (("report", "--grid", "x"), "--prompts FILE"),
        (("report", "--results", "nowhere"), "no folder nowhere"),
        (("sample", "--model", "nope", "--prompt", "a"), "no run or model 'nope'"),
        (("rescore", "--suite", "geneval@1", "--detections", "no.jsonl", "--out", "o"), "no.jsonl"),
        (("compare", "nowhere", "neither"), "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, words, sentence):
    code, out, err = run(*words)
    assert code == 2, (out, err)
    assert sentence in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_a_run_that_failed_before_its_first_checkpoint_gives_up_its_name(run, monkeypatch):
    def fail(*arguments):
        raise ValueError("the second iteration failed")

    words = ["train", "--method", "fm", "--name", "again", "--device", "cpu", "--workers", "1"]
    words += [*tiny_options(2), "--set", "data.size=64"]
    with monkeypatch.context() as patch:
        patch.setattr("selfe.training.loop.log_iteration", fail)
        assert run(*words, "--set", "train.sample_every=1")[0] == 2
    assert Path("runs/again/config.json").exists()
    code, _, err = run(*words, "--seed", "1")
    assert code == 0, err
    assert read_config(Path("runs/again")).seed == 1
    assert [r["step"] for r in read_lines(Path("runs/again/metrics.jsonl"))] == [1, 2]
    code, _, err = run(*words)
    assert code == 2 and "already holds a run" in err


def test_missing_and_unknown_options_are_exit_code_2(run):
    assert run("train")[0] == 2
    assert run("train", "--nope")[0] == 2
    assert run("nope")[0] == 2


@pytest.mark.fault(5)
def test_unwritable_folder(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("train", "--method", "fm", "--runs-dir", "file")
    assert code == 2
    assert "cannot write to" in err


def test_prompts_prints_the_published_list(run):
    code, out, _ = run("prompts", "--suite", "geneval@1")
    assert code == 0
    digest = hashlib.sha256(out.encode()).hexdigest()
    assert digest == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


def test_listings_are_json(run):
    for what in ("models", "methods", "recipes", "runs"):
        code, out, _ = run("ls", what, "--json")
        assert code == 0
        assert isinstance(json.loads(out), list)
    names = [row["name"] for row in json.loads(run("ls", "models", "--json")[1])]
    assert {"sdxl", "flux-dev", "lcm", "sana-1.5", "tim", "sdxl-turbo", "sd3.5-turbo"} <= set(names)


def test_report_without_results_names_the_commands(run, tmp_path):
    code, out, _ = run("report")
    assert code == 0
    assert "not run: selfe-bench train --method imm" in out
    for name in ("table1.md", "table1.csv", "table2.md", "table2.csv"):
        assert (tmp_path / "reports" / "local" / name).is_file()


def tiny_options(iterations: int) -> list[str]:
    settings = [
        *TINY_MODEL,
        f"train.iterations={iterations}",
        "train.batch_size=8",
        "train.log_every=1",
        "train.checkpoint_every=2",
        "train.milestone_every=4",
        "train.sample_every=null",
        "data.size=32",
        "sampling.batch_slots=8",
    ]
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize(("preset", "suite"), [("grid", "shapes@1"), ("free", "shapes-free@1")])
def test_a_run_is_scored_on_the_suite_of_its_world(tmp_path, preset, suite):
    config = tiny_config("fm", f"data.preset={preset}")
    tiny_train(config, tmp_path)
    write_config(tmp_path, config)
    (target,) = run_targets(tmp_path, [None], "cpu", {})
    assert target.suite == suite


def test_the_suite_of_another_world_is_refused_before_drawing(run, tmp_path):
    config = tiny_config("fm")
    tiny_train(config, tmp_path / "runs" / "sound")
    write_config(tmp_path / "runs" / "sound", config)
    code, _, err = run("geneval", "--suite", "shapes-free@1", "--steps", "1")
    assert code == 2 and "draws the grid preset" in err
    assert not list((tmp_path / "runs").rglob("*.png"))


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"\xff", b'{"config": {}}', b'{"config": []}', b'{"config": 5}']
)
def test_a_damaged_run_costs_no_other(run, tmp_path, content):
    config = tiny_config("fm")
    tiny_train(config, tmp_path / "runs" / "sound")
    write_config(tmp_path / "runs" / "sound", config)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_bytes(content)
    code, out, err = run("ls", "runs")
    assert code == 0
    assert "sound" in out and "broken" not in out
    assert "left out: runs/broken/config.json is damaged" in err and "Traceback" not in err
    code, _, err = run("train", "--method", "fm", "--name", "broken", "--resume")
    assert code == 2 and "Traceback" not in err
    code, _, err = run("geneval", "--steps", "1", "--limit", "1", "--images-per-prompt", "1")
    assert code == 0, err
    (result,) = (tmp_path / "runs").rglob("result.json")
    assert result.is_relative_to(tmp_path / "runs" / "sound")


def test_a_damaged_result_is_made_again(run, tmp_path):
    config = tiny_config("fm")
    tiny_train(config, tmp_path / "runs" / "sound")
    write_config(tmp_path / "runs" / "sound", config)
    command = ("geneval", "--steps", "1", "--limit", "1", "--images-per-prompt", "1")
    assert run(*command)[0] == 0
    (result,) = (tmp_path / "runs").rglob("result.json")
    before = json.loads(result.read_text())
    for content in (b"", result.read_bytes()[:-20]):
        result.write_bytes(content)
        code, _, err = run(*command)
        assert code == 0, err
        assert json.loads(result.read_text())["scores"] == before["scores"]


def test_the_shapes_world_reads_no_data(run, tmp_path):
    code, _, err = run("train", "--method", "fm", "--set", "data.path=cache", *tiny_options(1))
    assert code == 2 and "--set data.source=latents" in err
    assert not (tmp_path / "runs" / "shapes-fm" / "config.json").exists()


@pytest.mark.slow
def test_train_score_report_end_to_end(run, tmp_path):
    for method in ("selfe", "fm", "imm"):
        code, out, err = run("train", "--method", method, *tiny_options(4))
        assert code == 0, err
        assert f"runs/shapes-{method}" in out
        shown = re.search(r"loss \d\.\d{4}( \(data \S+, self \S+\))?  ", out + err)
        assert shown and bool(shown[1]) == (method == "selfe")
    assert run("train", "--method", "fm", *tiny_options(4))[0] == 2  # never written over
    code, out, err = run("geneval", "--steps", "1,2", "--limit", "2", "--images-per-prompt", "2")
    assert code == 0, err
    assert out.count("Self-E") == 1 and out.count("2 steps (NFE") == 3
    results = sorted((tmp_path / "runs").rglob("result.json"))
    assert len(results) == 6
    before = {path: path.read_bytes() for path in results}
    code, again, _ = run("geneval", "--steps", "1,2", "--limit", "2", "--images-per-prompt", "2")
    assert code == 0
    assert {path: path.read_bytes() for path in results} == before
    folder = results[0].parent
    code, out, err = run(
        "rescore",
        *("--suite", "shapes@1", "--limit", "2"),
        *("--detections", str(folder / "detections.jsonl")),
        *("--out", "again.jsonl"),
    )
    assert code == 0, err
    assert (tmp_path / "again.jsonl").read_bytes() == (folder / "images.jsonl").read_bytes()
    prompts = ("--prompt", "a photo of a star", "--prompt", "a photo of two circles")
    code, out, err = run("sample", "--model", "shapes-selfe", *prompts, "--steps", "1,2,4")
    assert code == 0, err
    grid = np.asarray(Image.open(tmp_path / "samples" / "grid.png"))
    assert grid.shape == (3 * 32 + 2 * 2, 2 * 32 + 2, 3)  # steps down, prompts across, gaps of 2
    for row, steps in enumerate((1, 2, 4)):
        for column in range(2):
            path = tmp_path / "samples" / f"{column:03d}-steps-{steps:03d}.png"
            cell = grid[row * 34 : row * 34 + 32, column * 34 : column * 34 + 32]
            assert np.array_equal(np.asarray(Image.open(path)), cell)
    code, out, _ = run("report")
    assert code == 0
    assert "6 results rendered" in out
    assert "Flow Matching" in (tmp_path / "reports" / "local" / "table2.md").read_text()


@pytest.mark.slow
@pytest.mark.fault(6)
def test_kill_and_resume_gives_the_same_bits(tmp_path):
    def command(name: str, *more: str) -> list[str]:
        code = "from selfe.cli import main; main()"
        words = ["train", "--method", "selfe", "--name", name, "--device", "cpu", *more]
        return [sys.executable, "-c", code, *words, *tiny_options(12)]

    subprocess.run(command("whole"), cwd=tmp_path, check=True, capture_output=True)
    process = subprocess.Popen(
        command("killed"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    folder = tmp_path / "runs" / "killed" / "checkpoints"
    while not list(folder.glob("step-*/state.json")) and process.poll() is None:
        time.sleep(0.01)  # a busy loop would take the core that it trains on
    process.kill()
    process.wait()
    subprocess.run(command("killed", "--resume"), cwd=tmp_path, check=True, capture_output=True)
    for name in ("model", "ema", "optimizer"):
        path = f"step-00000012/{name}.safetensors"
        whole = tmp_path / "runs" / "whole" / "checkpoints" / path
        assert whole.read_bytes() == (folder / path).read_bytes()


@pytest.mark.slow
@pytest.mark.fault(8)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_iteration_and_saves(tmp_path, number):
    code = "from selfe.cli import main; main()"
    words = ["train", "--method", "fm", "--name", "stopped", "--device", "cpu"]
    settings = [*tiny_options(100_000), "--set", "train.checkpoint_every=50000"]
    settings += ["--set", "train.milestone_every=null"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, *settings],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "runs" / "stopped" / "metrics.jsonl"
    while (not metrics.exists() or metrics.stat().st_size < 200) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "continue with --resume" in err
    last = [json.loads(line) for line in metrics.read_text().splitlines()][-1]["step"]
    (checkpoint,) = (tmp_path / "runs" / "stopped" / "checkpoints").glob("step-*")
    assert checkpoint.name == f"step-{last:08d}"
