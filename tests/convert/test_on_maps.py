"""timm's halo attention becomes ours on maps: the same weights, the same function, at all sizes that timm itself takes."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal import ExternalAttention2d, HaloAttention2d, InputError, SoftmaxAttention, calibrate_, convert, convert_, load_delta, revert_, save_delta
from foveal.analysis import attention_maps
from tests.convert.kept import One
from tests.convert.test_hosts import stirred, timm_vit

pytestmark = pytest.mark.filterwarnings("ignore")

TIMM: dict[str, Any] = {"mask_border": False, "strided_offsets": False}
HALO: dict[str, dict[str, Any]] = {
    "plain": {"num_heads": 2, "block_size": 4, "halo_size": 1},
    "half": {"num_heads": 2, "block_size": 4, "halo_size": 2, "stride": 2, "scale_pos_embed": True},
    "half, pooled": {"num_heads": 4, "block_size": 4, "halo_size": 1, "stride": 2, "avg_down": True, "qkv_bias": True},
    "half, odd blocks": {"dim_out": 24, "num_heads": 2, "block_size": 3, "halo_size": 2, "stride": 2, "dim_head": 8},
    "narrow queries": {"dim_out": 32, "num_heads": 2, "block_size": 2, "halo_size": 3, "qk_ratio": 0.5, "qkv_bias": True},
    "wide queries, no halo": {"dim_out": 8, "num_heads": 2, "block_size": 4, "halo_size": 0, "dim_head": 16},
}


def halo(name: str = "plain", **options: Any) -> nn.Module:
    layers = pytest.importorskip("timm.layers.halo_attn")
    torch.manual_seed(0)
    return stirred(One(layers.HaloAttn(16, **(HALO[name] | options)), "map"))


def bottleneck(**options: Any) -> nn.Module:
    layers = pytest.importorskip("timm.layers.bottleneck_attn")
    torch.manual_seed(0)
    return stirred(One(layers.BottleneckAttn(16, **({"dim_out": 24, "feat_size": (6, 6), "num_heads": 2, "dim_head": 8} | options)), "map"))


def config(model: nn.Module, **options: Any) -> HaloAttention2d.Config:
    attn: Any = model.attn
    return HaloAttention2d.Config(block_size=attn.block_size, halo_size=attn.halo_size, **(TIMM | options))


def images(rows: int, columns: int, seed: int = 5) -> Tensor:
    """Of which the stem makes maps of so many pixels."""
    return torch.randn(2, 3, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("name", list(HALO))
def test_the_function_is_timms_and_so_is_the_way_back(name, tight) -> None:
    """At one block, at several, and where the map is no square; odd sides halved by pooling too."""
    model = halo(name)
    host, state, block = copy.deepcopy(model), {key: value.clone() for key, value in model.state_dict().items()}, model.attn.block_size
    report = convert_(model, config(model, tight_tables=tight))
    (swap,) = report.swaps
    assert (swap.name, swap.output, swap.new, swap.dropped) == ("attn", "identical", [], [])
    assert isinstance(model.attn, HaloAttention2d)
    assert sorted([*swap.kept, *swap.derived]) == sorted(key for key, _ in host.attn.named_parameters())
    if not tight:
        assert list(model.state_dict()) == list(state), "names are timm's"
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for rows, columns in ((1, 1), (2, 3), (4, 1)):
        x = images(rows * block, columns * block)
        want = host(x)
        torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
        maps = model.attn.attention_map(model.stem(x))["combined"]
        assert maps.shape == (2, host.attn.num_heads, want[0, 0].numel(), rows * columns * block**2)
    model.double()
    torch.testing.assert_close(model(x.double()), copy.deepcopy(host).double()(x.double()), rtol=1e-10, atol=1e-10)
    model.float()
    revert_(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(x), want)


def test_gradients_are_timms_and_what_is_trained_goes_back() -> None:
    model = halo("half")
    host, x = copy.deepcopy(model), images(4, 8)
    convert_(model, config(model, tight_tables=True))
    for one in (host, model):
        one(x).square().sum().backward()
    for name in ("q.weight", "kv.weight", "pos_embed.height_rel", "pos_embed.width_rel"):
        want, got = host.attn.get_parameter(name).grad, model.attn.get_parameter(name).grad
        torch.testing.assert_close(got, want[-len(got) :], rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        assert not want[: len(want) - len(got)].any(), "rows that are never read"
    for one in (host, model):
        torch.optim.SGD(one.parameters(), lr=1e-3).step()
    revert_(model)
    assert torch.allclose(model.attn.pos_embed.height_rel, host.attn.pos_embed.height_rel, atol=1e-6)
    torch.testing.assert_close(model(x), host(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "scale_pos_embed": True}, {"dim_head": 16, "qkv_bias": True}], ids=["plain", "half", "wide queries"])
def test_bottleneck_attention_is_halo_attention_of_one_block(options) -> None:
    model = bottleneck(**options)
    host, state, x = copy.deepcopy(model), {key: value.clone() for key, value in model.state_dict().items()}, images(6, 6)
    report = convert_(model, HaloAttention2d.Config(block_size=6, halo_size=0))
    assert report.swaps[0].output == "identical"
    torch.testing.assert_close(model(x), host(x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        model.attn.kv.weight.mul_(2)
    with pytest.raises(InputError, match="attn has positions of maps of 6 × 6, got maps of 6 × 12"):
        model(images(6, 12))
    revert_(model)
    rows = host.attn.dim_out_qk
    assert torch.equal(model.attn.qkv.weight[:rows], state["attn.qkv.weight"][:rows])
    assert torch.equal(model.attn.qkv.weight[rows:], 2 * state["attn.qkv.weight"][rows:])


def test_other_sizes_and_other_geometries() -> None:
    """Border and offsets of the paper are another function, and said; a map that blocks do not tile is refused where timm's zeros would count."""
    model = halo("half")
    host = copy.deepcopy(model)
    masked, report = convert(model, config(model, mask_border=True))
    assert report.swaps[0].output == "changed"
    assert "mask_border=False keeps that" in report.table()
    assert masked(images(5, 7)).shape == (2, 16, 3, 4)
    # far from the border nothing is changed: the inner block of three by three
    inner = (slice(None), slice(None), slice(2, 4), slice(2, 4))
    torch.testing.assert_close(masked(images(12, 12))[inner], host(images(12, 12))[inner], rtol=1e-4, atol=1e-5)
    counted, report = convert(model, config(model, strided_offsets=True))
    assert report.swaps[0].output == "changed"
    assert "strided_offsets=False keeps that" in report.table()
    assert not torch.allclose(counted(images(8, 8)), host(images(8, 8)), atol=1e-3)
    _, report = convert(halo("wide queries, no halo"), HaloAttention2d.Config(block_size=4, halo_size=0))
    assert report.swaps[0].output == "identical", "no window reaches beyond the map"
    convert_(model, config(model))
    with pytest.raises(InputError, match="attn expected maps of sides that blocks of 4 divide, as timm's own, got 8 × 6"):
        model(images(8, 6))


def test_what_does_not_fit_is_refused_before_anything_is_changed() -> None:
    model = halo()
    kind = type(model.attn)
    refused = {
        "halo_size=3 and not 1: give HaloAttention2d.Config.block_size=4, halo_size=1, mask_border=False, strided_offsets=False": {"halo_size": 3},
        "block_size=8 and not 4": {"block_size": 8},
        "dim_head=4 and not 8": {"dim_head": 4},
        "value_ratio=2.0 and not 1.0": {"value_ratio": 2.0},
        "out_proj=True and not False": {"out_proj": True},
        "scale_pos_embed=True and not False": {"scale_pos_embed": True},
    }
    for told, options in refused.items():
        for where in ("*", "attn"):
            with pytest.raises(InputError, match=told):
                convert_(model, replace(config(model), **options), where)
    with pytest.raises(InputError, match="warm_start='exact' has no effect"):
        convert_(model, config(model), warm_start="exact")
    with pytest.raises(InputError, match="external_2d attention takes maps"):
        convert_(model, ExternalAttention2d.Config())
    with pytest.raises(InputError, match=r"takes maps, and these places give tokens; foveal\.insert_"):
        convert_(timm_vit(), HaloAttention2d.Config())
    with pytest.raises(InputError, match="positions of maps of 4 × 8, and blocks here are squares"):
        convert_(bottleneck(feat_size=(4, 8)), HaloAttention2d.Config(block_size=4, halo_size=0))
    parametrized = halo()
    torch.nn.utils.parametrizations.weight_norm(parametrized.attn.pos_embed, "height_rel")
    with pytest.raises(InputError, match="a parametrization of height_rel"):
        convert_(parametrized, config(model), "attn")
    assert type(model.attn) is kind


def test_maps_and_tokens_side_by_side() -> None:
    """A place of tokens is left, and said; or has a configuration of its own."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = halo(), nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.first(x).flatten(2).mT
            return self.second(tokens, tokens, tokens)[0]

    torch.manual_seed(0)
    model, x = Both().eval(), images(8, 4)
    want = model(x)
    one, report = convert(model, config(model.first))
    assert [swap.name for swap in report.swaps] == ["first.attn"]
    assert "takes the place of BottleneckAttn and HaloAttn alone" in next(left.reason for left in report.left if left.name == "second")
    torch.testing.assert_close(one(x), want, rtol=1e-5, atol=1e-5)
    convert_(model, {"first.*": config(model.first), "second": SoftmaxAttention.Config()})
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)


def test_it_is_kept_copied_and_compiled(tmp_path) -> None:
    model, x = halo("half"), images(8, 4)
    convert_(model, config(model))
    with torch.no_grad():
        model.attn.pos_embed.width_rel.mul_(2)
    want = model(x)
    save_delta(model, tmp_path / "delta.safetensors")
    other = halo("half")
    load_delta(other, tmp_path / "delta.safetensors")
    for one in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(one(x), want)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), want, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"attn was converted to .*halo_2d"):
        convert_(model, SoftmaxAttention.Config())


def test_hooks_and_frozen_layers_go_on_and_ours_is_looked_at() -> None:
    model, x, seen = halo(), images(12, 12), []
    model.attn.q.register_forward_hook(lambda *of: seen.append("q"))
    model.attn.register_forward_hook(lambda *of: seen.append("attn"))
    model.attn.kv.requires_grad_(False)
    convert_(model, config(model))
    maps = attention_maps(model, x)
    torch.testing.assert_close(maps["attn"]["combined"].sum(-1).amax(), torch.tensor(1.0), msg="the inner blocks of pixels see no border")
    seen.clear()
    model(x)
    assert seen == ["q", "attn"]
    assert not model.attn.kv.weight.requires_grad


def test_a_masked_border_is_calibrated() -> None:
    model = halo()
    report = convert_(model, config(model, mask_border=True))
    fits = calibrate_(model, report, [images(4, 4, seed) for seed in range(4)], steps=20, progress=False)
    assert fits.layers[0].after < fits.layers[0].before


def network(name: str, share: int) -> nn.Module:
    """A network of timm's at a share of its width."""
    byoanet = pytest.importorskip("timm.models.byoanet")
    from timm.models.byobnet import ByobNet

    def narrow(block: Any) -> Any:
        return tuple(map(narrow, block)) if isinstance(block, (tuple, list)) else replace(block, c=block.c // share)

    settings = byoanet.model_cfgs[name]
    torch.manual_seed(0)
    return stirred(ByobNet(replace(settings, blocks=tuple(map(narrow, settings.blocks))), num_classes=5, img_size=256))


WHOLE = {"halonet26t": 3, "eca_halonext26ts": 3, "halo2botnet50ts": 5, "lamhalobotnet50ts": 3, "haloregnetz_b": 5}
"""Networks, and how many of their attentions have a halo."""


@pytest.mark.parametrize("name", [name if name == "halonet26t" else pytest.param(name, marks=pytest.mark.slow) for name in WHOLE])
def test_whole_networks_of_timm(name) -> None:
    model = network(name, 8 if name == "halonet26t" else 1)
    first = next(module for module in model.modules() if type(module).__name__ == "HaloAttn")
    side = 224 if first.block_size == 7 else 256
    x = torch.randn(1, 3, side, side)
    want, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    report = convert_(model, config(One(first, "map"), tight_tables=True))
    halos = [swap for swap in report.swaps if swap.was.endswith("HaloAttn")]
    assert len(halos) == len(report.swaps) == WHOLE[name]
    assert {swap.output for swap in halos} == {"identical"}
    assert not any(type(module).__name__ == "HaloAttn" for module in model.modules())
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    revert_(model)
    assert torch.equal(model(x), want)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
