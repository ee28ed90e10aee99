"""What a study starts, how it continues where it was stopped, and what it finds on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evals.registry import open_suite
from evals.scoring.folders import result_folder
from evals.suites.limit import limited
from selfe.run_folder.model import load_run
from selfe.studies.catalog import named_study
from selfe.studies.done import is_scored
from selfe.studies.launch import command_of, environment_of
from selfe.studies.pool import run_jobs
from selfe.studies.schedule import Machine, make_schedule
from selfe.studies.study import Entry, Scoring, Study, trainings_of
from tests.helpers.command_line import selfe_bench
from tests.helpers.tiny import TINY_MODEL

TWO_CORES = Machine("cpu", 2)
EIGHT_GPUS = Machine("gpu", 8)
TINY = (*TINY_MODEL, "train.batch_size=8", "train.iterations=6", "train.milestone_every=2",
        "train.sample_every=null", "train.checkpoint_every=2", "data.size=16",
        "train.precision=fp32")  # fmt: skip


def test_what_a_job_is_started_with(monkeypatch):
    job = make_schedule(named_study("table2"), EIGHT_GPUS).jobs[0]
    words = command_of(job, EIGHT_GPUS)
    assert words[1:6] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=8", "-m",
    ]  # fmt: skip
    assert words[6:8] == ["selfe.cli", "train"]
    alone = replace(job, units=1)
    assert "torch.distributed.run" not in command_of(alone, EIGHT_GPUS)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    told = environment_of(replace(job, units=2), Machine("gpu", 4), [1, 3])
    assert told["CUDA_VISIBLE_DEVICES"] == "5,7"
    assert int(told["OMP_NUM_THREADS"]) >= 1
    assert environment_of(alone, TWO_CORES, [0])["OMP_NUM_THREADS"] == "1"
    with pytest.raises(ValueError, match="0 folders match"):
        command_of(replace(job, words=("selfe-bench", "compare", "no/such/*")), TWO_CORES)


class InProcess:
    """A job carried out in this process, as `subprocess.Popen` shows it."""

    def __init__(self, words: list[str]) -> None:
        self.code, out, err = selfe_bench(*words)
        self.stdout = (out + err).splitlines(keepends=True)

    def wait(self) -> int:
        return self.code

    def poll(self) -> int:
        return self.code


@pytest.mark.slow
def test_trains_resumes_and_skips(tmp_path, monkeypatch):
    """A whole training, a third of one and two forks, in the shapes world, shrunk."""
    monkeypatch.chdir(tmp_path)
    study = replace(named_study("table2"), recipe="shapes", settings=TINY)
    study = replace(study, entries=study.entries[2:4] + study.entries[5:])
    ran = []

    def start(job, places):
        ran.append(job.name)
        trains = job.words[1] == "train"
        return InProcess(list(job.words[1:]) if trains else ["--help"])

    def carry_out() -> list[str]:
        ran.clear()
        schedule = make_schedule(study, TWO_CORES)
        said: list[str] = []
        progress = run_jobs(schedule.jobs, 2, start, said.append)
        assert not progress.failed, said
        return [name for name in ran if "scores" not in name]

    first = make_schedule(study, TWO_CORES).jobs[:1]
    assert not run_jobs(first, 2, start, lambda line: None).failed
    last = first[0].training.run_dir / "checkpoints" / "step-00000006"
    last.rename(tmp_path / "aside")  # as if it had been killed before
    trained = carry_out()
    assert len(trained) == 4 + 5 and len(set(trained)) == len(trained)
    for training in trainings_of(study).trainings:
        end = {"whole": 6, "third": 2, "beyond": 8}[training.entry.length]
        assert (training.run_dir / "checkpoints" / f"step-{end:08d}").is_dir()
    assert not any("late" in name for name in carry_out() if not name.startswith("compare"))
    assert not any(name.startswith("shapes") for name in carry_out())
    # where nothing is left to train, how a run was kept does not matter
    otherwise = replace(study, settings=(*TINY, "train.checkpoint_every=3"))
    assert make_schedule(otherwise, TWO_CORES).jobs[0].done
    training = make_schedule(study, TWO_CORES).jobs[0].training
    (training.run_dir / "checkpoints" / "step-00000006").rename(tmp_path / "aside too")
    with pytest.raises(ValueError, match="trained with other settings"):
        make_schedule(otherwise, TWO_CORES)


def test_what_is_scored_is_found_without_opening_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ("train.iterations=2", *TINY[:-6], "data.size=8", "train.precision=fp32")
    study = Study("x", "", "shapes", (Entry("fm"),), (Scoring((1, 2)),), settings=settings, limit=2)
    (job, *_) = make_schedule(study, TWO_CORES).jobs
    code, _, err = selfe_bench(*job.words[1:], "--workers", "1")
    assert code == 0, err
    run = job.training.run_dir

    def done(*over: str) -> bool:
        return is_scored(study, run, [2], [1, 2], over)

    assert not done()
    suite = limited(open_suite("shapes@1"), 2)
    root = run / "results" / "step-00000002"
    for over in ({}, {"guidance": "none"}):
        generator = load_run(run, sampling=over)
        for steps in (1, 2):
            folder = result_folder(root, suite, generator, steps, 0)
            folder.mkdir(parents=True)
            assert not done(*(f"sampling.{k}={v}" for k, v in over.items()))
            (folder / "result.json").write_text("{}")
    assert done() and done("sampling.guidance=none")
    assert not done("sampling.guidance=ep-x0")
    assert not is_scored(study, run, [1, 2], [1], ())
    train, score, report = make_schedule(study, TWO_CORES).jobs
    assert train.done and score.done and not report.done
