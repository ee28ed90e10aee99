"""What a terminal shows: version, errors in one style, completion, headers, tables, the demo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from evals.results import read_result
from selfe.api.demo import demo_prompts
from selfe.cli import COMMANDS, build_app, suspicions
from selfe.cli.common import fitted
from selfe.cli.completion import complete_methods, complete_runs, complete_settings
from selfe.cli.score_table import score_tables
from selfe.cli.train_words import Stopwatch, duration, header
from selfe.config.resolve import resolve
from selfe.generator import image_seed
from selfe.run_folder.checkpoint import load_tensors
from selfe.run_folder.model import load_run
from selfe.run_folder.packed_weights import load_packed, pack, pack_run, unpack
from selfe.run_folder.records import find_checkpoint, write_config
from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import write_result
from tests.helpers.tiny import tiny_config, tiny_train

ROOT = Path(__file__).resolve().parent.parent


def test_version_and_help():
    code, out, _ = selfe_bench("--version")
    assert code == 0 and out.startswith("selfe-bench 0.")
    code, out, _ = selfe_bench()
    assert code == 0 and "Commands:" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trian",), "train"),
        (("train", "--metod", "fm"), "--method"),
        (("train",), "--method"),
        (("geneval", "--seed", "x"), "--seed"),
        (("train", "--method", "fm", "--set", "lr=1"), "did you mean 'optim.lr'?"),
        (("train", "--method", "fm", "--set", "iteratons=1"), "did you mean 'train.iterations'?"),
        (("train", "--method", "fm", "--set", "zzz=1"), "known here: model, data"),
        (("ls", "runz"), "'runz' is not one of 'runs'"),
        (("ls", "runz"), "did you mean 'runs'?"),
        (("search", "sampling", "--dry"), "(selfe-bench search sampling --help)"),
        (("study", "--dri"), "(selfe-bench study --help)"),
    ],
)
def test_every_error_has_one_style(words, sentence):
    code, _, err = selfe_bench(*words)
    assert code == 2 and err.startswith("error: ") and sentence in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_flags_stand_before_or_after_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    for words in (("ls", "runs", "-q"), ("-q", "ls", "runs")):
        assert "left out" not in selfe_bench(*words)[2]
    assert "left out" in selfe_bench("ls", "runs")[2]
    with pytest.raises(ValueError, match="unknown method"):
        selfe_bench("train", "--method", "slefe", "--verbose")


def test_names_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "deep" / "mine").mkdir(parents=True)
    write_config(tmp_path / "runs" / "deep" / "mine", tiny_config("fm"))
    assert complete_runs("m") == ["mine"] and complete_methods("me") == ["meanflow"]
    assert complete_settings("optim.l") == ["optim.lr="]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "_SELFE_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "selfe-bench train --method me", "COMP_CWORD": "3",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "selfe"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["meanflow"], done.stderr


def test_a_header_says_what_is_trained_where(monkeypatch):
    config = resolve("shapes-quick", "selfe", assignments=["optim.lr=1e-3"])
    lines = header(config, Path("runs/mine"), "cpu", 2).splitlines()
    assert lines[0] == "Self-E, recipe shapes-quick, seed 0"
    assert "  network: 2.3M parameters" in lines and any("optim.lr=0.001" in x for x in lines)
    assert max(map(len, lines[:6])) <= 60
    assert [duration(s) for s in (42, 200, 7500)] == ["42 s", "3 min 20 s", "2 h 5 min"]


def test_what_is_hardly_meant_is_told(monkeypatch):
    config = resolve("shapes-quick", "fm")
    assert list(suspicions.of_training(config, "cpu", None)) == []
    sentence, *_ = suspicions.of_training(config, "cpu", 4096)
    assert "--workers 4096" in sentence
    monkeypatch.setattr(suspicions, "_memory_there", lambda device: 10**8)
    assert any("micro_batch_size" in s for s in suspicions.of_training(config, "cpu", None))
    assert list(suspicions.of_prompts(["a photo of two Red circles"], "grid")) == []
    (sentence,) = suspicions.of_prompts(["a photo of a red banana", "a photo of a ring"], "grid")
    assert "no word 'banana'" in sentence


@pytest.mark.parametrize("width", [60, 160])
def test_scores_are_a_table_of_tasks_by_steps(tmp_path, width):
    results = [
        read_result(write_result(tmp_path / str(steps), steps=steps)) for steps in (2, 4, 8, 50)
    ]
    text = score_tables(results, width)
    lines = text.splitlines()
    assert max(map(len, lines[1:])) <= width
    assert sum(line.startswith("overall") for line in lines) == (2 if width == 60 else 1)
    assert "50 steps (NFE 50)" in text and "color_attr" in text
    overall = results[0].scores.overall
    assert overall is not None
    assert f"{overall.mean:.3f} [{overall.low:.3f}, {overall.high:.3f}]" in text


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "runs" / "small"
    config = tiny_config("fm")
    tiny_train(config, folder)
    write_config(folder, config)
    return folder


def test_packed_weights_are_those_of_the_run_within_eight_bits(run, tmp_path):
    tensors = load_tensors(find_checkpoint(run).path / "ema.safetensors")
    again = unpack(pack(tensors))
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        step = tensor.abs().amax() / 127 if tensor.ndim > 1 else tensor.abs().amax() / 1000
        assert (again[name] - tensor).abs().amax() <= 0.51 * step + 1e-6, name
    model = pack_run(run, tmp_path / "demo_fm.safetensors")
    packed = load_packed(model, tmp_path)
    prompts, seeds = (
        ["a photo of a star"] * 2,
        [image_seed(0, "a photo of a star", n) for n in (0, 1)],
    )
    ours, its = (m.generate(prompts, 2, seeds) for m in (load_run(run), packed))
    difference = torch.tensor(ours[0]).float() - torch.tensor(its[0]).float()
    assert difference.abs().mean() < 4
    (tmp_path / "demo_fm.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not the file that its manifest names"):
        load_packed(model, tmp_path)


def test_the_demo_draws_judges_and_writes_a_page(run, tmp_path):
    code, out, err = selfe_bench(
        *("demo", "--run", "small", "--steps", "1", "--device", "cpu"),
        *("--runs-dir", str(run.parent), "--out", str(tmp_path / "page")),
    )
    assert code == 0, err
    page = (tmp_path / "page" / "index.html").read_text()
    assert all(prompt in page for prompt in demo_prompts())
    assert page.count("data:image/png") == 2 * len(demo_prompts())
    assert f"look at {tmp_path / 'page' / 'index.html'}" in out and "Flow Matching" in out


def test_the_summary_counts_the_iterations_made_now():
    """Progress is told every so many iterations, and a resumed run begins where it was."""
    watch = Stopwatch()
    assert watch.steps == 0
    watch.begin(8)
    assert watch.steps == 0
    for step in (10, 15, 20):
        watch.see(step, 1.0)
    assert watch.steps == 12


@pytest.mark.parametrize("columns", ["60", None])
def test_long_lines_continue_below_their_words(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS", False)
    lines = ["  memory      " + "word " * 15, "  - " + "word " * 20, "short"]
    shown = fitted("\n".join(lines)).splitlines()
    if columns is None:  # nothing is cut where no terminal reads
        assert shown == lines
        return
    assert max(map(len, shown)) <= 60 and shown[-1] == "short"
    assert shown[1].startswith(" " * 14 + "word")
    assert shown[2].startswith("  - word") and shown[3].startswith("    word")


def test_the_documentation_lists_every_command():
    rows = [
        line
        for line in (ROOT / "docs" / "commands.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    listed = {name for row in rows for name in re.findall("`([a-z]+)`", row.split("|")[1])}
    assert listed == {*(command.__name__ for command in COMMANDS), "search"}


def test_help_is_the_same_where_no_options_are_read():
    read = [CliRunner().invoke(build_app(words), ["--help"]).output for words in (None, ["--help"])]
    assert read[0] == read[1] and "  search " in read[0]


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("--help", "torch numpy scipy pandas filelock"),
        ("trian", "torch numpy scipy pandas"),
        ("ls models", "torch numpy scipy pandas"),
        ("ls suites", "torch scipy pandas matplotlib"),
        ("ls runs", "torch numpy scipy pandas"),
        ("plan", "torch numpy scipy pandas"),
    ],
)
def test_what_lists_and_typing_errors_do_not_import(tmp_path, command, absent):
    """Half a second of CPU is what they may take: these packages alone take as much."""
    program = (
        f"import sys; sys.argv[1:] = {command.split()}\n"
        "from selfe.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('found', *({set(absent.split())} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "found"
