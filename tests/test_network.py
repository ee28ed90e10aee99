"""The denoiser against diffusers' FLUX transformer, against itself, and against SPEC's counts.

Longer than other files: every part of the network is compared with the same reference.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from selfe.batch import TextCondition, join_conditions
from selfe.network import cpu_kernels, denoiser
from selfe.network.cpu_kernels import attend_on_cpu as attend
from selfe.network.cpu_kernels import normalise_and_rotate_on_cpu as normalise_and_rotate
from selfe.network.denoiser import DualTimeDenoiser
from selfe.network.embeddings import patchify, rotary_table, unpatchify
from selfe.network.flops import flops_per_image
from selfe.network.flux_conversion import from_flux, to_flux
from selfe.network.operations import PLAIN

TINY = dict(
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    pooled_projection_dim=12,
    axes_dims_rope=(4, 6, 6),
)
WIDE = dict(
    in_channels=64,
    num_layers=1,
    num_single_layers=2,
    attention_head_dim=64,
    num_attention_heads=8,
    joint_attention_dim=96,
    pooled_projection_dim=48,
    axes_dims_rope=(8, 28, 28),
)
ABLATION = dict(
    in_channels=64,
    num_layers=8,
    num_single_layers=16,
    attention_head_dim=64,
    num_attention_heads=16,
    joint_attention_dim=4096,
    pooled_projection_dim=768,
    axes_dims_rope=(8, 28, 28),
)
MAIN = {**ABLATION, "attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)}


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every weight a value, the zero-initialised ones too."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if parameter.ndim > 1 and parameter.shape[0] != 2:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise)


def tiny_model(seed: int = 0) -> DualTimeDenoiser:
    model = DualTimeDenoiser(**TINY).eval()
    randomise(model, seed)
    return model


def make_inputs(config: dict, batch=3, h=4, w=6, lengths=(5, 3, 1), seed=1):
    """Latents, times, and captions of the given lengths with rubbish in the padding."""
    rng = torch.Generator().manual_seed(seed)
    length = max(lengths)
    x_t = torch.randn(batch, config["in_channels"] // 4, h, w, generator=rng)
    t = torch.rand(batch, generator=rng)
    s = t * torch.rand(batch, generator=rng)
    condition = TextCondition(
        torch.randn(batch, length, config["joint_attention_dim"], generator=rng),
        torch.arange(length) < torch.tensor(lengths)[:, None],
        torch.randn(batch, config["pooled_projection_dim"], generator=rng),
    )
    return x_t, t, s, condition


def run_flux(flux, x_t, t, condition):
    """diffusers' own packing, positions and forward; every text token is real."""
    batch, channels, h, w = x_t.shape
    packed = FluxPipeline._pack_latents(x_t, batch, channels, h, w)
    image_ids = FluxPipeline._prepare_latent_image_ids(batch, h // 2, w // 2, "cpu", torch.float32)
    out = flux(
        hidden_states=packed,
        encoder_hidden_states=condition.tokens,
        pooled_projections=condition.pooled,
        timestep=t,
        img_ids=image_ids,
        txt_ids=torch.zeros(condition.tokens.shape[1], 3),
        return_dict=False,
    )[0]
    return FluxPipeline._unpack_latents(out, h * 8, w * 8, vae_scale_factor=8)


@pytest.mark.parametrize(
    ("config", "total", "embedder"),
    [(ABLATION, 564_967_488, 1_312_768), (MAIN, 2_247_716_928, 4_722_688)],
)
def test_parameter_counts_are_those_of_the_paper(config, total, embedder):
    with torch.device("meta"):
        model = DualTimeDenoiser(**config)
        flux = FluxTransformer2DModel(**config)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.interval_in.parameters()) == embedder
    assert sum(p.numel() for p in flux.parameters()) == total - embedder


def test_defaults_are_the_ablation_network():
    with torch.device("meta"):
        model = DualTimeDenoiser()
    assert {name: model.config[name] for name in ABLATION} == ABLATION


@pytest.mark.parametrize(
    ("config", "gigaflops"),
    [(ABLATION, (204, 248, 337.5, 526.5)), (MAIN, (796, 960, 1294, 1981))],
)
def test_flops_are_those_of_the_targets(config, gigaflops):
    for text_tokens, expected in zip((64, 128, 256, 512), gigaflops, strict=True):
        assert flops_per_image(config, 256, 256, text_tokens) / 1e9 == pytest.approx(
            expected, abs=0.5
        )


def test_flops_equal_the_operations_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_model()
    x_t, t, s, condition = make_inputs(TINY, lengths=(5, 5, 5))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x_t, t, s, condition)
    text, tokens, dim = 5, 5 + 6, 32
    saved = 2 * text * (9 * dim * dim + 2 * tokens * dim)  # the last block's unread text outputs
    nominal = flops_per_image(TINY, 4 * 8, 6 * 8, text)
    assert counter.get_total_flops() == 3 * (nominal - saved)


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["tiny", "width 512"])
def test_equals_diffusers_with_flux_weights(config):
    torch.manual_seed(0)
    flux = FluxTransformer2DModel(**config).eval()
    randomise(flux)
    model = from_flux(flux).eval()
    # The larger one has enough tokens for the fused attention kernel.
    h, w = (4, 6) if config is TINY else (16, 24)
    x_t, t, s, condition = make_inputs(config, h=h, w=w, lengths=(5, 5, 5))
    assert (h * w // 4 + 5 <= cpu_kernels.FEW_TOKENS) == (config is TINY)
    with torch.no_grad():
        expected = run_flux(flux, x_t, t, condition)
        assert expected.std() > 0.1
        for mask_known in (False, True):
            full = TextCondition(condition.tokens, condition.mask, condition.pooled, mask_known)
            torch.testing.assert_close(model(x_t, t, s, full), expected, rtol=0, atol=1e-5)


def test_flux_weights_survive_a_round_trip_bit_for_bit():
    flux = FluxTransformer2DModel(**TINY)
    randomise(flux)
    back = to_flux(from_flux(flux)).state_dict()
    original = flux.state_dict()
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["tiny", "width 512"])
def test_export_to_flux_is_the_flow_matching_field(config):
    model = DualTimeDenoiser(**config).eval()
    randomise(model)
    flux = to_flux(model).eval()
    x_t, t, s, condition = make_inputs(config, lengths=(5, 5, 5))
    with torch.no_grad():
        exported = run_flux(flux, x_t, t, condition)
        torch.testing.assert_close(model(x_t, t, t, condition), exported, rtol=0, atol=1e-5)
        assert (model(x_t, t, s, condition) - exported).abs().max() > 1e-3


def test_conversion_refuses_what_it_does_not_know():
    guided = FluxTransformer2DModel(**TINY, guidance_embeds=True)
    with pytest.raises(ValueError, match="guidance_embeds=False"):
        from_flux(guided)
    flux = FluxTransformer2DModel(**TINY)
    flux.register_parameter("stranger", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="unknown keys: stranger"):
        from_flux(flux)


def test_the_time_factor_stretches_time():
    """Times reach the network through their features alone."""
    model, slower = (DualTimeDenoiser(**TINY, time_factor=f).eval() for f in (1000, 250))
    randomise(model)
    slower.load_state_dict(model.state_dict())
    x_t, t, s, condition = make_inputs(TINY)
    with torch.no_grad():
        seen = slower(x_t, t, s, condition)
        assert torch.equal(seen, model(x_t, t / 4, s / 4, condition))
        assert not torch.equal(seen, model(x_t, t, s, condition))
    with pytest.raises(ValueError, match="sinusoids of 1000 t, this network's of 250 t"):
        to_flux(slower)


def test_patches_are_packed_as_flux_packs_them():
    x = torch.randn(2, 3, 6, 4)
    packed = patchify(x)
    assert torch.equal(packed, FluxPipeline._pack_latents(x, 2, 3, 6, 4))
    assert torch.equal(unpatchify(packed, 6, 4), x)


def test_text_positions_do_not_rotate():
    table = rotary_table(3, 2, 2, (4, 6, 6), torch.device("cpu"))
    assert table.shape == (7, 1, 8, 2)
    assert torch.equal(table[:3, ..., 0], torch.ones(3, 1, 8))
    assert torch.equal(table[:3, ..., 1], torch.zeros(3, 1, 8))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("per_token", [False, True])
def test_both_forms_of_norm_and_rotation_agree(dtype, tolerance, per_token):
    """The written-out backward pass against autograd's in double precision."""
    table = rotary_table(3, 2, 2, (4, 6, 6), torch.device("cpu"))[:, None]
    x = torch.randn(2, 7, 2, 3, 16).to(dtype).requires_grad_()
    gains = torch.randn(*((7,) if per_token else ()), 2, 3, 16, requires_grad=True)
    upstream = torch.randn(2, 2, 3, 7, 16).to(dtype)
    exact_x, exact_gains = (p.detach().double().requires_grad_() for p in (x, gains))
    pair = normalise_and_rotate(x, gains, table)
    exact_pair = normalise_and_rotate(exact_x, exact_gains, table.double())
    assert "NormaliseAndRotate" in pair[0].grad_fn.name()
    assert "NormaliseAndRotate" not in exact_pair[0].grad_fn.name()
    ours, exact = torch.stack(pair), torch.stack(exact_pair)
    ours.backward(upstream)
    exact.backward(upstream.double())
    assert ours.dtype == x.grad.dtype == dtype and gains.grad.dtype == torch.float32
    close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    close(ours.double(), exact)
    close(x.grad.double(), exact_x.grad)
    close(gains.grad.double(), exact_gains.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_both_forms_of_attention_agree(masked, monkeypatch):
    q, k, v = (torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = None
    if masked:
        mask = torch.zeros(2, 1, 1, 7, dtype=torch.float64)
        mask[0, ..., :2] = float("-inf")
    results = []
    for few in (96, 0):
        monkeypatch.setattr(cpu_kernels, "FEW_TOKENS", few)
        out = attend(q, k, v, mask)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_blocks_compile_into_one_graph_each():
    """`backend="eager"` traces as every backend does, and runs the form meant for accelerators."""
    model, compiled = tiny_model(), tiny_model()
    for block in [compiled.double_blocks[0], *compiled.single_blocks]:
        block.compile(backend="eager", fullgraph=True)
    inputs = make_inputs(TINY)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=0, atol=2e-6)
    assert compiled.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("junk", [1e4, float("inf"), float("nan")])
def test_padding_content_never_matters(junk):
    model = tiny_model()
    x_t, t, s, condition = make_inputs(TINY)
    tokens = condition.tokens.masked_fill(~condition.mask[..., None], junk)
    dirty = TextCondition(tokens, condition.mask, condition.pooled)
    with torch.no_grad():
        assert torch.equal(model(x_t, t, s, dirty), model(x_t, t, s, condition))
    model(x_t, t, s, dirty).square().mean().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(x_t, t, s, condition).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_length_never_matters(dtype):
    """Exact in double precision; in single, up to the rounding of differently shaped matmuls."""
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    model = tiny_model().to(dtype)
    x_t, t, s, condition = make_inputs(TINY)
    x_t, condition = x_t.to(dtype), condition.to(dtype)
    longer = TextCondition(
        torch.cat([condition.tokens, torch.randn(3, 4, 20, dtype=dtype)], dim=1),
        torch.cat([condition.mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1),
        condition.pooled,
    )
    with torch.no_grad():
        base = model(x_t, t, s, condition)
        scale = base.abs().max()
        torch.testing.assert_close(
            model(x_t, t, s, longer) / scale, base / scale, rtol=0, atol=atol
        )
        for i in range(3):
            row = slice(i, i + 1)
            alone = longer[row].trimmed()
            assert alone.no_padding
            out = model(x_t[row], t[row], s[row], alone)
            torch.testing.assert_close(out / scale, base[row] / scale, rtol=0, atol=atol)


def test_an_empty_caption_may_have_no_token_at_all():
    model = tiny_model().double()
    x_t, t, s, condition = make_inputs(TINY, batch=2, lengths=(2, 0))
    x_t, condition = x_t.double(), condition.to(torch.float64)
    with torch.no_grad():
        base = model(x_t, t, s, condition)[1:]
        alone = model(x_t[1:], t[1:], s[1:], condition[1:].trimmed())
    torch.testing.assert_close(alone, base, rtol=0, atol=1e-12)


def test_no_padding_is_only_claimed_where_it_is_true():
    _, _, _, condition = make_inputs(TINY)
    assert not condition.no_padding and not condition.trimmed().no_padding
    full = condition[:1].trimmed()
    assert full.no_padding and full.expand(2).no_padding and full.to(torch.float64).no_padding
    short = condition[1:2].trimmed()
    assert join_conditions([full, full]).no_padding
    assert not join_conditions([full, short]).no_padding


def test_s_enters_only_through_the_interval():
    model = tiny_model()
    x_t, t, s, condition = make_inputs(TINY)
    with torch.no_grad():
        base = model(x_t, t, s, condition)
        assert (model(x_t, t, 0.5 * s, condition) - base).abs().max() > 1e-3
        # With t's own embedder silenced, moving t and s together changes nothing.
        model.time_in.linear_2.weight.zero_()
        shifted = model(x_t, t + 0.25, s + 0.25, condition)
        torch.testing.assert_close(shifted, model(x_t, t, s, condition), rtol=0, atol=1e-4)


def test_times_keep_full_precision_in_half_precision_networks():
    model = tiny_model().to(torch.bfloat16)
    x_t, t, s, condition = make_inputs(TINY)
    seen = []
    model.time_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.interval_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    out = model(x_t, t, s, condition)
    assert out.dtype == torch.float32 and out.isfinite().all()
    assert all(features.dtype == torch.float32 for features in seen)
    reference = tiny_model()(x_t, t, s, condition)
    assert (out - reference).norm() < 0.05 * reference.norm()


def test_bf16_autocast_trains():
    model = tiny_model()
    x_t, t, s, condition = make_inputs(TINY)
    reference = model(x_t, t, s, condition)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x_t, t, s, condition)
    out.square().mean().backward()
    assert out.dtype == torch.float32
    assert (out - reference).norm() < 0.05 * reference.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_untrained_network_predicts_zero_and_is_seeded_by_torch_alone():
    torch.manual_seed(3)
    first = DualTimeDenoiser(**TINY)
    torch.manual_seed(3)
    second = DualTimeDenoiser(**TINY)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    x_t, t, s, condition = make_inputs(TINY)
    assert torch.equal(first(x_t, t, s, condition), torch.zeros_like(x_t))


def test_save_and_load_are_bit_equal(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    loaded = DualTimeDenoiser.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    inputs = make_inputs(TINY)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), model(*inputs))


def test_gradients_agree_with_finite_differences():
    model = tiny_model().double()
    x_t, t, s, condition = make_inputs(TINY, batch=2, lengths=(3, 2))
    x_t, condition = x_t.double().requires_grad_(), condition.to(torch.float64)
    torch.autograd.gradcheck(lambda x: model(x, t, s, condition), (x_t,), fast_mode=True)


def test_tables_made_while_sampling_can_be_trained_with():
    rotary_table.cache_clear()
    model = tiny_model()
    inputs = make_inputs(TINY)
    with torch.inference_mode():
        model(*inputs)
    model(*inputs).sum().backward()


def test_bad_inputs_are_named():
    model = tiny_model()
    x_t, t, s, condition = make_inputs(TINY)
    with pytest.raises(ValueError, match="even"):
        model(x_t[..., :3, :], t, s, condition)
    with pytest.raises(ValueError, match=r"x_t must be \(batch, 4"):
        model(x_t[:, :2], t, s, condition)
    with pytest.raises(ValueError, match="t and s"):
        model(x_t, t[:2], s, condition)
    with pytest.raises(ValueError, match="text tokens"):
        model(x_t, t, s, condition[:2])
    wrong = TextCondition(condition.tokens, condition.mask, condition.pooled[:, :5])
    with pytest.raises(ValueError, match="pooled"):
        model(x_t, t, s, wrong)
    with pytest.raises(ValueError, match="add up to attention_head_dim 16"):
        DualTimeDenoiser(**{**TINY, "axes_dims_rope": (4, 4, 4)})
    with pytest.raises(ValueError, match="multiple of 4"):
        DualTimeDenoiser(**{**TINY, "in_channels": 6})


def test_a_forward_pass_asks_once_what_to_compute_with(monkeypatch):
    asked = []
    real = denoiser.kernels_for
    monkeypatch.setattr(denoiser, "kernels_for", lambda *inputs: asked.append(1) or real(*inputs))
    tiny_model()(*make_inputs(TINY))
    assert asked == [1]


def test_plain_operations_give_what_processors_compute(monkeypatch):
    model, inputs = tiny_model(), make_inputs(TINY)
    ours = model(*inputs)
    monkeypatch.setattr(denoiser, "kernels_for", lambda *inputs: PLAIN)
    torch.testing.assert_close(model(*inputs), ours, rtol=1e-5, atol=1e-5)
