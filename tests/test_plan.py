"""The cost of a run, against counts made by hand and against what is really written and kept.

Longer than other files by the counts made by hand, which stand beside what they check.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from selfe.batch import LatentBatch, TextCondition
from selfe.cli.plan import describe
from selfe.config.recipes import RECIPES
from selfe.config.resolve import build_objective, resolve
from selfe.config.stages import stage_at
from selfe.data.in_memory import InMemoryLatents
from selfe.data.shapes_world import WORLDS, open_world
from selfe.device import GPUS, gpu_named
from selfe.encoders.registry import CODECS
from selfe.encoders.shapes import ShapesTextEncoder
from selfe.network import blocks as network_blocks
from selfe.network import flops
from selfe.network.denoiser import DualTimeDenoiser
from selfe.network.embeddings import TIME_FEATURES
from selfe.objectives.registry import METHODS
from selfe.planning.around import caption_flops
from selfe.planning.layout import largest_fitting
from selfe.planning.memory import (
    CODEC_GEOMETRY,
    KEPT,
    WORLD_SIDES,
    cache_bytes_per_image,
    checkpoint_bytes,
    resolutions_of,
    world_side,
)
from selfe.planning.passes import passes_of
from selfe.planning.plan import make_plan
from selfe.run_folder.model import count_parameters
from selfe.seeding import SampleRng
from selfe.training.metrics_log import read_lines
from selfe.training.throughput import Throughput
from tests.helpers.command_line import selfe_bench
from tests.helpers.tiny import tiny_config, tiny_train


def plan_of(method: str, *assignments: str, variant: str = "", recipe: str = "0.5b", **options):
    return make_plan(
        resolve(recipe, method, variant=variant, assignments=assignments),
        **{"text_tokens": 256, **options},
    )


@pytest.mark.parametrize(("recipe", "count"), [("0.5b", 564_967_488), ("2b", 2_247_716_928)])
def test_parameters_are_the_published_counts(recipe, count):
    assert count_parameters(resolve(recipe, "selfe").model) == count


@pytest.mark.parametrize("recipe", ["shapes", "shapes-64", "2b"])
def test_counts_of_weights_are_those_of_the_network(recipe):
    settings = resolve(recipe, "fm").model.model_dump()
    with torch.device("meta"):
        network = DualTimeDenoiser(**settings)
    blocks = [*network.double_blocks, *network.single_blocks]
    total, *sizes = (sum(p.numel() for p in part.parameters()) for part in (network, *blocks))
    assert flops.parameter_counts(settings) == (total, max(sizes))
    assert (flops.MLP_RATIO, flops.TIME_FEATURES) == (network_blocks.MLP_RATIO, TIME_FEATURES)


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
    assert plan_of("shortcut").flops_per_step == (3 + 2 / 8) * forward * batch
    assert plan_of("transition").flops_per_step == 4 * forward * batch
    assert plan_of("meanflow").flops_per_step == (3 + 2 / 4) * forward * batch
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


def test_the_two_stages_of_the_2b_run_by_hand():
    """Width 2048, 24 blocks; 256 or 1024 image tokens, 256 text tokens or the null prompt's one."""
    d = 2048

    def forward(image: int, text: int) -> int:
        n = image + text
        blocks = 24 * (12 * n * d * d + 2 * n * n * d)
        vectors = (8 * 12 + 16 * 3 + 2) * d * d + d * (2 * 256 + 768 + 3 * d)
        return 2 * (blocks + vectors + 2 * image * 64 * d + text * 4096 * d)

    def step(batch: int, image: int, aux: bool) -> int:
        own, null = forward(image, 256), forward(image, 1)
        return 3 * own * batch + (own + null) * batch // 2 + (3 * own * batch // 2 if aux else 0)

    made = plan_of("selfe", recipe="2b")
    bounds = [(stage.start, stage.stop, stage.batch_size) for stage in made.stages]
    assert bounds == [
        (0, 500_000, 1024), (500_000, 550_000, 768), (550_000, 710_000, 768),
    ]  # fmt: skip
    expected = [
        step(1024, 256, False),
        step(384, 256, False) + step(384, 1024, False),
        step(384, 256, True) + step(384, 1024, True),
    ]
    assert [stage.flops_per_step for stage in made.stages] == expected
    total = 500_000 * expected[0] + 50_000 * expected[1] + 160_000 * expected[2]
    assert made.flops_total == total
    assert made.gpu_days == pytest.approx(total / (790e12 * 0.5) / 86_400)
    images = 500_000 * 1024 + 210_000 * 768
    assert made.images_per_second * made.days * 86_400 == pytest.approx(images)
    # the micro-batch divides 1024 / 8 and 768 / 8, and fits at 512 pixels with the auxiliary term
    assert 32 % made.micro_batch_per_gpu == 0
    per_image = 2 * d * (1024 + 256) * (8 * 31 + 16 * 27) * 1.5
    assert made.memory_per_gpu.activations == per_image * made.micro_batch_per_gpu


def test_a_fork_pays_from_its_first_iteration_on():
    whole, fork = plan_of("fm"), plan_of("fm", first_iteration=250_000)
    assert fork.flops_total * 6 == whole.flops_total
    assert fork.gpu_days == pytest.approx(whole.gpu_days / 6)
    assert fork.run_bytes == 3 * fork.checkpoint_bytes  # 300k, and the newest two
    late = plan_of("selfe", "objective.aux_from=250000", first_iteration=250_000)
    assert [stage.start for stage in late.stages] == [250_000]


@pytest.mark.parametrize(
    ("method", "variant"), [*((name, "") for name in METHODS.names()), ("selfe", "aux")]
)
def test_the_trainer_counts_the_flops_of_the_plan(method, variant, tmp_path):
    """The numerator of the MFU, from what the networks were really given, is the plan's."""
    config = tiny_config(
        method,
        "train.batch_size=16",
        "train.micro_batch_size=8",
        "train.caption_dropout=0",
        variant=variant,
    )
    latents = torch.randn(8, 4, 8, 8)  # 32 pixels, as the shapes world has
    captions = ["a photo of a star", "a photo of two crosses"] * 4

    class SameLength(InMemoryLatents):
        """Fake captions are longer by a word; here they count as the plan assumes."""

        def batch(self, rng: SampleRng) -> LatentBatch:
            batch = super().batch(rng)
            return replace(batch, fake=batch.condition)

    source = SameLength(
        latents, captions, ShapesTextEncoder(), caption_dropout=0, with_fake=False, seed=0
    )
    text_tokens = source.batch(SampleRng(0, torch.arange(8))).condition.tokens.shape[1]
    tiny_train(config, tmp_path, source=source)
    line = read_lines(tmp_path / "metrics.jsonl")[-1]
    planned = make_plan(config, gpus=1, text_tokens=text_tokens)
    counted = line["flops_per_second"] / line["images_per_second"] * config.train.batch_size
    assert counted == pytest.approx(planned.flops_per_step, rel=1e-9)
    assert "mfu" not in line  # no peak is known for a processor


def test_mfu_is_the_share_of_the_devices_peak(monkeypatch):
    monkeypatch.setattr("selfe.training.throughput.peak_flops", lambda device: 1e12)
    throughput = Throughput(resolve("shapes", "fm").model, torch.device("cpu"))
    throughput.images, throughput.flops = 3, 10**11
    speed = throughput.read()
    assert speed.mfu == pytest.approx(speed.flops_per_second / 1e12)
    assert speed.flops_per_second / speed.images_per_second == pytest.approx(1e11 / 3)
    assert "MFU" in str(speed)
    names = {"NVIDIA H200": "h200", "NVIDIA A100-SXM4-80GB": "a100", "NVIDIA H100 PCIe": "h100"}
    assert {name: gpu_named(name) for name in names} == names
    assert gpu_named("NVIDIA GeForce RTX 4090") is None


def test_passes_are_those_of_the_method():
    def noted(method, variant=""):
        passes = passes_of(build_objective(resolve("0.5b", method, variant=variant)), 0)
        return [(p.weights, p.caption, p.share, p.cost) for p in passes]

    loss = ("live", "own", 1.0, 3)
    assert noted("fm") == [loss]
    assert noted("imm") == [loss, ("live", "own", 1.0, 1)]
    assert noted("shortcut") == [*[("ema", "own", 1 / 8, 1)] * 2, loss]
    assert noted("transition") == [*[("live", "own", 0.5, 1)] * 2, loss]
    assert noted("meanflow") == [("live", "own", 1 / 4, 2), loss]
    score = [("live", "null", 0.5, 1), ("ema", "own", 0.5, 1)]
    assert noted("selfe") == [loss, *score]
    assert noted("selfe", "aux") == [loss, *score, ("live", "fake", 0.5, 3)]


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


@pytest.mark.parametrize(("precision", "share"), [("tf32", 2), ("fp32", 16)])
def test_precisions_of_four_bytes_cost_more(precision, share):
    made = plan_of("fm", f"train.precision={precision}", gpus=64)
    usual = plan_of("fm", gpus=64)
    assert made.flops_total == usual.flops_total
    assert made.gpu_days == pytest.approx(share * usual.gpu_days)
    # norms keep four bytes in either, so that the others keep fewer numbers
    assert made.memory_per_gpu.activations == 4 * 1024 * 512 * (8 * 25 + 16 * 21) * 16
    assert usual.memory_per_gpu.activations == 2 * 1024 * 512 * (8 * 31 + 16 * 27) * 16
    assert made.memory_per_gpu.gathered == 0  # no copies in bf16
    assert any(f"dense {precision} per H200" in text for text in made.assumptions)
    assert not any("bf16" in text for text in made.assumptions)
    shared, lean = (
        plan_of("fm", *extra, recipe="2b", gpus=64, shard=8).memory_per_gpu.gathered
        for extra in ([f"train.precision={precision}"], [])
    )
    assert 8 * shared == 12 * lean  # of two blocks the weights, of one the gradients


def test_sharded_memory_by_hand():
    whole = plan_of("fm", recipe="2b", gpus=64)
    shared = plan_of("fm", recipe="2b", gpus=64, shard=8)
    count, d = 2_247_716_928, 2048
    assert (whole.shard, whole.memory_per_gpu.gathered) == (1, 2 * count)
    memory = shared.memory_per_gpu
    assert memory.parameters == memory.gradients == memory.ema == 4 * count // 8
    assert memory.adam == count
    # a double-stream block: two streams, the modulation, and gains of queries and keys
    stream = (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d) + 2 * 128
    assert memory.gathered == 8 * (2 * stream + 12 * d * d + 12 * d)
    # what does not fit as whole copies is sharded over all GPUs, and said to be
    huge = plan_of("fm", "model.num_single_layers=64", recipe="2b", gpu="h100")
    assert huge.shard == 8 and huge.fits
    assert any("sharded over 8 GPUs" in text for text in huge.assumptions)
    assert any("all replicated" in text for text in whole.assumptions)


@pytest.mark.parametrize(("recompute", "kept"), [("blocks", 24), ("selective", 8 * 11 + 16 * 10)])
def test_recomputation_keeps_less(recompute, kept):
    made = plan_of("fm", f"train.recompute={recompute}", gpus=64)
    # one double-stream block at a time is held whole
    assert made.memory_per_gpu.activations == 2 * 1024 * 512 * (kept + 31) * 16
    assert made.flops_total == plan_of("fm").flops_total


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
    double, single = KEPT["none"]
    base = saved_bytes((1, 1), 2)
    assert (saved_bytes((2, 1), 2) - base) / unit == pytest.approx(double, rel=1 / 3)
    assert (saved_bytes((1, 2), 2) - base) / unit == pytest.approx(single, rel=1 / 3)


def test_a_batch_that_does_not_fit_is_accumulated():
    small = plan_of("selfe", recipe="2b", gpu="h100", gpus=8)
    assert small.fits and small.micro_batch_per_gpu < small.images_per_gpu == 128
    assert small.images_per_gpu % small.micro_batch_per_gpu == 0
    assert small.memory_per_gpu.total < 0.9 * GPUS["h100"].memory
    assert largest_fitting(12, lambda n: n <= 5) == 4
    assert largest_fitting(12, lambda n: False) == 1
    huge = plan_of("fm", "model.num_single_layers=64", recipe="2b", gpu="h100", gpus=1)
    assert not huge.fits


def test_cache_by_hand():
    config = resolve("0.5b", "fm")
    latents, text, pooled = 16 * 32 * 32 * 2, 100 * 4096 * 2, 768 * 2
    assert cache_bytes_per_image(config, 100) == latents + text + pooled + 512
    made = plan_of("fm", mean_tokens=100, images=3)
    assert made.cache_bytes == 3 * cache_bytes_per_image(config, 100)
    # the fake captions of the auxiliary term are encoded as well
    aux = resolve("0.5b", "selfe", variant="aux")
    assert cache_bytes_per_image(aux, 100) == latents + 2 * (text + pooled) + 512
    # two families of one image share its text
    both = resolve("2b", "fm")
    assert cache_bytes_per_image(both, 100) == 5 * latents + text + pooled + 512


def test_checkpoints_are_as_large_as_planned(tmp_path):
    config = tiny_config("fm", "train.iterations=4")
    tiny_train(config, tmp_path)
    files = list((tmp_path / "checkpoints" / "step-00000004").glob("*.safetensors"))
    written = sum(path.stat().st_size for path in files)
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in files)
    counters = 4 * len(tiny_parameters(config))  # Adam's step numbers
    assert written == checkpoint_bytes(count_parameters(config.model)) + headers + counters


def tiny_parameters(config):
    from selfe.run_folder.model import build_model

    return list(build_model(config, "meta").parameters())


def test_disk_of_a_run():
    # milestones at 50k ... 300k, and the newest two
    assert plan_of("fm").run_bytes == 8 * 16 * 564_967_488


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_planned(recipe):
    config = resolve(recipe, "selfe")
    made = make_plan(config, gpus=1)
    assert made.gpu_days > 0
    (side,) = resolutions_of(config, stage_at(config, 0))
    assert made.image_tokens * 4 * CODEC_GEOMETRY[config.data.codec][1] ** 2 == side**2
    assert config.model.in_channels == 4 * CODEC_GEOMETRY[config.data.codec][0]


def test_geometry_is_that_of_the_codecs():
    for name in CODECS:
        if name.startswith("shapes"):
            codec = CODECS.load(name)()
            assert CODEC_GEOMETRY[name] == (codec.latent_channels, codec.downsample)
    assert set(CODECS.names()) <= set(CODEC_GEOMETRY)


def test_command_prints_json_with_the_keys_others_read():
    code, out, err = selfe_bench(
        "plan", "--recipe", "0.5b", "--method", "selfe", "--gpu", "h200", "--json"
    )
    assert code == 0, err
    record = json.loads(out)
    assert record["parameters"] == 564_967_488
    assert {
        "flops_per_step", "gpu_days", "memory_per_gpu", "cache_bytes", "checkpoint_bytes",
        "assumptions", "mfu",
    } <= set(record)  # fmt: skip


def test_command_prints_every_assumption():
    code, out, _ = selfe_bench("plan", "--method", "selfe", "--variant", "aux", "--recipe", "2b")
    assert code == 0
    assert "2,247,716,928" in out
    for text in make_plan(resolve("2b", "selfe", variant="aux")).assumptions:
        assert text in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--gpu", "h20"),
            "unknown GPU 'h20'; did you mean 'h200'? (known: a100, h100, h200, b200)",
        ),
        (("--recipe", "9b"), "unknown recipe '9b'"),
        (("--gpus", "7"), "does not divide over 7 GPUs"),
        (("--gpus", "0"), "gpus must be at least 1"),
        (("--mfu", "50"), "share between 0 and 1"),
        (("--images", "0"), "images must be at least 1"),
        (("--gpus", "8", "--shard", "3"), "groups of 3"),
        (("--first-iteration", "300000"), "cannot start at 300000"),
        (("--recipe", "2b", "--gpus", "512"), "768 (from iteration 500000 on)"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence):
    code, _, err = selfe_bench("plan", "--method", "fm", *words)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_captions_cost_what_the_encoders_parameters_say() -> None:
    """T5-v1.1-XXL and CLIP-L from their configurations, without weights: two FLOPs a weight and
    token, and the products of attention."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    with torch.device("meta"):
        t5 = T5EncoderModel(
            T5Config(
                d_model=4096, d_kv=64, num_heads=64, d_ff=10240, num_layers=24,
                feed_forward_proj="gated-gelu",
            )
        )  # fmt: skip
        clip = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12,
            )
        )  # fmt: skip
    tokens = 256

    def weights(model: torch.nn.Module) -> int:
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        return sum(m.weight.numel() for m in linear)

    by_hand = 2 * weights(t5) * tokens + 24 * 4 * tokens**2 * 4096
    by_hand += 2 * weights(clip) * 77 + 12 * 4 * 77**2 * 768
    assert caption_flops(resolve("0.5b", "fm"), tokens) == by_hand
    assert caption_flops(resolve("shapes", "fm"), tokens) == 0


def test_money_and_what_comes_on_top() -> None:
    config = resolve("0.5b", "selfe")
    made = make_plan(config, gpu="b200", gpus=64, price=2.0)
    assert made.gpu_hours == pytest.approx(24 * made.gpu_days)
    images = 300_000 * 1024
    encoding = caption_flops(config, 256) * images / (1800e12 * 0.5) / 3600
    assert made.online_text_gpu_hours == pytest.approx(encoding)
    fake = make_plan(resolve("0.5b", "selfe", variant="aux"), gpu="b200", gpus=64)
    assert fake.online_text_gpu_hours == pytest.approx(2 * encoding)
    drawn = 553 * 4 * (2 + 4 + 8 + 50) * 2 * made.flops_per_image_forward  # guided: two calls
    assert made.geneval_gpu_hours == pytest.approx(drawn / (1800e12 * 0.5) / 3600)
    assert made.checkpoint_seconds == pytest.approx(16 * made.parameters / 25e9)
    shown = describe(made)
    assert f"{made.gpu_hours * 2:,.0f} (2 a GPU-hour)" in shown
    with pytest.raises(ValueError, match="price"):
        make_plan(config, price=-1)


def test_a_second_average_takes_memory_and_disk() -> None:
    plain = make_plan(resolve("0.5b", "selfe"))
    own = make_plan(resolve("0.5b", "selfe", assignments=["objective.conditional_decay=0.9"]))
    assert own.memory_per_gpu.ema == 2 * plain.memory_per_gpu.ema
    assert own.checkpoint_bytes == plain.checkpoint_bytes * 20 / 16
    assert any("20 bytes per parameter" in sentence for sentence in own.assumptions)


def test_a_plan_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = selfe_bench("plan", "--method", "selfe", "--price", "3")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 60
    assert "a GPU-hour" in out


def test_sides_are_those_of_the_worlds():
    assert set(WORLD_SIDES) == set(WORLDS)
    assert {preset: open_world(preset).image_size for preset in WORLDS} == WORLD_SIDES
    with pytest.raises(ValueError, match="unknown shapes preset 'fre'; the presets are grid, free"):
        world_side("fre")
