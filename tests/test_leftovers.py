"""Locks, temporary names and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from selfe.files import append_lines, folder_lock, write_atomically
from selfe.temporaries import remove_leftovers, scratch_folder, temporary
from selfe.training import loop
from tests.helpers.tiny import tiny_config, tiny_train


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    return int(subprocess.run(["sh", "-c", "echo $$"], capture_output=True).stdout)


def left_by(pid: int, path: Path, ending: str = "tmp") -> Path:
    name = temporary(path, ending).name.replace(f"-{os.getpid()}.", f"-{pid}.")
    return path.with_name(name)


def test_what_dead_processes_were_writing_goes_and_nothing_else(tmp_path, dead):
    gone = [
        left_by(dead, tmp_path / "file"),
        left_by(dead, tmp_path / "step-00000004", "old"),
        tmp_path / f".earlier.{dead}.tmp",
        left_by(os.getpid(), tmp_path / "own"),
    ]
    kept = [
        left_by(os.getppid(), tmp_path / "at work"),
        tmp_path / f".file.anotherhost-{dead}.tmp",
        tmp_path / ".hidden",
        tmp_path / f"visible.{dead}.tmp",
    ]
    for path in (*gone[1:], *kept):
        path.write_text("")
    (gone[0] / "inner").mkdir(parents=True)
    assert sorted(remove_leftovers(tmp_path)) == sorted(gone)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_leftovers_of_one_path_alone(tmp_path, dead):
    mine, other = left_by(dead, tmp_path / "out"), left_by(dead, tmp_path / "other")
    for path in (mine, other):
        path.mkdir()
    assert remove_leftovers(tmp_path, of=tmp_path / "out") == [mine] and other.exists()


def test_a_scratch_folder_goes_and_takes_with_it_what_a_kill_left(tmp_path, monkeypatch, dead):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder("work") as folder:
        assert folder.is_dir() and folder.parent == tmp_path
    left = left_by(dead, tmp_path / "work.abc")
    left.mkdir()
    with scratch_folder("work") as folder:
        assert [*tmp_path.iterdir()] == [folder]


@pytest.mark.fault(23)
def test_a_lock_leaves_nothing_behind_not_even_after_a_failure(tmp_path):
    with pytest.raises(RuntimeError), folder_lock(tmp_path / "new"):
        assert (tmp_path / "new" / ".lock").exists()
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    with folder_lock(tmp_path):
        with (
            pytest.raises(ValueError, match="another process is working on"),
            folder_lock(tmp_path),
        ):
            pass
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


HOLD = """
import sys, time
from selfe.files import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.fault(23)
def test_a_lock_goes_with_its_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="another process"), folder_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(4)
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES])
def test_a_folder_that_cannot_be_locked_is_named(tmp_path, monkeypatch, number):
    def acquire(self, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(ValueError, match=f"{tmp_path}.*{os.strerror(number)}"):
        with folder_lock(tmp_path):
            pass


@pytest.mark.fault(4)
def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda p: write_atomically(p, "x"), lambda p: append_lines(p, [1])):
        with pytest.raises(OSError) as caught:
            write(tmp_path / "file")
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.fault(1)
def test_a_sheet_is_drawn_before_the_checkpoint_that_a_kill_may_follow(tmp_path, monkeypatch):
    """Saved first and killed then, its sheet was never drawn: the run went on after it."""
    done: list[tuple[str, int]] = []
    real = loop.train_state.save
    monkeypatch.setattr(
        loop.train_state,
        "save",
        lambda state, *rest: (done.append(("save", state.step)), real(state, *rest)),
    )
    from selfe.training.callbacks import Callbacks

    callbacks = Callbacks(draw_samples=lambda network, step: done.append(("draw", step)))
    tiny_train(tiny_config("fm", "train.sample_every=4"), tmp_path, callbacks=callbacks)
    assert done == [("draw", 4), ("save", 4), ("draw", 8), ("save", 8)]


@pytest.mark.fault(1)
def test_a_sheet_that_cannot_be_drawn_costs_no_checkpoint(tmp_path):
    from selfe.training.callbacks import Callbacks

    def fail(network, step):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        tiny_train(
            tiny_config("fm", "train.sample_every=4"),
            tmp_path,
            callbacks=Callbacks(draw_samples=fail),
        )
    assert (tmp_path / "checkpoints" / "step-00000004").is_dir()
