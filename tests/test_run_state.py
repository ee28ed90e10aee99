"""What a run writes says what it is, and every reader compares: swapped, renamed, edited files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evals.report.result_folders import read_result_folder
from evals.results import write_result as write_sealed
from evals.site.runs import read_run
from selfe.run_folder.checkpoint import newest_valid, verify
from selfe.run_folder.checkpoint_state import CheckpointError, read_state
from selfe.run_folder.model import load_run
from selfe.run_folder.overview import latest_scores, overview
from selfe.run_folder.records import (
    find_checkpoint,
    milestone_steps,
    owner_of,
    read_config,
    write_config,
)
from selfe.sealed_files import seal
from selfe.studies import search_rate, search_sampling
from selfe.training.metrics_log import read_lines
from tests.helpers.command_line import selfe_bench
from tests.helpers.mutations import mutations, texts
from tests.helpers.synthetic_results import write_result
from tests.helpers.tiny import tiny_config, tiny_train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state") / "run"
    config = tiny_config("fm")
    folder.mkdir()
    write_config(folder, config, data={"cache": "abc"}, precision="fp32", init_from=None)
    tiny_train(config, folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def resume(run: Path) -> tuple[int, list[str]]:
    """Iteration at the end, and what was said."""
    from selfe.training.callbacks import Callbacks

    said: list[str] = []
    state = tiny_train(
        tiny_config("fm"), run, resume=True, callbacks=Callbacks(message=said.append)
    )
    return state.step, said


@pytest.mark.fault(27)
def test_a_renamed_checkpoint_is_not_scored_under_its_new_name(run):
    checkpoint(run, 8).rename(checkpoint(run, 92))
    with pytest.raises(CheckpointError, match="iteration 8: its folder was renamed"):
        load_run(run, step=92)
    with pytest.raises(CheckpointError, match="renamed"):
        milestone_steps(run)
    step, said = resume(run)
    assert step == 8 and "renamed" in said[0] and "resumed from step-00000004" in said[1]


@pytest.mark.fault(27)
def test_swapped_checkpoints_are_noticed(run):
    for source, target in ((4, 99), (8, 4), (99, 8)):
        checkpoint(run, source).rename(checkpoint(run, target))
    for step in (4, 8):
        with pytest.raises(CheckpointError, match="its folder was renamed"):
            find_checkpoint(run, step)
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        resume(run)


@pytest.mark.fault(27)
def test_another_step_in_the_state_trains_nothing_silently(run):
    """The step of the attack: 8 -> 98, where the run ends at 8; and 4 -> 5, one left out."""
    for step, other in ((8, 98), (4, 5)):
        path = checkpoint(run, step) / "state.json"
        path.write_text(path.read_text().replace(f'"step": {step}', f'"step": {other}'))
        with pytest.raises(CheckpointError, match="changed after it was written"):
            find_checkpoint(run, step)


@pytest.mark.fault(27)
def test_a_checkpoint_of_another_run_is_refused(run, tmp_path):
    for name, config, data in (
        ("seed", tiny_config("fm", "optim.lr=0.5"), {"cache": "abc"}),
        ("data", tiny_config("fm"), {"cache": "xyz"}),
    ):
        other = tmp_path / name
        other.mkdir()
        write_config(other, config, data=data)
        tiny_train(config, other)
        shutil.rmtree(checkpoint(other, 8))
        shutil.copytree(checkpoint(run, 8), checkpoint(other, 8))
        with pytest.raises(CheckpointError, match="not a checkpoint of the run"):
            find_checkpoint(other, 8)
        path, problems = newest_valid(other / "checkpoints", owner_of(other))
        assert path == checkpoint(other, 4) and "not a checkpoint of the run" in problems[0]


def test_a_file_that_is_not_listed_is_named(run):
    shutil.copy(checkpoint(run, 4) / "model.safetensors", checkpoint(run, 8) / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors does not belong"):
        verify(checkpoint(run, 8))


def as_earlier_versions(run: Path) -> None:
    """Take from a run's files what earlier versions did not write."""
    for path in [run / "config.json", *run.glob("checkpoints/*/state.json")]:
        record = json.loads(path.read_text())
        for key in ("what", "checksum", "run"):
            record.pop(key, None)
        path.write_text(json.dumps(record, indent=1))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        del record["check"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))


def test_runs_of_earlier_versions_are_read_and_resumed(run):
    as_earlier_versions(run)
    shutil.rmtree(checkpoint(run, 8))
    assert load_run(run).facts.iterations == 4
    assert resume(run)[0] == 8
    assert "check" in (run / "metrics.jsonl").read_text()
    assert len(read_lines(run / "metrics.jsonl", read_config(run).digest)) == 8


@pytest.mark.fault(27)
def test_a_step_changed_by_an_editor_is_noticed_in_runs_of_earlier_versions(run):
    as_earlier_versions(run)
    path = checkpoint(run, 8) / "state.json"
    path.write_text(path.read_text().replace('"step": 8', '"step": 92'))
    with pytest.raises(CheckpointError, match="renamed or"):
        find_checkpoint(run, 8)
    checkpoint(run, 8).rename(checkpoint(run, 92))  # consistent now, but for the samples seen
    with pytest.raises(CheckpointError, match="samples were seen"):
        tiny_train(tiny_config("fm"), run, resume=True)


@pytest.mark.fault(27)
def test_every_change_of_the_state_is_noticed(run):
    path = checkpoint(run, 8) / "state.json"
    original = path.read_text()
    for what, text in (*mutations(json.loads(original)), *texts(original)):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            read_state(path.parent)
        except CheckpointError as error:
            assert "state.json" in str(error), what
        else:
            pytest.fail(f"not noticed: {what}")


@pytest.mark.fault(27)
@pytest.mark.parametrize("sealed", [True, False])
def test_every_change_of_the_configuration_is_noticed(run, sealed):
    """Of a run of an earlier version only what decides its weights, and types."""
    if not sealed:
        as_earlier_versions(run)
    path = run / "config.json"
    original, config = path.read_text(), read_config(run)
    undigested = ("config.data.path", "config.data.workers", "command", "provenance", "data.cache")
    for what, text in (*mutations(json.loads(original)), *texts(original)):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            if read_config(run) == config and what.startswith("config."):
                continue  # true is 1
        except ValueError as error:
            assert "config.json" in str(error), what
            continue
        free = what.startswith(undigested) or " left out" in what or "precision" in what
        assert not sealed and (
            free or "digest" in what or "init_from" in what or what.startswith("data")
        ), f"not noticed: {what}"


@pytest.mark.fault(27)
def test_every_change_of_the_history_is_noticed(run):
    path, digest = run / "metrics.jsonl", read_config(run).digest
    lines = path.read_text().splitlines(keepends=True)
    for what, text in mutations(json.loads(lines[3])):
        path.write_text("".join([*lines[:3], text + "\n", *lines[4:]]))
        with pytest.raises(ValueError, match="line [45]"):
            read_lines(path, digest)
            pytest.fail(f"not noticed: {what}")
    with pytest.raises(ValueError, match="move it away"):
        resume(run)


def test_resuming_with_other_settings_names_them(run):
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.008 and is now 0\.5\)"):
        tiny_train(tiny_config("fm", "optim.lr=0.5"), run, resume=True)


@pytest.mark.fault(27)
def test_pages_and_lists_show_nothing_that_was_changed(run):
    """Reports show a run's curves, and `ls` the scores of its results."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    assert read_run(run).curves["loss"]
    for number in (0, len(lines) - 1):
        record = json.loads(lines[number])
        name = "loss" if "loss" in record else "step"
        changed = json.dumps({**record, name: record[name] + 1}) + "\n"
        metrics.write_text("".join([*lines[:number], changed, *lines[number + 1 :]]))
        assert "was changed" in read_run(run).state and not read_run(run).curves

    folder = write_result(run / "results" / "step-00000008" / "shapes" / "steps-002")
    write_sealed(folder, read_result_folder(folder).result)
    (score,) = latest_scores(run)
    path = folder / "result.json"
    path.write_text(path.read_text().replace(f'"mean": {score.overall}', '"mean": 0.99'))
    assert latest_scores(run) == []


@pytest.mark.fault(27)
def test_every_change_of_a_search_is_noticed(tmp_path):
    made = {"command": "c", "commit": "h", "machine": "m", "prompts": 6, "weights": "ab"}
    sampling = {
        "made": {"a": made},
        "runs": {"a": {"2 steps": {'{"shift": -1.0}': 0.5}}},
        "diversity": {"a": {"2 steps": {"with it": {"tv": 0.25}, "without it": None}}},
    }
    scores = {"2": 0.5, "mean": 0.5, "made": "m", "weights": "ab"}
    rates = {"methods": {"fm": {"0.001": {"0": scores}}}, "recipe": "shapes", "prompts": 6}
    rates |= {"samples": 2, "iterations": 400}
    searches = (
        (search_sampling.read_search, search_sampling.WHAT, sampling),
        (search_rate.read_rates, search_rate.WHAT, rates),
    )
    for read, what, found in searches:
        path = tmp_path / "search.json"
        path.write_text(seal(what, found))
        assert read(path) == found
        for change, text in (*mutations(json.loads(path.read_text())), *texts(path.read_text())):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            with pytest.raises(ValueError, match=r"search\.json is damaged"):
                read(path)
                pytest.fail(f"not noticed: {change}")
        path.write_text(json.dumps(found))  # as earlier versions wrote it
        assert read(path) == found


@pytest.mark.fault(27)
def test_lists_and_reports_say_what_is_damaged(run):
    runs_dir = str(run.parent)
    state = checkpoint(run, 8) / "state.json"
    state.write_text(state.read_text().replace('"step": 8', '"step": 9'))
    assert overview(run, "run").state == "damaged"
    config = run / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1', 1))
    for words in (("ls", "runs"), ("report", "--out", str(run.parent / "page"))):
        code, _, err = selfe_bench(*words, "--runs-dir", runs_dir)
        assert code == 0 and "config.json is damaged (it was changed" in " ".join(err.split())
    assert "its config.json is damaged" in read_run(run).state
    config.write_text("{}")
    code, _, err = selfe_bench("ls", "runs", "--runs-dir", runs_dir)
    assert code == 0 and "config.json is damaged" in " ".join(err.split())
