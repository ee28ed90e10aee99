"""Our denoisers as text-to-image models: NFE, determinism, guidance, per-step settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfe.config.drawing import override_sampling
from selfe.config.schema import SamplingConfig
from selfe.encoders.registry import build_codec, build_text_encoder
from selfe.generation.any_step import AnyStepGenerator, guided_velocity, latents_to_images
from selfe.generation.captions import EncodedCaptions
from selfe.generator import GeneratorFacts, image_seed, told_while_drawing
from selfe.guidance import Guidance
from selfe.run_folder.drawable import DrawableRun
from selfe.run_folder.model import build_model, load_run
from selfe.run_folder.records import find_checkpoint, write_config
from selfe.sampler import time_grid
from tests.helpers.tiny import tiny_config, tiny_train
from tests.helpers.toy_networks import pooled_condition

PROMPTS = ["a photo of a star", "a photo of a red circle and a blue ring", "a photo of two crosses"]


class Counting(torch.nn.Module):
    """Counts calls, the rows of each, and their times."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.rows, self.times = inner, [], []

    def forward(self, x, t, s, condition):
        self.rows.append(len(x))
        self.times.append(t[0].item())
        return self.inner(x, t, s, condition)


def make(text=None, latent_shape=(4, 8, 8), **settings):
    config = tiny_config()
    torch.manual_seed(0)
    network = build_model(config, "cpu")
    for parameter in network.parameters():  # the zero-initialised output would draw no difference
        torch.nn.init.normal_(parameter, std=0.1)
    codec = build_codec(config, "cpu")
    facts = GeneratorFacts("tiny", "Tiny", "selfe", "digest", (32, 32))
    values = {"batch_slots": 4, "guidance": "linear", "guidance_scale": 3.0, **settings}
    return AnyStepGenerator(
        Counting(network),
        codec,
        text or build_text_encoder(config, "cpu"),
        latent_shape=latent_shape,
        settings=SamplingConfig.model_validate(values),
        facts=facts,
    )


def seeds(*samples):
    return [image_seed(0, prompt, i) for prompt, i in zip(PROMPTS, samples, strict=False)]


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
@pytest.mark.parametrize("sampler", ["any-step", "pushforward", "restart"])
@pytest.mark.parametrize(
    ("guidance", "guidance_time", "calls"),
    [("none", "s", 1), ("none", "t", 1), ("ep-v", "s", 2), ("ep-v", "t", 3)],
)
def test_network_calls_are_the_stated_nfe(steps, sampler, guidance, guidance_time, calls):
    generator = make(sampler=sampler, guidance=guidance, guidance_time=guidance_time)
    generator.generate(PROMPTS[:1], steps, seeds(0))
    assert len(generator.network.rows) == generator.nfe(steps)
    assert generator.nfe(steps) == steps * calls


class CaptionTimesTime(torch.nn.Linear):
    """What the caption adds depends on s."""

    def forward(self, x, t, s, condition):
        t, s, caption = (v.reshape(-1, 1, 1, 1) for v in (t, s, condition.pooled[:, 0]))
        return (1 - t) * x + caption * (1 + t - 2 * s)


def test_guidance_at_s_equal_to_t_adds_the_difference_learnt_from_data():
    """V(t, s, c) + (omega - 1) (V(t, t, c) - V(t, t, null)), linear guidance."""
    null, caption = (pooled_condition(torch.full((2, 3), value)) for value in (0.0, 1.0))
    network = CaptionTimesTime(1, 1)
    x, t, s = torch.randn(2, 2, 4, 4), torch.tensor([0.9, 0.6]), torch.tensor([0.4, 0.0])
    guided = guided_velocity(network, caption, null, Guidance("linear", 3.0, "t"))
    difference = network(x, t, t, caption) - network(x, t, t, null)
    torch.testing.assert_close(guided(x, t, s), network(x, t, s, caption) + 2 * difference)
    usual = guided_velocity(network, caption, null, Guidance("linear", 3.0))
    torch.testing.assert_close(guided(x, t, t), usual(x, t, t))
    assert not torch.allclose(guided(x, t, s), usual(x, t, s), rtol=1e-3)


def test_the_shift_of_the_grid_is_a_setting_that_results_name():
    plain, shifted = make(), make(shift=-1.0)
    for generator in (plain, shifted):
        generator.generate(PROMPTS[:1], 4, seeds(0))
    assert shifted.network.times[2] < plain.network.times[2]  # nearer to the data
    assert "shift" not in plain.sampling_at(4) and shifted.sampling_at(4)["shift"] == -1.0


def test_a_flow_map_is_not_drawn_by_way_of_images_it_does_not_have():
    generator = make(eta=0.0, by_steps={8: {"eta": 1.0}})
    generator.prediction = "flow-map"
    generator.sampling_at(4)
    for ask in (generator.sampling_at, generator.nfe):
        with pytest.raises(
            ValueError, match="Tiny cannot be sampled like that at 8 steps: sampling.eta = "
        ):
            ask(8)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 12), (4, 12, 8)])
def test_times_are_warped_for_the_tokens_of_the_image(shape):
    generator = make(latent_shape=shape, guidance="none")
    (image,) = generator.generate(PROMPTS[:1], 4, seeds(0))
    assert image.shape == (4 * shape[1], 4 * shape[2], 3)
    grid = time_grid(4, shape[1] * shape[2] // 4, base_len=generator.settings.base_len)
    assert generator.network.times == pytest.approx(grid[:-1])


def test_images_do_not_depend_on_their_batch():
    generator = make()
    together = generator.generate(PROMPTS, 2, seeds(0, 0, 0))
    alone = [
        generator.generate([p], 2, [s])[0] for p, s in zip(PROMPTS, seeds(0, 0, 0), strict=True)
    ]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a, b)


class CountingText:
    """A text encoder that takes note of what it is asked for."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def encode(self, captions):
        self.asked.append(list(captions))
        return self.inner.encode(captions)


def test_a_caption_is_encoded_once_and_alone_for_all_images_and_step_counts():
    text = CountingText(build_text_encoder(tiny_config(), "cpu"))
    generator = make(text=text)
    text.asked.clear()
    for steps in (1, 2):
        generator.generate(PROMPTS * 3, steps, list(range(9)))
    assert text.asked == [[prompt] for prompt in PROMPTS]


def test_captions_of_a_batch_are_padded_to_its_length_and_masked():
    text = build_text_encoder(tiny_config(), "cpu")
    captions = EncodedCaptions(text)
    assert captions.lengths(PROMPTS) == text.encode(PROMPTS).mask.sum(1).tolist() == [6, 11, 6]
    batch, together = captions.batch(PROMPTS, 12), text.encode(PROMPTS)
    assert batch.tokens.shape[1] == 12 and not batch.no_padding
    assert torch.equal(batch.mask[:, :11], together.mask) and not batch.mask[:, 11:].any()
    assert torch.equal(batch.tokens[:, :11][together.mask], together.tokens[together.mask])
    assert torch.equal(batch.pooled, together.pooled)
    with pytest.raises(ValueError, match="captions of 11 tokens do not fit 8"):
        captions.batch(PROMPTS, 8)


def test_batches_have_fixed_slots():
    generator = make()
    generator.generate(PROMPTS * 3, 1, list(range(9)))
    assert set(generator.network.rows) == {4}


def test_the_seed_decides_the_image():
    generator = make(eta=1.0)
    first, again, other = (generator.generate(PROMPTS[:1], 3, [n])[0] for n in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_seeds_depend_on_prompt_sample_and_run():
    base = image_seed(0, "a", 0)
    assert base == image_seed(0, "a", 0)
    assert len({base, image_seed(1, "a", 0), image_seed(0, "b", 0), image_seed(0, "a", 1)}) == 4


def test_settings_by_number_of_steps():
    settings = SamplingConfig.model_validate(
        {
            "guidance": "linear",
            "guidance_scale": 2.0,
            "by_steps": {4: {"guidance": "none"}, 50: {"guidance_scale": 5.0, "eta": 0.0}},
        }
    )
    assert settings.at(2).guidance == "linear"
    assert settings.at(4).guidance == settings.at(8).guidance == "none"
    assert (settings.at(64).guidance_scale, settings.at(64).eta) == (5.0, 0.0)
    generator = make(by_steps={4: {"guidance": "none"}})
    assert [generator.nfe(n) for n in (2, 4)] == [4, 4]
    assert generator.sampling_at(2)["guidance"] == "linear"
    assert generator.sampling_at(4)["guidance"] == "none"


def test_overrides_apply_to_every_number_of_steps():
    base = SamplingConfig.model_validate({"by_steps": {2: {"eta": 0.0, "guidance_scale": 4.0}}})
    changed = override_sampling(base, {"eta": 0.5})
    assert changed.at(2).eta == 0.5
    assert changed.at(2).guidance_scale == 4.0
    with pytest.raises(ValueError, match="sampling.etaa.*sampling.eta"):
        override_sampling(base, {"etaa": 1})


@pytest.mark.parametrize("steps", [0, -1])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match="at least 1"):
        make().generate(PROMPTS[:1], steps, [0])


def test_prompts_and_seeds_must_match():
    with pytest.raises(ValueError, match="1 prompts but 2 seeds"):
        make().generate(PROMPTS[:1], 1, [0, 1])


@pytest.mark.fault(19)
def test_latents_that_are_not_finite_are_no_picture():
    decoded = torch.zeros(3, 3, 4, 4)
    decoded[1, 0, 0, 0] = float("nan")
    decoded[2, 0, 0, 0] = float("inf")
    images = latents_to_images(decoded)
    assert images[1] is None and images[2] is None
    assert images[0].shape == (4, 4, 3) and images[0].dtype == np.uint8


def test_values_beyond_white_and_black_are_white_and_black():
    decoded = torch.tensor([-9.0, -1.01, -1, 0, 1, 1.01, 9]).expand(1, 3, 1, 7)
    (image,) = latents_to_images(decoded)
    assert image[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_a_run_is_loaded_with_its_averaged_weights(tmp_path):
    config = tiny_config("fm", "sampling.batch_slots=2")
    state = tiny_train(config, tmp_path)
    write_config(tmp_path, config)
    generator = load_run(tmp_path)
    name, parameter = next(iter(state.ema.module.named_parameters()))
    assert torch.equal(dict(generator.network.named_parameters())[name], parameter)
    assert generator.facts.iterations == 8
    assert generator.facts.digest == find_checkpoint(tmp_path).digest
    assert generator.facts.resolution == (32, 32)
    with pytest.raises(ValueError, match="no checkpoint at iteration 5 .available: 4, 8."):
        load_run(tmp_path, step=5)
    with pytest.raises(ValueError, match="no run at"):
        load_run(tmp_path / "nothing")
    # an older one in its place would be scored under the wrong number of iterations
    state = tmp_path / "checkpoints" / "step-00000008" / "state.json"
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(ValueError, match="step-00000008 is damaged: .*@4 too"):
        load_run(tmp_path)
    assert load_run(tmp_path, step=4).facts.iterations == 4


@pytest.mark.parametrize("inference", ["", "paper"])
def test_what_a_run_is_and_how_it_is_drawn_is_known_before_its_network_is_opened(
    tmp_path, inference
):
    config = tiny_config("selfe", "sampling.batch_slots=2")
    tiny_train(config, tmp_path)
    write_config(tmp_path, config)
    over = {} if inference else {"eta": 0.5}
    lazy = DrawableRun(tmp_path, sampling=over, inference=inference)
    assert "opened" not in vars(lazy)
    whole = load_run(tmp_path, sampling=over, inference=inference)
    assert lazy.facts == whole.facts and lazy.chunk_size == whole.chunk_size
    assert whole.facts.parameters == sum(p.numel() for p in whole.network.parameters())
    for steps in (1, 2, 50):
        assert lazy.sampling_at(steps) == whole.sampling_at(steps)
        assert lazy.nfe(steps) == whole.nfe(steps)
    assert "opened" not in vars(lazy)
    job = (PROMPTS[:2], 2, seeds(0, 1))
    for ours, its in zip(lazy.generate(*job), whole.generate(*job), strict=True):
        assert np.array_equal(ours, its)
    assert lazy.device == whole.device
    assert lazy.count_truncated(PROMPTS) == whole.count_truncated(PROMPTS)


def test_a_run_that_is_damaged_is_refused_before_or_while_it_is_drawn(tmp_path):
    config = tiny_config("fm")
    tiny_train(config, tmp_path)
    write_config(tmp_path, config)
    with pytest.raises(ValueError, match="no checkpoint at iteration 5"):
        DrawableRun(tmp_path, step=5)
    weights = tmp_path / "checkpoints" / "step-00000008" / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    lazy = DrawableRun(tmp_path)
    with pytest.raises(ValueError, match="ema.safetensors"):
        lazy.generate(PROMPTS[:1], 1, [0])


def test_progress_is_told_at_every_step_of_every_batch():
    generator = make()  # four slots: captions of three lengths take three batches
    told: list[float] = []
    with told_while_drawing(told.append):
        generator.generate(PROMPTS * 2, 5, [*seeds(0, 1, 2), *seeds(3, 4, 5)])
    assert len(told) == 5 * len({len(p.split()) for p in PROMPTS})
    assert told == sorted(told) and told[0] == pytest.approx(4 / 5) and told[-1] == len(PROMPTS) * 2
    before = list(told)
    generator.generate(PROMPTS[:1], 5, seeds(0))
    assert told == before  # nobody listens any more
