"""scripts/table2.sh: the commands it prints are the runs of Table 2, Fig. 5 and Fig. 6."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import typer

from evals.report.rows import paper_table
from scripts import table2
from selfe.cli import app
from selfe.config.resolve import build_objective, resolve, run_name
from selfe.training.run import parse_fork
from tests.helpers.command_line import selfe_bench
from tests.helpers.tiny import TINY_MODEL

COMMANDS = typer.main.get_command(app).commands
TINY = [
    *TINY_MODEL,
    "train.batch_size=8",
    "train.iterations=6",
    "train.milestone_every=2",
]


def printed(*words: str) -> list[tuple[str, dict]]:
    """(command, its options) of every line, parsed as the command line parses it."""
    summary, jobs = table2.jobs_of(table2.parse(words))
    found = []
    for line in table2.as_script(summary, jobs).splitlines():
        if "selfe-bench" not in line or line.startswith("#"):
            continue
        line_words = shlex.split(line)
        start = next(i for i, word in enumerate(line_words) if word.endswith("selfe-bench"))
        name, *options = line_words[start + 1 :]
        found.append((name, COMMANDS[name].make_context(name, options).params))
    return found


def config_of(options: dict):
    return resolve(
        options["recipe"],
        options["method"],
        variant=options["variant"],
        assignments=options["settings"],
    )


def test_the_runs_of_the_paper():
    lines = printed("--data", "/cache")
    trained = [options for name, options in lines if name == "train"]
    configs = [config_of(options) for options in trained]
    rows = {(c.method, c.variant, c.train.iterations) for c in configs}
    assert rows == {
        ("fm", "", 300_000), ("imm", "", 300_000), ("selfe", "", 300_000),
        ("selfe", "no-target-norm", 100_000), ("selfe", "aux", 100_000),
        ("selfe", "", 350_000),
    }  # fmt: skip
    for config in configs:
        assert config.data.path == "/cache"
        assert config.optim.decay_horizon == config.times.tau_horizon == 300_000
        assert config.train.milestone_every == 50_000
    # every row of the paper is a milestone of one of them
    labels = {"w/o target norm.": ("selfe", "no-target-norm"), "w/ aux. term": ("selfe", "aux")}
    labels |= {"Self-E": ("selfe", ""), "Flow Matching": ("fm", ""), "IMM": ("imm", "")}
    for row in paper_table(2).itertuples():
        iterations = 1000 * int(row.iterations.removesuffix("k"))
        method, variant = labels[row.method]
        milestones = {
            step
            for config in configs
            if (config.method, config.variant) == (method, variant)
            for step in range(50_000, config.train.iterations + 1, config.train.milestone_every)
        }
        assert iterations in milestones


def test_the_late_stage_forks_one_checkpoint_twice():
    forks = [options for name, options in printed() if name == "train" and options["init_from"]]
    assert {str(f["runs_dir"] / f["name"]) for f in forks} == {
        "runs/fig6/late-aux", "runs/fig6/late-without",
    }  # fmt: skip
    whole = run_name(resolve("0.5b", "selfe"))
    for fork in forks:
        folder, step = parse_fork(fork["init_from"], Path("runs"))
        assert (folder.name, step) == (whole, 300_000)
    assert [build_objective(config_of(f)).aux_from for f in forks] == [300_000, None]
    on, off = (config_of(f).model_dump() for f in forks)
    for config in (on, off):
        config["objective"].pop("aux_from")
        config["train"].pop("micro_batch_size")
    assert on == off


def test_every_run_is_scored_then_reported():
    lines = printed()
    scored = [options for name, options in lines if name == "geneval"]
    trained = [options for name, options in lines if name == "train"]
    for train, score in zip(trained, scored, strict=True):
        (model,) = score["model"]
        assert model.split("@")[0] == str(train["runs_dir"] / train["name"])
        assert score["steps"] == "2,4,8,50"
        assert score["milestones"] or model.endswith("@350000")
    assert [name for name, _ in lines if name == "report"] == ["report"]
    assert sum(name == "compare" for name, _ in lines) == 4


def test_costs_are_those_of_the_plan():
    summary, jobs = table2.jobs_of(table2.parse(["--gpu", "h100", "--gpus", "16"]))
    words = ["plan", "--method", "selfe", "--variant", "aux", "--gpu", "h100", "--gpus", "16"]
    settings = ["--set", "train.iterations=100000", "--json"]
    code, out, err = selfe_bench(*words, *settings)
    assert code == 0, err
    planned = json.loads(out)
    (aux,) = [job for job in jobs if " 0.5b-selfe-aux:" in job.title]
    assert f"{planned['gpu_days']:,.2f} GPU-days" in aux.title
    micro = planned["micro_batch_per_gpu"]
    assert (f"train.micro_batch_size={micro}" in aux.lines[0]) == (micro < 1024 // 16)
    assert "--nproc-per-node=16" in aux.lines[0]
    assert "7 runs" in summary and "16 H100" in summary
    days = [float(job.title.split("; ")[1].split()[0]) for job in jobs[:7]]
    assert f"{sum(days):,.1f} GPU-days" in summary


@pytest.mark.slow
def test_launching_trains_resumes_and_skips(tmp_path, monkeypatch):
    """All seven trainings in the shapes world, shrunk, in this process instead of new ones."""
    monkeypatch.chdir(tmp_path)
    settings = [*TINY, "train.sample_every=null", "data.size=16", "train.checkpoint_every=2"]
    words = [word for setting in settings for word in ("--set", setting)]
    args = table2.parse(["--recipe", "shapes", "--gpus", "1", "--run", *words])
    ran = []

    def run_line(text: str) -> None:
        line = shlex.split(text)[1:]
        ran.append(line)
        if line[0] == "train":
            code, _, err = selfe_bench(*line, "--device", "cpu")
            assert code == 0, err

    monkeypatch.setattr(table2, "run_line", run_line)
    _, jobs = table2.jobs_of(args)
    (tmp_path / "runs").mkdir()
    table2.launch(jobs[:1])
    last = tmp_path / "runs/table2/shapes-fm/checkpoints/step-00000006"
    last.rename(tmp_path / "aside")  # as if it had been killed before
    ran.clear()
    table2.launch(jobs)
    trained = [line for line in ran if line[0] == "train"]
    assert ["--resume" in line for line in trained] == [True, *[False] * 6]
    ends = [job.run.runs_dir / job.run.name / "checkpoints" / f"step-{job.end:08d}"
            for job in jobs if job.run]  # fmt: skip
    assert [end.name[-1] for end in ends] == list("6662288")
    assert all(end.is_dir() for end in ends)
    ran.clear()
    table2.launch(jobs)
    assert all(line[0] != "train" for line in ran)
    assert [line[0] for line in ran].count("geneval") == 7


def test_bad_options_are_one_sentence(monkeypatch, capsys):
    def error(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["table2.py", *words])
        with pytest.raises(SystemExit) as stopped:
            table2.main()
        return f"{stopped.value.code}{capsys.readouterr().err}"

    assert "unknown GPU 'h20'" in error("--gpu", "h20")
    assert "does not divide over 7 GPUs" in error("--gpus", "7")
    assert "--run of 0.5b needs --data CACHE" in error("--run")
    assert "no milestone after a third" in error("--set", "train.milestone_every=70000")
