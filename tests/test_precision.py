"""What `train.precision` means where, and that TF32 lasts as long as training."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from baselines.flow_matching import FlowMatching
from scripts.checks.precision import EmulatedTF32, Weights, round_to_tf32, rows_of
from selfe import device
from selfe.config.recipes import RECIPES
from selfe.config.resolve import resolve
from selfe.device import matrix_products, used_on
from selfe.run_folder.records import write_config
from tests.helpers.tiny import tiny_config, tiny_train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_tf32_is_for_gpus():
    assert used_on(CUDA, "tf32") == "tf32"
    assert used_on(CPU, "tf32") == used_on(CUDA, "fp32") == "fp32"
    assert used_on(CPU, "bf16") == used_on(CUDA, "bf16") == "bf16"


@pytest.mark.parametrize(
    ("device", "asked", "inside"),
    [(CUDA, "tf32", "high"), (CUDA, "fp32", "highest"), (CUDA, "bf16", "highest"),
     (CPU, "tf32", "highest")],
)  # fmt: skip
def test_matrix_products_are_as_before_afterwards(device, asked, inside):
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matrix_products(device, asked):
        assert torch.get_float32_matmul_precision() == inside
        raise KeyError
    assert torch.get_float32_matmul_precision() == before == "highest"


def test_iterations_run_in_tf32(tmp_path, monkeypatch):
    """On a processor that is told it makes TF32."""
    monkeypatch.setattr(device, "used_on", lambda device, asked: asked)
    config = tiny_config("fm", "train.precision=tf32", "train.iterations=1")
    seen = []

    class Watched(FlowMatching):
        def loss(self, *arguments):
            output = super().loss(*arguments)
            seen.append(("loss", torch.get_float32_matmul_precision()))
            output.loss.register_hook(
                lambda _: seen.append(("backward", torch.get_float32_matmul_precision()))
            )
            return output

    tiny_train(config, tmp_path, objective=Watched())
    assert torch.get_float32_matmul_precision() == "highest"
    assert seen == [("loss", "high"), ("backward", "high")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_subtracts_near_copies_is_never_trained_in_bf16(recipe):
    exact = "tf32" if recipe in ("0.5b", "2b") else "fp32"
    imm = resolve(recipe, "imm")
    near = imm.objective["gap_exponent"] > 8  # below, its two inputs are no near copies
    assert imm.train.precision == (exact if near else "auto")
    assert near == (recipe not in ("shapes", "shapes-quick", "scenes"))
    assert resolve(recipe, "transition").train.precision == exact
    assert resolve(recipe, "fm").train.precision == resolve(recipe, "selfe").train.precision
    assert resolve(recipe, "fm").train.precision in ("auto", "bf16")


def test_numbers_of_tf32_have_ten_bits_of_mantissa():
    one, step = 1.0, 2.0**-10
    given = torch.tensor([one, one + 0.49 * step, one + 0.51 * step, -one - 0.5 * step, 3e38, 0.0])
    wanted = torch.tensor([one, one, one + step, -one - step, 3e38, 0.0])
    assert round_to_tf32(given)[[0, 1, 2, 3, 5]].tolist() == wanted[[0, 1, 2, 3, 5]].tolist()
    assert round_to_tf32(given)[4] == pytest.approx(3e38, rel=2**-11)


def test_emulated_products_round_both_factors_forward_and_backward():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True), torch.randn(4)
    with EmulatedTF32():
        y = torch.nn.functional.linear(x, weight, bias)
        y.backward(torch.ones_like(y) / 3)
    rounded = bias + round_to_tf32(x) @ round_to_tf32(weight.detach()).T
    torch.testing.assert_close(y.detach(), rounded, rtol=1e-6, atol=1e-6)
    third = round_to_tf32(torch.ones_like(y) / 3)
    torch.testing.assert_close(weight.grad, third.T @ round_to_tf32(x), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(y, torch.nn.functional.linear(x, weight, bias), rtol=1e-5)


def test_errors_by_precision_of_a_run(tmp_path):
    config = tiny_config("imm", "train.iterations=2", "data.size=64")
    tiny_train(config, tmp_path / "run")
    write_config(tmp_path / "run", config)
    tf32, bf16 = rows_of(Weights.of_run(tmp_path / "run", None), 2)
    assert (tf32["precision"], bf16["precision"]) == ("tf32", "bf16")
    assert tf32["method"] == "imm" and tf32["step"] == 2
    assert 0 < tf32["error"] < bf16["error"] < 1
    assert tf32["batch_noise"] == bf16["batch_noise"] > 0


def test_shipped_weights_take_changed_settings(tmp_path):
    weights = Weights.shipped("imm", ["objective.gap_exponent=12"], tmp_path)
    assert weights.config.objective["gap_exponent"] == 12
    assert weights.name == "demo imm objective.gap_exponent=12"
    assert weights.live == weights.average and weights.live.is_file()


def test_plans_see_the_processor_as_torch_does():
    code = (
        "import sys; from selfe.device import cpu_multiplies_bf16 as ask; without = ask(); "
        "assert 'torch' not in sys.modules or sys.platform != 'linux'; import torch; "
        "print(without == ask())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_driver_is_seen_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "DRIVERS", tmp_path)
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "null").touch()
    assert not device.may_have_gpu()
    (tmp_path / "nvidiactl").touch()
    assert device.may_have_gpu()
    (tmp_path / "nvidiactl").unlink()
    monkeypatch.setattr("sys.platform", "darwin")
    assert device.may_have_gpu()
