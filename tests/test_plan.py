"""The cost of a run, against counts made by hand and against what is really written and kept."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from tiny import tiny_config, tiny_train

from selfe.builder import CODECS
from selfe.cli import main
from selfe.network.conditioning import TextCondition
from selfe.network.denoiser import DualTimeDenoiser
from selfe.plan import (
    CODEC_GEOMETRY,
    GPUS,
    KEPT_DOUBLE,
    KEPT_SINGLE,
    cache_bytes_per_image,
    checkpoint_bytes,
    count_parameters,
    image_side,
    largest_fitting,
    make_plan,
)
from selfe.recipes import RECIPES, resolve


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfe-bench", "plan", *words])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def plan_of(method: str, *assignments: str, variant: str = "", recipe: str = "0.5b", **options):
    return make_plan(
        resolve(recipe, method, variant=variant, assignments=assignments),
        **{"text_tokens": 256, **options},
    )


@pytest.mark.parametrize(("recipe", "count"), [("0.5b", 564_967_488), ("2b", 2_247_716_928)])
def test_parameters_are_the_published_counts(recipe, count):
    assert count_parameters(resolve(recipe, "selfe").model) == count


def test_forward_flops_of_the_ablation_network_by_hand():
    """Width 1024, 24 blocks, 256 image and 256 text tokens: every matrix product written out."""
    d, n = 1024, 512
    linear = n * (d * 3 * d + d * d + d * 4 * d + 4 * d * d)  # qkv, output, MLP in and out
    attention = n * n * d * 2  # scores, and weights times values
    vectors = 8 * d * 12 * d + 16 * d * 3 * d + d * 2 * d  # modulations
    vectors += 2 * (256 * d + d * d) + (768 * d + d * d)  # t, t - s and pooled text
    ends = 256 * 64 * d + 256 * d * 64 + 256 * 4096 * d
    assert plan_of("fm").flops_per_image_forward == 2 * (24 * (linear + attention) + vectors + ends)
    assert plan_of("fm").flops_per_image_forward == pytest.approx(337.5e9, rel=2e-3)


@pytest.mark.parametrize(
    ("recipe", "tokens", "gflop"),
    [("0.5b", 64, 204), ("0.5b", 512, 526.5), ("2b", 64, 796), ("2b", 512, 1981)],
)
def test_forward_flops_are_those_of_the_targets(recipe, tokens, gflop):
    forward = plan_of("fm", recipe=recipe, text_tokens=tokens).flops_per_image_forward
    assert forward == pytest.approx(gflop * 1e9, rel=5e-3)


def test_a_step_of_every_method_in_forward_passes():
    forward = plan_of("fm").flops_per_image_forward
    null = plan_of("fm", text_tokens=1).flops_per_image_forward
    batch = 1024
    assert plan_of("fm").flops_per_step == 3 * forward * batch
    assert plan_of("imm").flops_per_step == 4 * forward * batch
    selfe = 3 * forward * batch + (forward + null) * batch // 2
    assert plan_of("selfe").flops_per_step == selfe
    assert plan_of("selfe", variant="no-target-norm").flops_per_step == selfe
    assert plan_of("selfe", variant="aux").flops_per_step == selfe + 3 * forward * batch // 2
    assert plan_of("imm").relative_to_fm == pytest.approx(4 / 3)
    assert plan_of("selfe").relative_to_fm == pytest.approx(1.25, abs=0.005)


def test_the_auxiliary_term_is_paid_from_its_first_iteration_on():
    made = plan_of("selfe", "objective.aux_from=250000")
    before, after = made.stages
    assert (before.start, before.stop, after.start, after.stop) == (0, 250_000, 250_000, 300_000)
    assert before.flops_per_step == made.flops_per_step == plan_of("selfe").flops_per_step
    assert after.flops_per_step == plan_of("selfe", variant="aux").flops_per_step
    assert made.flops_total == 250_000 * before.flops_per_step + 50_000 * after.flops_per_step
    # memory is that of the dearest stage
    assert made.memory_per_gpu == plan_of("selfe", variant="aux").memory_per_gpu


def test_gpu_days_and_throughput_by_hand():
    made = plan_of("fm", gpu="h200", gpus=8, mfu=0.5)
    seconds_on_one = made.flops_per_step * 300_000 / (790e12 * 0.5)
    assert made.gpu_days == pytest.approx(seconds_on_one / 86_400)
    assert made.days == pytest.approx(made.gpu_days / 8)
    assert made.images_per_second == pytest.approx(8 * 391, rel=5e-3)  # 391 images/s on one H200
    half = plan_of("fm", gpus=8, mfu=0.25)
    assert half.gpu_days == pytest.approx(2 * made.gpu_days)


def test_memory_by_hand():
    made = plan_of("fm", gpus=64)
    memory = made.memory_per_gpu
    assert made.images_per_gpu == made.micro_batch_per_gpu == 16
    assert memory.parameters == memory.gradients == memory.ema == 4 * 564_967_488
    assert memory.adam == 2 * memory.parameters
    assert memory.activations == 2 * 1024 * 512 * (8 * 31 + 16 * 27) * 16
    assert memory.total == 22 * 564_967_488 + memory.activations


def saved_bytes(blocks: tuple[int, int], batch: int) -> int:
    """What autograd keeps of one forward pass in bf16, parameters left out."""
    network = DualTimeDenoiser(16, *blocks, 16, 4, 16, 16, (4, 6, 6)).bfloat16()
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return x

    mask = torch.ones(batch, 64, dtype=torch.bool)
    condition = TextCondition(torch.randn(batch, 64, 16), mask, torch.randn(batch, 16), True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        network(torch.randn(batch, 4, 16, 16), torch.rand(batch), torch.zeros(batch), condition)
    return sum(storage.nbytes() for storage in kept.values())


def test_activations_are_of_the_size_that_autograd_keeps():
    """Within a third: autocast, a few tokens and small heads all shift the count a little."""
    unit = 2 * 64 * 128 * 2  # bytes x width x tokens x images
    base = saved_bytes((1, 1), 2)
    assert (saved_bytes((2, 1), 2) - base) / unit == pytest.approx(KEPT_DOUBLE, rel=1 / 3)
    assert (saved_bytes((1, 2), 2) - base) / unit == pytest.approx(KEPT_SINGLE, rel=1 / 3)


def test_a_batch_that_does_not_fit_is_accumulated():
    small = plan_of("selfe", recipe="2b", gpu="h100", gpus=8)
    assert small.fits and small.micro_batch_per_gpu < small.images_per_gpu == 128
    assert small.images_per_gpu % small.micro_batch_per_gpu == 0
    assert small.memory_per_gpu.total < 0.9 * GPUS["h100"].memory
    assert largest_fitting(12, lambda n: n <= 5) == 4
    assert largest_fitting(12, lambda n: False) == 1
    huge = plan_of("fm", "model.num_single_layers=64", recipe="2b", gpu="h100")
    assert not huge.fits


def test_cache_by_hand():
    config = resolve("0.5b", "fm")
    latents, text, pooled = 16 * 32 * 32 * 2, 100 * 4096 * 2, 768 * 2
    assert cache_bytes_per_image(config, 100) == latents + text + pooled + 512
    made = plan_of("fm", mean_tokens=100, images=3)
    assert made.cache_bytes == 3 * cache_bytes_per_image(config, 100)


def test_checkpoints_are_as_large_as_planned(tmp_path):
    config = tiny_config("fm", "train.iterations=4")
    tiny_train(config, tmp_path)
    files = list((tmp_path / "checkpoints" / "step-00000004").glob("*.safetensors"))
    written = sum(path.stat().st_size for path in files)
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in files)
    counters = 4 * len(tiny_parameters(config))  # Adam's step numbers
    assert written == checkpoint_bytes(count_parameters(config.model)) + headers + counters


def tiny_parameters(config):
    from selfe.builder import build_model

    return list(build_model(config, "meta").parameters())


def test_disk_of_a_run():
    # milestones at 50k ... 300k, and the newest two
    assert plan_of("fm").run_bytes == 8 * 16 * 564_967_488


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_planned(recipe):
    config = resolve(recipe, "selfe")
    made = make_plan(config, gpus=1)
    assert made.gpu_days > 0
    assert made.image_tokens * 4 * CODEC_GEOMETRY[config.data.codec][1] ** 2 == (
        image_side(config) ** 2
    )
    assert config.model.in_channels == 4 * CODEC_GEOMETRY[config.data.codec][0]


def test_geometry_is_that_of_the_codecs():
    for name in CODECS:
        if name.startswith("shapes"):
            codec = CODECS.load(name)()
            assert CODEC_GEOMETRY[name] == (codec.latent_channels, codec.downsample)
    assert set(CODECS.names()) <= set(CODEC_GEOMETRY)


def test_command_prints_json_with_the_keys_others_read(command):
    code, out, err = command("--recipe", "0.5b", "--method", "selfe", "--gpu", "h200", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["parameters"] == 564_967_488
    assert {
        "flops_per_step", "gpu_days", "memory_per_gpu", "cache_bytes", "checkpoint_bytes",
        "assumptions", "mfu",
    } <= set(record)  # fmt: skip


def test_command_prints_every_assumption(command):
    code, out, _ = command("--method", "selfe", "--variant", "aux", "--recipe", "2b")
    assert code == 0
    assert "2,247,716,928" in out
    for text in make_plan(resolve("2b", "selfe", variant="aux")).assumptions:
        assert text in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--gpu", "h20"), "unknown GPU 'h20'; did you mean 'h200'? (known: a100, h100, h200)"),
        (("--recipe", "9b"), "unknown recipe '9b'"),
        (("--gpus", "7"), "does not divide over 7 GPUs"),
        (("--gpus", "0"), "gpus must be at least 1"),
        (("--mfu", "50"), "share between 0 and 1"),
        (("--images", "0"), "images must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(command, words, sentence):
    code, _, err = command("--method", "fm", *words)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
