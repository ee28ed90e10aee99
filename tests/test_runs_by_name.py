"""Runs are found at any depth and called by name; lists are tables that fit the terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selfe.cli.tables import Column, as_table
from selfe.config.describe import fields_of
from selfe.config.objective_outline import outline
from selfe.files import folder_lock
from selfe.objectives.registry import METHODS, load_method, objective_class
from selfe.run_folder.overview import overview
from selfe.run_folder.records import find_runs, parse_run, unknown_run, write_config
from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import write_result
from tests.helpers.tiny import tiny_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs/a, runs/study/b and runs/other/b, begun and not trained."""
    monkeypatch.chdir(tmp_path)
    for place in ("a", "study/b", "other/b"):
        (tmp_path / "runs" / place).mkdir(parents=True)
        write_config(tmp_path / "runs" / place, tiny_config("fm"))
    return Path("runs")


def test_runs_are_found_at_any_depth_but_not_inside_runs_or_hidden_folders(runs):
    shutil.copytree(runs / "a", runs / ".trash" / "c")
    shutil.copytree(runs / "a", runs / "study" / "b" / "inner")
    (runs / "exported" / "transformer").mkdir(parents=True)
    (runs / "exported" / "transformer" / "config.json").write_text('{"_class_name": "Denoiser"}')
    (runs / "loop").symlink_to(runs.resolve(), target_is_directory=True)
    assert find_runs(runs) == [runs / "a", runs / "other/b", runs / "study/b"]


def test_a_name_is_enough_and_an_ambiguous_one_is_answered_with_the_ways(runs):
    assert parse_run("a", runs) == (runs / "a", None)
    assert parse_run("study/b@30", runs) == (runs / "study/b", 30)
    shutil.rmtree(runs / "other")
    assert parse_run("b", runs) == (runs / "study/b", None)
    shutil.copytree(runs / "study", runs / "deep" / "study")
    with pytest.raises(ValueError, match=r"'b' names 2 runs: give one of .*deep/study/b"):
        parse_run("b", runs)
    assert parse_run("nothing", runs) is None


def test_an_unknown_run_is_answered_with_the_nearest(runs):
    shutil.move(runs / "a", runs / "shapes-quick-selfe")
    sentence = unknown_run("shapes-quick-slefe@400", runs)
    assert "did you mean 'shapes-quick-selfe'?" in sentence and "study/b" in sentence
    code, _, err = selfe_bench("sample", "--model", "sdxll", "--prompt", "a")
    assert code == 2 and "did you mean 'sdxl'?" in err
    code, _, err = selfe_bench("view", "shapes-quick-slefe")
    assert code == 2 and "did you mean 'shapes-quick-selfe'?" in err


def test_runs_are_listed_with_state_and_changes(runs):
    with folder_lock(runs / "a"):
        code, out, _ = selfe_bench("ls", "runs", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows.keys() == {"a", "study/b", "other/b"}
    assert (rows["a"]["state"], rows["study/b"]["state"]) == ("running", "stopped")
    assert {"model.num_layers=1", "train.batch_size=8"} <= set(rows["a"]["changed"])
    assert not any(key.startswith("_") for row in rows.values() for key in row)


def test_a_line_shows_scores_of_one_protocol(runs):
    place = runs / "a" / "results" / "step-00000003" / "shapes@1-heldout"
    for steps in (2, 4):
        write_result(place / f"whole-{steps}", steps=steps, rate=0.9, images_per_prompt=4)
        write_result(place / f"look-{steps}", steps=steps, rate=0.1, images_per_prompt=1)
    seen = overview(runs / "a", "a")
    assert len(seen.scores) == 4 and [score.steps for score in seen.shown] == [2, 4]
    assert all(score.overall > 0.5 for score in seen.shown)
    code, out, _ = selfe_bench("ls", "runs")
    line = next(line for line in out.splitlines() if line.startswith("a "))
    assert code == 0 and line.count("2: 0.") == 1
    _, text, _ = selfe_bench("ls", "runs", "--json")
    row = next(row for row in json.loads(text) if row["name"] == "a")
    assert len(row["scores"]) == 4


@pytest.mark.parametrize("what", ["runs", "suites", "models", "methods", "recipes", "settings"])
def test_every_list_fits_sixty_columns_and_says_all_as_json(runs, monkeypatch, what):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = selfe_bench("ls", what)
    assert code == 0 and max(map(len, out.splitlines())) <= 60
    code, text, _ = selfe_bench("ls", what, "--json")
    first = [line for line in out.splitlines() if not line.startswith(" ")]  # others continue one
    assert code == 0 and len(json.loads(text)) == len(first) - 1


def test_a_table_drops_what_is_dispensable_and_cuts_the_rest():
    rows = [{"name": "n" * 10, "about": "w" * 30, "extra": "x" * 20}]
    columns = [Column("name"), Column("about", keep=2), Column("extra", keep=1)]
    assert as_table(rows, columns, 80).splitlines()[1].count(" ") == 4
    narrow = as_table(rows, columns, 30).splitlines()
    assert narrow[0].split() == ["name", "about"] and narrow[1].endswith("…")
    assert all(len(line) <= 30 for line in narrow)


def test_sentences_of_a_table_continue_below():
    rows = [{"name": "lr", "about": "the learning rate after the warm-up"}, {"name": "b"}]
    columns = [Column("name"), Column("about", wrap=True)]
    lines = as_table(rows, columns, 24).splitlines()
    assert all(len(line) <= 24 for line in lines)
    assert " ".join(line[6:].strip() for line in lines[1:-1]) == rows[0]["about"]
    assert lines[2].startswith("      ") and lines[-1] == "b"


@pytest.mark.parametrize("method", METHODS.table)
def test_an_outline_has_the_settings_of_the_objective(method):
    real, outlined = objective_class(method), outline(load_method(method).target)
    assert outlined is not None and fields_of(outlined) == fields_of(real)
    for name in fields_of(real):
        assert getattr(outlined(), name) == getattr(real(), name)
    for name in ("group_size", "needs_fake_captions"):
        assert getattr(outlined(), name) == getattr(real(), name)
    assert hasattr(outlined, "loss") and outlined.__doc__ == real.__doc__


def test_an_objective_that_needs_more_than_the_standard_library_has_no_outline(
    tmp_path, monkeypatch
):
    (tmp_path / "outside_objective.py").write_text(
        "from somewhere import Base\n\nclass Mine(Base):\n    scale: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert outline("outside_objective:Mine") is None
    assert outline("outside_objective:Other") is None
    assert outline("no_such_module:Mine") is None


COMMANDS = [
    ["--help"],
    ["train", "--help"],
    *[["ls", what] for what in ("runs", "results", "models", "methods", "recipes", "suites")],
    ["ls", "settings"],
    ["plan", "--method", "selfe"],
    ["plan", "--method", "imm", "--recipe", "shapes"],
    ["train", "--method", "slefe"],
    ["train", "--method", "selfe", "--set", "optim.learning=1"],
    ["geneval", "--model", "nope"],
    ["sample", "--model", "nope", "--prompt", "a"],
    ["export", "nope", "--out", "x"],
    ["prompts", "--suite", "shapes@1"],
    ["rescore", "--suite", "shapes@1", "--detections", "nope", "--out", "x"],
]


def test_what_computes_nothing_starts_without_torch(tmp_path):
    """Torch takes seconds to import; one process types all of these commands."""
    program = (
        "import contextlib, io, json, sys\n"
        "from selfe.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['selfe-bench', *words]\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "    loaded = {'torch', 'diffusers', 'pandas', 'matplotlib'} & {*sys.modules}\n"
        "    assert not loaded, (words, loaded)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(COMMANDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
