"""Every host on its real class at tiny size: the function is kept where the report says so, and the host's own abilities go on."""

import copy
import pickle

import pytest
import torch
from torch import nn

import foveal
from foveal import CrossSampleAttention, DenoisingAttention, ExternalAttention, HaloAttention, SoftmaxAttention, convert, convert_
from foveal.attention import attention_class, list_attentions

SIDE = 32
KEEPING = [
    SoftmaxAttention.Config(),
    DenoisingAttention.Config(),
    DenoisingAttention.Config(shared_values=True),
    CrossSampleAttention.Config(dictionary_size=5),
]


def stirred(model: nn.Module) -> nn.Module:
    """With weights all over, where a library starts some at zero: a head of zeros would hide every difference."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def timm_vit(**options: object) -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 4, "num_classes": 5}
    return timm.models.VisionTransformer(**(sizes | options))


def timm_deit() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.models.deit.VisionTransformerDistilled(img_size=SIDE, patch_size=8, embed_dim=24, depth=2, num_heads=4, num_classes=5)


def torchvision_vit() -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.VisionTransformer(image_size=SIDE, patch_size=8, num_layers=2, num_heads=4, hidden_dim=24, mlp_dim=48, num_classes=5)


def transformers_tower(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": SIDE, "patch_size": 8}
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes))


HOSTS = {
    "timm ViT": timm_vit,
    "timm ViT, normed, registers": lambda: timm_vit(qk_norm=True, scale_attn_norm=True, reg_tokens=3),
    "timm DeiT": timm_deit,
    "torchvision ViT": torchvision_vit,
    "transformers ViT": lambda: transformers_tower("ViT"),
    "transformers DeiT": lambda: transformers_tower("DeiT"),
    "transformers DINOv2": lambda: transformers_tower("Dinov2"),
    "transformers CLIP": lambda: transformers_tower("CLIPVision"),
    "transformers SigLIP": lambda: transformers_tower("SiglipVision"),
}


def run(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    out = model(images)
    return out if isinstance(out, torch.Tensor) else out.last_hidden_state


@pytest.fixture(params=list(HOSTS))
def host(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return stirred(HOSTS[request.param]())


@pytest.mark.parametrize("config", KEEPING, ids=lambda config: config.to_json())
def test_the_function_is_kept(host, config) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    model, report = convert(host, config, warm_start="exact")
    assert [swap.output for swap in report.swaps] == ["identical"] * len(report.swaps)
    torch.testing.assert_close(run(model, images), run(host, images), rtol=1e-5, atol=1e-5)


def test_every_attention_runs_and_learns(host) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    for name in list_attentions(form="tokens"):
        model, report = convert(host, attention_class(name).Config())
        assert len(report.swaps) in (2, 3), name
        run(model, images).square().sum().backward()
        attentions = [module for module in model.modules() if type(module) is attention_class(name)]
        assert len(attentions) == len(report.swaps)
        for module in attentions:
            assert all(p.grad is not None for p in module.parameters()), name


def test_windows_that_cover_the_grid_keep_the_function(host) -> None:
    """4×4 patches in blocks of 2 with a halo of 2; DINOv2 of transformers takes any image, so nobody can promise it there."""
    images = torch.randn(2, 3, SIDE, SIDE)
    covering, report = convert(host, HaloAttention.Config(block_size=2, halo_size=2))
    torch.testing.assert_close(run(covering, images), run(host, images), rtol=1e-4, atol=1e-5)
    assert {swap.output for swap in report.swaps} == {"changed" if "Dinov2" in report.swaps[0].was else "identical"}
    local, report = convert(host, HaloAttention.Config(block_size=2, halo_size=0))
    assert {swap.output for swap in report.swaps} == {"changed"}
    assert (run(local, images) - run(host, images)).abs().max() > 1e-4


def test_warm_start_nearly_keeps_the_function(host) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    want = run(host, images)
    model, report = convert(host, DenoisingAttention.Config())
    assert {swap.output for swap in report.swaps} == {"within warm start"}
    error = (run(model, images) - want).abs().max() / want.abs().max()
    assert 0 < error < 1e-3


def test_reverting_is_exact(host) -> None:
    images, model = torch.randn(2, 3, SIDE, SIDE), copy.deepcopy(host)
    names = list(model.state_dict())
    report = convert_(model, ExternalAttention.Config())
    assert list(model.state_dict()) != names
    assert foveal.revert_(model) == [swap.name for swap in report.swaps]
    assert list(model.state_dict()) == names
    assert torch.equal(run(model, images), run(host, images))


def test_copies_and_pickles_run(host) -> None:
    images = torch.randn(1, 3, SIDE, SIDE)
    model, _ = convert(host, DenoisingAttention.Config())
    want = run(model, images)
    assert torch.equal(run(copy.deepcopy(model), images), want)
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), images), want)


def test_compiles_without_a_graph_break(host) -> None:
    images = torch.randn(1, 3, SIDE, SIDE)
    model, _ = convert(host, DenoisingAttention.Config())
    torch._dynamo.reset()
    # of transformers the tower alone: its outermost forward reads its own configuration
    compiled = torch.compile(model, backend="aot_eager", fullgraph=not hasattr(model, "config"))
    torch.testing.assert_close(run(compiled, images), run(model, images), rtol=1e-4, atol=1e-5)


# -- what hosts can do, and go on doing ---------------------------------------------------------------------------------------------------------


def test_timm_goes_on_with_features_resizing_and_checkpointing() -> None:
    model = stirred(timm_vit(dynamic_img_size=True))
    convert_(model, HaloAttention.Config(block_size=2, halo_size=1), where="blocks.2.attn")
    convert_(model, DenoisingAttention.Config(), where="blocks.0.attn")
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 5)
    _, maps = model.forward_intermediates(torch.randn(1, 3, SIDE, SIDE), indices=2)
    assert [tuple(m.shape) for m in maps] == [(1, 24, 4, 4)] * 2
    images = torch.randn(2, 3, SIDE, SIDE)
    want = torch.autograd.grad(model(images).sum(), model.patch_embed.proj.weight)[0]
    model.train().set_grad_checkpointing(True)
    torch.testing.assert_close(torch.autograd.grad(model(images).sum(), model.patch_embed.proj.weight)[0], want)


@pytest.mark.parametrize("name", ["ViT", "CLIPVision", "Dinov2"])
def test_transformers_still_gives_maps(name) -> None:
    model = stirred(transformers_tower(name))
    model.set_attn_implementation("eager")
    images = torch.randn(2, 3, SIDE, SIDE)
    want = model(images, output_attentions=True).attentions
    assert len(want) == 2
    converted, _ = convert(model, SoftmaxAttention.Config())
    got = converted(images, output_attentions=True).attentions
    assert len(got) == 2
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    denoising, _ = convert(model, DenoisingAttention.Config())
    assert [m.shape for m in denoising(images, output_attentions=True).attentions] == [m.shape for m in want]


def multihead(batch_first: bool = True, **options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return stirred(nn.MultiheadAttention(24, 4, batch_first=batch_first, **options))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", ["nothing", "keys", "pairs", "heads", "floats", "both", "causal"])
def test_multihead_attention_is_called_as_ever(batch_first, masked) -> None:
    """Its masks are True where a key is left out, the opposite of ours."""
    host = nn.ModuleDict({"attention": multihead(batch_first)})
    ours, _ = convert(host, SoftmaxAttention.Config())
    x = torch.randn(2, 7, 24)
    keys, pairs = torch.zeros(2, 7, dtype=torch.bool), torch.rand(7, 7) > 0.7
    keys[0, 5:] = True
    pairs.fill_diagonal_(False)
    options = {
        "nothing": {},
        "keys": {"key_padding_mask": keys},
        "pairs": {"attn_mask": pairs},
        "heads": {"attn_mask": pairs.expand(8, -1, -1)},
        "floats": {"attn_mask": torch.randn(7, 7)},
        "both": {"key_padding_mask": keys, "attn_mask": torch.randn(7, 7)},
        "causal": {"attn_mask": nn.Transformer.generate_square_subsequent_mask(7), "is_causal": True},
    }[masked]
    if masked == "both":
        options["key_padding_mask"] = torch.zeros(2, 7).masked_fill(keys, float("-inf"))
    x = x if batch_first else x.transpose(0, 1)
    for average in (True, False):
        want, want_map = host["attention"](x, x, x, average_attn_weights=average, **options)
        got, got_map = ours["attention"](x, x, x, average_attn_weights=average, **options)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got_map, want_map, rtol=1e-5, atol=1e-5)
    assert ours["attention"](x, x, x, need_weights=False, **options)[1] is None


def test_multihead_attention_over_another_input() -> None:
    host = nn.ModuleDict({"attention": multihead()})
    ours, _ = convert(host, SoftmaxAttention.Config())
    x, context = torch.randn(2, 3, 24), torch.randn(2, 7, 24)
    torch.testing.assert_close(ours["attention"](x, context, context)[0], host["attention"](x, context, context)[0], rtol=1e-5, atol=1e-5)
    other = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours["attention"](x, context, other)[0], host["attention"](x, context, other)[0], rtol=1e-5, atol=1e-5)
    memories, _ = convert(host, ExternalAttention.Config())
    with pytest.raises(ValueError, match="attention is asked for values of other tokens than its keys"):
        memories["attention"](x, x, x.clone())


def test_pytorchs_encoder_layer_does_not_go_around_it() -> None:
    """In evaluation it has a fast path of its own that reads the weights of its attention."""
    host = stirred(nn.TransformerEncoderLayer(24, 4, 48, batch_first=True))
    x = torch.randn(2, 7, 24)
    exact, _ = convert(host, DenoisingAttention.Config(), warm_start="exact")
    other, _ = convert(host, ExternalAttention.Config())
    with torch.no_grad():
        torch.testing.assert_close(exact(x), host(x), rtol=1e-5, atol=1e-5)
        assert (other(x) - host(x)).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"kdim": 8, "vdim": 12}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_multihead_attentions_that_cannot_be_converted_are_refused(options) -> None:
    with pytest.raises(ValueError, match="leave it out of `where`"):
        convert(nn.ModuleDict({"attention": multihead(**options)}), SoftmaxAttention.Config())


def test_text_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=50)
    with pytest.raises(ValueError, match="reads text"):
        convert_(transformers.CLIPTextModel(config), DenoisingAttention.Config())


@pytest.mark.parametrize("host", ["timm ViT", "transformers Dinov2"])
def test_windows_are_not_cut_out_of_another_grid(host) -> None:
    """As many tokens in other rows have the right shape, and nothing would be seen of it; images of 9:16 make as many as a square."""
    model = stirred(timm_vit(dynamic_img_size=True) if host == "timm ViT" else transformers_tower("Dinov2"))
    square, wide = torch.randn(1, 3, 96, 96), torch.randn(1, 3, 72, 128)
    convert_(model, HaloAttention.Config(block_size=4, halo_size=1))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for one in (model, copied):
        one(square)
        with pytest.raises(foveal.InputError, match="expects a square grid of tokens, and this image makes 9×16"):
            one(wide)
    foveal.revert_(model)
    model(wide)


def test_windows_are_not_cut_after_another_input_size() -> None:
    model = stirred(timm_vit(img_size=(32, 64)))
    convert_(model, HaloAttention.Config(block_size=2, halo_size=1))
    model(torch.randn(1, 3, 32, 64))
    model.set_input_size(img_size=(64, 32))
    with pytest.raises(foveal.InputError, match="expects a grid of 4×8 of tokens, and this image makes 8×4"):
        model(torch.randn(1, 3, 64, 32))
