"""What a user does, and the GPU study, on a device that refuses what a GPU refuses."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scripts.gpu_study import run
from scripts.gpu_study.rows import Settings
from selfe.training.metrics_log import read_lines
from tests.helpers.command_line import selfe_bench
from tests.helpers.pretend_gpu import CUDA, pretend_gpu
from tests.helpers.tiny import TINY_MODEL

SMALL = (
    *TINY_MODEL,
    "data.size=64",
    "train.batch_size=8",
    "train.iterations=6",
    "train.precision=fp32",
    "train.log_every=2",
    "train.checkpoint_every=2",
    "train.milestone_every=null",
    "train.sample_every=4",
)


def test_the_device_refuses_what_a_gpu_refuses():
    here = torch.ones(3)
    with pretend_gpu():
        there = torch.arange(3.0, device="cuda", requires_grad=True)
        assert there.device == CUDA and (there * 2).cpu().device.type == "cpu"
        for mixed in (lambda: there + here, lambda: here[there.long()], lambda: here.mul_(there)):
            with pytest.raises(RuntimeError, match="tensors on cuda:0 and cpu"):
                mixed()
        with pytest.raises(RuntimeError):
            there.detach().numpy()
        (there * torch.tensor(3.0)).sum().backward()  # a number of the host may meet any device's
        assert there.grad is not None and there.grad.device == CUDA
        assert there.grad.tolist() == [3, 3, 3]
        assert here.to(there.device).device == CUDA and there[[2, 1]].tolist() == [2, 1]
    assert not torch.cuda.is_available()


def results(folder: Path) -> dict[str, np.ndarray]:
    """What a run computed: losses, weights of its last checkpoint, images."""
    run = folder / "runs" / "run"
    losses = [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    weights = load_file(run / "checkpoints" / "step-00000006" / "model.safetensors")
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]
    return {
        "losses": np.array(losses),
        "weights": np.concatenate([value.numpy().ravel() for value in weights.values()]),
        "levels": np.concatenate([each.ravel() for each in pictures]).astype(float),
    }


def train_resume_draw_and_score(method: str, folder: Path) -> dict[str, np.ndarray]:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def run(*words: str) -> None:
            code, out, err = selfe_bench(*words)
            assert code == 0, (words, out, err)

        train = ("train", "--method", method, "--name", "run", "--workers", "1", *settings)
        run(*train)
        shutil.rmtree(folder / "runs" / "run" / "checkpoints" / "step-00000006")
        run(*train, "--resume")
        run("sample", "--model", "run", "--prompt", "a photo of a star", "--steps", "1,3")
        run("geneval", "--steps", "2", "--limit", "1", "--images-per-prompt", "1")
    return results(folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fm", "selfe", "imm"])
def test_commands_compute_the_same_there(method, tmp_path):
    here = train_resume_draw_and_score(method, tmp_path / "here")
    with pretend_gpu():
        there = train_resume_draw_and_score(method, tmp_path / "there")
    # not the same bits: processors have kernels of their own for GELU and softmax
    assert len(here["losses"]) == 3
    assert np.abs(here["losses"] - there["losses"]).max() < 1e-5
    moved = np.linalg.norm(here["weights"] - there["weights"])
    assert moved < 1e-5 * np.linalg.norm(here["weights"])
    assert np.abs(here["levels"] - there["levels"]).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "rows"),
    [
        ("correctness", "fp32 eager|aux|shortcut|transition|noise"),
        ("network", ""),
        ("steps", "selfe"),
        ("sampling", ", 4 steps"),
        ("scoring", ""),
        ("checkpoint", ""),
        ("shapes64", "data|selfe"),
    ],
)
def test_the_gpu_study_runs_there(part, rows, tmp_path):
    settings = Settings("cuda", True, tmp_path / "work", (), time.monotonic() + 600)
    facts = {"commit": "c", "machine": "m", "gpu": "g", "torch": "t", "settings": {}}
    with pretend_gpu():
        done = run.run_part(part, settings, tmp_path, facts, rows)
    assert done
    assert [row for row in done if not run.is_done(row)] == []
