"""`selfe-bench study`: the commands it runs are those of the tables, and what may be asked of it.
What is started, continued and found on disk is in test_study_runs.py and test_study_pool.py."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
from dataclasses import replace

import pytest
import typer

from evals.report.rows import paper_table
from selfe.cli import app
from selfe.config.resolve import build_objective, resolve, run_name
from selfe.planning.plan import make_plan
from selfe.studies.catalog import STUDIES, named_study
from selfe.studies.cost import estimate
from selfe.studies.describe import as_record, as_text
from selfe.studies.schedule import Machine, Schedule, make_schedule, shell_line
from selfe.studies.study import Entry, Study, trainings_of
from tests.helpers.command_line import selfe_bench
from tests.helpers.tiny import TINY_MODEL

COMMANDS = typer.main.get_command(app).commands
TWO_CORES = Machine("cpu", 2)
EIGHT_GPUS = Machine("gpu", 8)
TINY = (*TINY_MODEL, "train.batch_size=8", "train.iterations=6", "train.milestone_every=2",
        "train.sample_every=null", "train.checkpoint_every=2", "data.size=16",
        "train.precision=fp32")  # fmt: skip


def options_of(schedule: Schedule, command: str) -> list[dict]:
    """Of every such command, parsed as the command line parses it."""
    return [
        COMMANDS[command].make_context(command, list(job.words[2:])).params
        for job in schedule.jobs
        if job.words[1] == command
    ]


def config_of(options: dict):
    return resolve(
        options["recipe"],
        options["method"],
        variant=options["variant"],
        seed=options["seed"],
        assignments=options["settings"] or [],
    )


def paper(*settings: str) -> Schedule:
    return make_schedule(replace(named_study("table2"), settings=settings), EIGHT_GPUS)


# -- the studies of this project ---------------------------------------------------------------


def test_quickstart_is_three_trainings_two_of_them_side_by_side():
    schedule = make_schedule(replace(named_study("quickstart"), seeds=(0, 3)), TWO_CORES)
    trained = [job for job in schedule.jobs if job.words[1] == "train"]
    assert [job.name for job in trained] == [
        "shapes-quick-fm", "shapes-quick-selfe", "shapes-quick-imm",
        "shapes-quick-fm-seed3", "shapes-quick-selfe-seed3", "shapes-quick-imm-seed3",
    ]  # fmt: skip
    # an odd one on both cores, a pair on one each, whichever seeds are asked for
    assert [job.units for job in trained] == [2, 1, 1, 2, 1, 1]
    assert shell_line(trained[3], TWO_CORES) == (
        "OMP_NUM_THREADS=2 selfe-bench train --method fm --recipe shapes-quick --name "
        "shapes-quick-fm-seed3 --runs-dir runs/quickstart --seed 3 --device cpu --auto-resume"
    )
    scored = options_of(schedule, "geneval")
    assert {(o["steps"], o["limit"]) for o in scored} == {("2,4,8,50", 12)}
    (measured,) = options_of(schedule, "measure")
    assert (measured["steps"], measured["limit"]) == ("2,4,8,50", 12)
    kid = ["kid"] * bool(importlib.util.find_spec("torch_fidelity"))
    assert measured["with_"] == ["cmmd", *kid, "diversity"] and len(measured["model"]) == 6
    (report,) = options_of(schedule, "report")
    assert (str(report["runs_dir"]), str(report["out"])) == (
        "runs/quickstart", "reports/local/quickstart",
    )  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_commands_that_parse(name):
    machine = EIGHT_GPUS if name == "table2" else TWO_CORES
    schedule = make_schedule(named_study(name), machine)
    names = [job.name for job in schedule.jobs]
    assert len(set(names)) == len(names)
    for place, job in enumerate(schedule.jobs):
        assert set(job.needs) <= set(names[:place])
    for command in ("train", "geneval", "report"):
        assert options_of(schedule, command)


def test_a_studys_sampling_reaches_runs_that_were_trained_without_it():
    """The configuration of a finished run keeps what it was trained with, so geneval is told."""
    study = replace(named_study("quickstart"), settings=("sampling.eta=1", "train.log_every=5"))
    schedule = make_schedule(study, TWO_CORES)
    drawn = [*options_of(schedule, "geneval"), *options_of(schedule, "measure")]
    assert drawn and {tuple(o["settings"]) for o in drawn} == {("sampling.eta=1",)}


def test_measures_are_of_the_images_that_are_scored():
    schedule = make_schedule(named_study("quickstart"), TWO_CORES, sampling_of_recipe=True)
    ways = [
        {(run, *o["settings"]) for o in options_of(schedule, command) for run in o["model"]}
        for command in ("geneval", "measure")
    ]
    assert ways[0] == ways[1] and len(ways[0]) > 2


def test_the_runs_of_the_paper():
    configs = [config_of(options) for options in options_of(paper("data.path=/cache"), "train")]
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
    # every row of the paper is a milestone that is scored
    labels = {"w/o target norm.": "0.5b-selfe-no-target-norm", "w/ aux. term": "0.5b-selfe-aux"}
    labels |= {"Self-E": "0.5b-selfe", "Flow Matching": "0.5b-fm", "IMM": "0.5b-imm"}
    scored = {model for options in options_of(paper(), "geneval") for model in options["model"]}
    ends = {"0.5b-selfe-no-target-norm": 100, "0.5b-selfe-aux": 100}
    for row in paper_table(2).itertuples():
        thousands = int(row.iterations.removesuffix("k"))
        name = labels[row.method]
        at = "" if thousands == ends.get(name, 300) else f"@{thousands}000"
        assert f"runs/table2/{name}{at}" in scored


def test_the_late_stage_forks_one_checkpoint_twice():
    schedule = paper()
    forks = [options for options in options_of(schedule, "train") if options["init_from"]]
    assert {str(f["runs_dir"] / f["name"]) for f in forks} == {
        "runs/table2-forks/late-aux-uniform", "runs/table2-forks/late-without",
    }  # fmt: skip
    whole = run_name(resolve("0.5b", "selfe"))
    for fork in forks:
        assert fork["init_from"] == f"runs/table2/{whole}@300000"
    waiting = [job for job in schedule.jobs if job.name.startswith("late-")]
    assert waiting[0].needs == waiting[1].needs == (whole,)
    assert [build_objective(config_of(f)).aux_from for f in forks] == [300_000, None]
    on, off = (config_of(f).model_dump() for f in forks)
    for config in (on, off):
        config["objective"].pop("aux_from")
        config["objective"].pop("fake_loss_weight")  # of the term that is off
        config["train"].pop("micro_batch_size")
    assert on == off
    compared = [job.words[2:] for job in schedule.jobs if job.words[1] == "compare"]
    assert [words[0].rpartition("/")[2] for words in compared] == [
        "steps-002-*", "steps-004-*", "steps-008-*", "steps-050-*",
    ]  # fmt: skip
    place = "runs/table2-forks/late-without/results/step-00350000"
    assert compared[0][1] == f"{place}/*-paper-[0-9]*/steps-002-*"
    # one protocol alone, of the two that the study scores
    names = ["geneval-long-1-paper-553x4-0a1b2c", "geneval-long-1-paper-ancestral-553x4-0a1b2c"]
    assert fnmatch.filter(names, "*-paper-[0-9]*") == names[:1]


def test_costs_are_those_of_the_plan():
    code, out, err = selfe_bench(
        "study", "table2", "--gpu", "h100", "--gpus", "16", "--dry-run", "--json"
    )
    assert code == 0, err
    record = json.loads(out)
    words = ["plan", "--method", "selfe", "--variant", "aux", "--gpu", "h100", "--gpus", "16"]
    code, out, err = selfe_bench(*words, "--set", "train.iterations=100000", "--json")
    planned = json.loads(out)
    (aux,) = [job for job in record["jobs"] if job["name"] == "0.5b-selfe-aux"]
    assert aux["gpu_days"] == pytest.approx(planned["gpu_days"])
    micro = planned["micro_batch_per_gpu"]
    assert (f"train.micro_batch_size={micro}" in aux["command"]) == (micro < 1024 // 16)
    assert aux["command"].startswith("torchrun --standalone --nproc-per-node=16 ")
    days = [job["gpu_days"] for job in record["jobs"] if job["gpu_days"]]
    assert len(days) == 7
    assert record["gpu_days"] == pytest.approx(sum(days))
    assert record["checkpoint_bytes"] > 1e11 and record["cache_bytes"] > 1e12
    assert record["cost"] is None


def test_the_whole_matrix_of_table_2_is_priced():
    """Drawing GenEval's images at every milestone, of which `plan` knows the cost of one."""
    machine = Machine("gpu", 64, gpu="b200", mfu=0.5, price=3.0)
    schedule = make_schedule(named_study("table2"), machine)
    estimate(schedule)
    record = as_record(schedule)
    expected = 0.0
    for job in schedule.jobs:
        if job.words[1] == "geneval":
            plan = make_plan(job.training.config, gpu="b200", gpus=1)
            hours = plan.geneval_gpu_hours * job.words.count("--model")
            assert job.seconds == pytest.approx(3600 * hours / job.units)
            expected += hours
    # six milestones of each method of the lower block and one more scoring of its end
    of_fm = [j.words.count("--model") for j in schedule.jobs if j.name.startswith("0.5b-fm scores")]
    assert sum(of_fm) == 7
    assert record["scoring_gpu_days"] == pytest.approx(expected / 24)
    assert record["cost"] == pytest.approx(3 * 24 * (record["gpu_days"] + expected / 24))
    text = as_text(schedule)
    assert "of drawing what is scored, detectors not counted" in text
    assert f"{record['cost']:,.0f} at 3 a GPU-hour" in text


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200"])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16, 32, 64])
def test_any_number_of_gpus_is_planned_for(gpu, gpus):
    plan = make_plan(resolve("0.5b", "selfe"), gpu=gpu, gpus=gpus, price=2.0)
    assert plan.fits and plan.images_per_gpu * gpus == 1024
    assert plan.days == pytest.approx(plan.gpu_days / gpus)
    one = make_plan(resolve("0.5b", "selfe"), gpu=gpu, gpus=1)
    assert plan.gpu_days == pytest.approx(one.gpu_days)


def test_the_study_of_s_scores_three_policies_and_nine_places_in_one_step():
    scored = options_of(make_schedule(named_study("second-time"), TWO_CORES), "geneval")
    policies = [o["settings"] or [] for o in scored if o["steps"] == "2,4,8,50"]
    one_step = [o["settings"] for o in scored if o["steps"] == "1"]
    # guidance and eta of each number of steps stay as they were found
    assert policies == [[], ["sampling.s_fraction=0.5"], ["sampling.s_fraction=1"]]
    assert all(settings[0] == "sampling.guidance=none" for settings in one_step)
    assert [float(s[1].split("=")[1]) for s in one_step] == [k / 8 for k in range(9)]
    assert len(scored) == len(policies) + len(one_step)


def test_ablations_are_compared_with_the_milestone_of_their_length():
    schedule = make_schedule(named_study("reference"), TWO_CORES)
    models = {
        o["model"][-1]: o["model"] for o in options_of(schedule, "geneval") if not o["settings"]
    }
    run = "runs/reference/shapes-selfe"
    assert models[run] == [f"{run}@1000", f"{run}@2000", run]
    assert models[f"{run}-aux"] == [f"{run}-aux"]
    for options in options_of(schedule, "train"):
        config = config_of(options)
        assert config.train.iterations == (1000 if config.variant else 3000)
        assert (config.optim.decay_horizon or config.train.iterations) == 3000


# -- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "rows", "shares"),
    [
        (1, 3, [1, 1, 1]),
        (2, 1, [2]),
        (2, 2, [1, 1]),
        (2, 3, [2, 1, 1]),
        (2, 5, [2, 1, 1, 1, 1]),
        (4, 3, [4, 2, 2]),
        (4, 6, [2, 2, 1, 1, 1, 1]),
        (16, 3, [4, 4, 4]),  # a batch of 128 is not worth more than four processes
    ],
)
def test_cores_are_shared(cores, rows, shares):
    entries = tuple(Entry("fm", settings=(f"optim.lr={n + 1}e-3",)) for n in range(rows))
    study = Study("x", "", "shapes-quick", entries)
    schedule = make_schedule(study, Machine("cpu", cores))
    assert [job.units for job in schedule.jobs if job.words[1] == "train"] == shares


def test_rows_settings_and_seeds_have_folders_of_their_own():
    settings = ("optim.lr=1.6e-2", "data.path=/somewhere/else", "train.log_every=5")
    study = Study(
        "x", "", "shapes-quick",
        (Entry("selfe", "aux"), Entry("fm", settings=("train.stages=[]",))),
        seeds=(0, 2), settings=settings,
    )  # fmt: skip
    names = [t.run_dir.name for t in trainings_of(study).trainings]
    # how a run is kept or read does not name it
    assert names[0] == "shapes-quick-selfe-aux-optim.lr1.6e-2"
    assert names[2] == "shapes-quick-selfe-aux-optim.lr1.6e-2-seed2"
    assert len(set(names)) == 4
    assert all("[" not in name and "/" not in name for name in names)


def test_a_row_of_the_study_keeps_its_length_and_another_variant_gets_it():
    code, out, err = selfe_bench(
        *("study", "reference-seeds", "--methods", "selfe:smooth-time,fm", "--seeds", "4"),
        *("--set", "optim.lr=8e-3", "--steps", "2,4", "--device", "cpu", "--dry-run", "--json"),
    )
    assert code == 0, err
    jobs = json.loads(out)["jobs"]
    assert [j["what"] for j in jobs if "train " in j["command"]] == [
        "train selfe:smooth-time seed 4 to iteration 1,000",
        "train fm seed 4 to iteration 3,000",
    ]
    assert all("--steps 2,4 " in j["command"] for j in jobs if "geneval" in j["command"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("quick",), "unknown study 'quick'; did you mean 'quickstart'?"),
        (("--methods", "selfe,nope"), "unknown method 'nope'"),
        (("--methods", ","), "--methods takes names separated by commas"),
        (("--methods", "fm,fm"), "shapes-quick-fm is asked for twice"),
        (("--methods", "fm:aux"), "unknown variant of fm 'aux'"),
        (("--seeds", "1,-2"), "--seeds takes whole numbers"),
        (("--seeds", "²"), "--seeds takes whole numbers"),
        (("--set", "optim.lrr=1"), "did you mean 'optim.lr'"),
        (("--steps", "0"), "positive integers"),
        (("--device", "tpu"), "auto, cpu or cuda"),
        (("--device", "cpu", "--gpus", "2"), "cannot be combined with --device cpu"),
        (("--gpus", "9"), "9 GPUs were asked for and this machine has 0"),
        (("--cores", "2", "--per-run", "3"), "a run cannot have 3 of 2 cores"),
        (("table2", "--gpu", "h20", "--dry-run"), "unknown GPU 'h20'"),
        (("table2", "--gpus", "7", "--dry-run"), "does not divide over 7 GPUs"),
        (("table2", "--gpu", "h100", "--price", "inf", "--dry-run"), "must be 0 or more, got inf"),
        (("table2", "--price", "3", "--dry-run"), "--price is that of a GPU-hour"),
        (("table2", "--mfu", "0.5", "--dry-run"), "--mfu is of a GPU's peak"),
        (("table2", "--device", "cpu"), "name it with --set data.path=CACHE"),
        (
            ("table2", "--set", "train.milestone_every=70000", "--dry-run"),
            "no milestone at iteration 100,000",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = selfe_bench("study", *words)
    assert code == 2, (out, err)
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_plan_says_what_it_costs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = selfe_bench("study", "--device", "cpu", "--cores", "2", "--dry-run")
    assert code == 0, err
    assert "3 trainings of recipe shapes-quick, 2 cores" in out
    assert "6 of 6 jobs to do; about" in out and "GB of checkpoints" in out
    code, out, err = selfe_bench("study", "--device", "cpu", "--cores", "2", "--commands")
    assert code == 0, err
    lines = [line for line in out.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -e"
    assert [line.split("selfe-bench ")[1].split()[0] for line in lines[1:]] == [
        *["train"] * 3, *["geneval"] * 3, "measure", "report",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())
