"""diffusers' own models, tiny: what tokens of an image compute among themselves is kept to the last bit, and the rest is refused or left with a reason."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import foveal
from foveal import DenoisingAttention, EfficientAttention, ExternalAttention, SoftmaxAttention, convert_
from tests.sweep import of_others, seen
from tests.sweep.measure import stirred

pytest.importorskip("diffusers", reason="diffusers is not installed; pip install 'foveal[diffusers]'")

MODELS = {"DiT": (of_others._diffusers_dit, 2), "UNet": (of_others._diffusers_unet, 4), "autoencoder": (of_others._diffusers_vae, 2)}


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Any, int]:
    build, places = MODELS[request.param]
    model, inputs = build()
    return stirred(model), inputs, places


@pytest.mark.parametrize("config", [SoftmaxAttention.Config(), DenoisingAttention.Config()], ids=lambda config: config.attention)
def test_the_function_is_kept_to_the_last_bit(case, config) -> None:
    model, inputs, places = case
    want, state = seen.run(model, inputs), copy.deepcopy(model.state_dict())
    report = convert_(model, config, warm_start="exact")
    assert [swap.output for swap in report.swaps] == ["identical"] * places
    assert not report.left
    for got, other in zip(seen.run(model, inputs), want, strict=True):
        torch.testing.assert_close(got, other, rtol=0, atol=0)
    foveal.revert_(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for got, other in zip(seen.run(model, inputs), want, strict=True):
        torch.testing.assert_close(got, other, rtol=0, atol=0)


@pytest.mark.parametrize("config", [ExternalAttention.Config(), EfficientAttention.Config()], ids=lambda config: config.attention)
def test_others_run_and_learn(case, config) -> None:
    model, inputs, places = case
    report = convert_(model, config)
    assert len(report.swaps) == places
    sum(value.square().mean() for value in seen.flat(seen._call(model, inputs))).backward()
    ours = [module for module in model.modules() if type(module) is type(config).module]
    assert len(ours) == places
    assert all(value.grad is not None for module in ours for value in module.parameters())


def test_cross_attention_is_left_and_refused_by_name() -> None:
    model, inputs = of_others._diffusers_conditional()
    want = seen.run(stirred(model), inputs)
    report = convert_(model, SoftmaxAttention.Config())
    assert {swap.name.rpartition(".")[2] for swap in report.swaps} == {"attn1"}
    assert {one.name.rpartition(".")[2] for one in report.left} == {"attn2"}
    torch.testing.assert_close(seen.run(model, inputs), want, rtol=0, atol=0)
    foveal.revert_(model)
    with pytest.raises(foveal.InputError, match="its queries are other tokens than its keys"):
        convert_(model, SoftmaxAttention.Config(), where="*.attn2")


def test_masks_count_as_before() -> None:
    model, inputs = of_others._diffusers_conditional()
    stirred(model)
    # a mask for the tokens of every size that attends here: 64
    inputs["attention_mask"] = torch.ones(2, 64)
    inputs["attention_mask"][0, 40:] = 0
    want = seen.run(model, inputs)
    convert_(model, SoftmaxAttention.Config())
    got = seen.run(model, inputs)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert (got[0] - seen.run(model, inputs | {"attention_mask": None})[0]).abs().max() > 1e-4


class _Inside(nn.Module):
    def __init__(self, **options: Any) -> None:
        from diffusers.models.attention_processor import Attention

        super().__init__()
        self.attn = Attention(**({"query_dim": 16, "heads": 2, "dim_head": 8} | options))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"added_kv_proj_dim": 16}, "added_kv_proj_dim"),
        ({"added_kv_proj_dim": 16, "only_cross_attention": True}, "added_kv_proj_dim"),
        ({"query_dim": 32, "spatial_norm_dim": 16, "norm_num_groups": 8}, "spatial_norm"),
        ({"is_causal": True}, "causal"),
        ({"scale_qk": False}, "scale_qk"),
        ({"kv_heads": 1}, "share one of keys"),
        ({"pre_only": True}, "no output map"),
        ({"cross_attention_dim": 16}, "its queries are other tokens than its keys"),
        ({"out_dim": 32}, "width of its tokens"),
        ({"qk_norm": "rms_norm_across_heads", "kv_heads": 2}, "all heads together"),
    ],
)
def test_what_cannot_be_kept_is_refused(options, reason) -> None:
    model = _Inside(**options)
    with pytest.raises(foveal.InputError, match=reason):
        convert_(model, SoftmaxAttention.Config(), where="attn")


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "l2"])
def test_norms_residual_factor_and_another_width_inside(norm) -> None:
    model = _Inside(heads=3, qk_norm=norm, residual_connection=True, rescale_output_factor=1.7, norm_num_groups=4, bias=True)
    stirred(model)
    for x in (torch.randn(2, 16, 4, 6), torch.randn(2, 24, 16)):
        want = seen.run(model, x)
        convert_(model, SoftmaxAttention.Config())
        torch.testing.assert_close(seen.run(model, x), want, rtol=1e-5, atol=1e-6)
        foveal.revert_(model)


def test_processors_of_others_are_refused_before_and_after() -> None:
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    class Other(AttnProcessor2_0):
        pass

    model, inputs = of_others._diffusers_conditional()
    model.set_attn_processor(Other())
    with pytest.raises(foveal.InputError, match="Other"):
        convert_(model, SoftmaxAttention.Config())
    model.set_attn_processor(AttnProcessor())
    want = seen.run(stirred(model), inputs)
    convert_(model, SoftmaxAttention.Config())
    torch.testing.assert_close(seen.run(model, inputs), want, rtol=1e-5, atol=1e-5)
    with pytest.raises(foveal.InputError, match=r"attn.* was converted to softmax attention, which calls no processor \(AttnProcessor\)"):
        model.set_attn_processor(AttnProcessor())
    # what it says itself may be said again
    model.set_attn_processor(model.attn_processors)


def test_a_delta_is_saved_and_loaded(tmp_path) -> None:
    model, inputs = of_others._diffusers_dit()
    other = copy.deepcopy(stirred(model))
    convert_(model, DenoisingAttention.Config())
    foveal.save_delta(model, tmp_path / "delta.safetensors")
    foveal.load_delta(other, tmp_path / "delta.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(seen.run(other, inputs), seen.run(model, inputs), strict=True))


def test_a_pipeline_runs(tmp_path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    model, _ = of_others._diffusers_unet()
    pipeline = DDPMPipeline(model, DDPMScheduler(num_train_timesteps=10))
    pipeline.set_progress_bar_config(disable=True)

    def images() -> torch.Tensor:
        return torch.as_tensor(pipeline(batch_size=1, generator=torch.Generator().manual_seed(0), num_inference_steps=2, output_type="np").images)

    want = images()
    convert_(pipeline.unet, SoftmaxAttention.Config())
    torch.testing.assert_close(images(), want, rtol=1e-5, atol=1e-5)
