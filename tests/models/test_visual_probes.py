"""Visual probes: the formula by hand, packing, order of frames, starts from a tower, maps and cost. Published weights: tests/official/test_visual_probes.py."""

import math

import pytest
import timm
import torch
from torch import Tensor, nn

import foveal
from foveal.models import VisualProbes
from foveal.models.probes import block_mask, pad
from tests.attention.contract import assert_close

DIM, HEADS = 24, 4
READERS = ["causal", "cross_sample", "denoising", "differential", "efficient", "linear", "softmax"]
PAIRS = ["causal", "cross_sample", "denoising", "differential", "softmax"]


def made(attention: object = "denoising", layers: object = (0, 2), form: str = "residual", **options: object) -> VisualProbes:
    torch.manual_seed(0)
    return VisualProbes(DIM, HEADS, layers, **{"num_probes": 3} | options, attention=attention, form=form).double().eval()


def tower(batch: int = 2, count: int = 7, depth: int = 3) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, count, DIM, dtype=torch.float64) for _ in range(depth)]


def by_hand(probes: VisualProbes, hidden: list[Tensor], frames: Tensor | None = None) -> Tensor:
    """Softmax and denoising probes of each sample, probe and head in loops."""
    out = []
    for sample in range(len(hidden[0])):
        p = probes.probes[0]
        for layer, one, norm in zip(probes.layers, probes.attentions, probes.norms, strict=True):
            h = norm(hidden[layer][sample])
            if frames is not None:
                h = h + probes.time_embed[frames]
            (wq, wk, wv), (bq, bk, bv) = one.qkv.weight.chunk(3), one.qkv.bias.chunk(3)
            new = []
            for query in p:
                heads = []
                for head in range(HEADS):
                    rows = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
                    keys = h @ wk[rows].T + bk[rows]
                    weights = (keys @ (wq[rows] @ query + bq[rows]) / math.sqrt(DIM / HEADS)).softmax(0)
                    got = weights @ (h @ wv[rows].T + bv[rows])
                    if one.name == "denoising":
                        other = (-(keys @ (one.q_neg.weight[rows] @ query + one.q_neg.bias[rows])) / math.sqrt(DIM / HEADS)).softmax(0)
                        got = got - one.lambdas[head] * (other @ (h @ one.v_neg.weight[rows].T + one.v_neg.bias[rows]))
                    heads.append(got)
                new.append(one.proj.weight @ torch.cat(heads) + one.proj.bias)
            p = p + torch.stack(new) if probes.residual else torch.stack(new)
        out.append(p)
    return torch.stack(out)


@pytest.mark.parametrize("attention", ["softmax", "denoising"])
@pytest.mark.parametrize("form", ["residual", "published"])
@pytest.mark.parametrize("count", [3, 8])
def test_the_formula_by_hand(count, form, attention) -> None:
    """Of few probes, and of so many that keys and values of the tokens are made."""
    probes, hidden = made(attention, form=form, num_probes=count), tower()
    for norm in probes.norms:
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
    assert_close(probes(hidden), by_hand(probes, hidden), 1e-12, "probes")


def test_the_formula_with_time_by_hand() -> None:
    probes, hidden, frames = made(time=4, time_std=1.0), tower(), torch.tensor([0, 0, 1, 1, 1, 3, 3])
    assert_close(probes(hidden, frame=frames), by_hand(probes, hidden, frames), 1e-12, "probes")
    assert_close(probes(hidden, frame=frames.expand(2, -1)), by_hand(probes, hidden, frames), 1e-12, "probes")


def test_forms_are_their_three_switches() -> None:
    published, residual = made(form="published"), made()
    assert (published.norm, published.residual, published.probe_std) == (False, False, 0.02)
    assert (residual.norm, residual.residual, residual.probe_std) == (True, True, 1.0)
    assert published.probes.std() < 0.1 < residual.probes.std()
    mixed = made(form="published", norm=True, probe_std=1.0)
    assert (mixed.norm, mixed.residual, mixed.probe_std) == (True, False, 1.0)


@pytest.mark.parametrize("attention", READERS)
def test_every_attention_with_a_context_reads(attention) -> None:
    """A sample padded with noise is the sample alone, and every parameter learns."""
    probes = made(attention, layers=(0, 1)).train()
    short, long = tower(1, 4, 2), tower(1, 7, 2)
    noise = [torch.cat([torch.cat([one, 100 * torch.randn(1, 3, DIM, dtype=torch.float64)], 1), other]) for one, other in zip(short, long, strict=True)]
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    got = probes(noise, mask)
    assert_close(got, torch.cat([probes(short), probes(long)]), 1e-10, "padded")
    got.square().sum().backward()
    for name, parameter in probes.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("attention", PAIRS)
def test_samples_in_one_row_are_samples_side_by_side(attention) -> None:
    probes, counts = made(attention), [2, 5, 1]
    rows = [torch.randn(8, DIM, dtype=torch.float64) for _ in range(3)]
    padded = [pad(row, counts) for row in rows]
    want = probes([layer for layer, _ in padded], padded[0][1])
    assert_close(probes([row[None] for row in rows], block_mask(counts, 3)).unflatten(1, (3, 3))[0], want, 1e-10, "in a row")
    alone = [probes([row.split(counts)[sample][None] for row in rows]) for sample in range(3)]
    assert_close(want, torch.cat(alone), 1e-10, "alone")


def test_attentions_without_pairs_refuse_a_mask_of_pairs() -> None:
    with pytest.raises(ValueError, match="mask"):
        made("efficient")([layer[:1] for layer in tower()], block_mask([3, 4], 3))


@pytest.mark.parametrize("attention", ["softmax", "denoising"])
def test_order_of_frames_is_seen_with_time_alone(attention) -> None:
    hidden, frames = tower(count=6), torch.tensor([0, 0, 1, 1, 2, 2])
    turned = [layer.unflatten(1, (3, 2)).flip(1).flatten(1, 2) for layer in hidden]
    blind, seeing = made(attention), made(attention, time=3, time_std=0.5)
    assert_close(blind(turned), blind(hidden), 1e-12, "reversed")
    assert (seeing(turned, frame=frames) - seeing(hidden, frame=frames)).abs().max() > 1e-2
    still = made(attention, time=3)
    assert not still.time_embed.any(), "begins as without"
    assert_close(still(hidden, frame=frames), blind(hidden), 1e-12, "time at its start")


def test_a_layer_that_is_not_chosen_is_not_read() -> None:
    probes, hidden = made(), tower()
    hidden[1] = hidden[1] * float("nan")
    want = probes(hidden)
    assert want.isfinite().all()
    assert torch.equal(probes({0: hidden[0], 2: hidden[2]}), want)
    one = probes.begin(2)
    for index, layer in enumerate(hidden):
        before, one = one, probes.read(index, one, layer)
        assert (one is before) == (index == 1)
    assert torch.equal(one, want)


def test_published_probes_become_one_vector_and_ours_do_not() -> None:
    """The fault that the form is there for: nearly equal queries get nearly equal outputs."""
    hidden = tower(2, 30, 4)
    alike = {form: VisualProbes.similarity(made(form=form, layers=range(4), num_probes=16)(hidden)).item() for form in ("published", "residual")}
    assert alike["published"] > 0.999
    assert alike["residual"] < 0.5


def test_similarity_is_the_mean_cosine_of_pairs() -> None:
    x = torch.randn(3, 4, DIM)
    cosines = [torch.cosine_similarity(s[i], s[j], dim=0) for s in x for i in range(4) for j in range(4) if i != j]
    assert_close(VisualProbes.similarity(x), torch.stack(cosines).mean(), 1e-5, "similarity")
    assert VisualProbes.similarity(x[:, :1].expand(-1, 4, -1).bfloat16()).item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        VisualProbes.similarity(x[:, :1])


# -- starts -----------------------------------------------------------------------------------------------------------------------------------------


def host() -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model("test_vit", embed_dim=DIM, num_heads=HEADS, depth=3, num_classes=0).double()


def start(probes: VisualProbes, model: nn.Module, **options: object) -> dict:
    return probes.start_from([block.attn for block in model.blocks], norms=[block.norm1 for block in model.blocks] if probes.norm else None, **options)


def test_each_module_starts_from_the_layer_that_it_reads() -> None:
    model, probes = host(), made("softmax", norm_eps=1e-6)
    for block in model.blocks:
        nn.init.normal_(block.norm1.weight)
    report = start(probes, model)
    assert list(report) == [0, 2]
    for at, layer, normed in ((0, 0, 1), (1, 2, 2)):
        ours, theirs = probes.attentions[at], model.blocks[layer].attn
        assert torch.equal(ours.qkv.weight, theirs.qkv.weight)
        assert torch.equal(ours.proj.bias, theirs.proj.bias)
        assert torch.equal(probes.norms[at].weight, model.blocks[normed].norm1.weight), "tokens behind a layer are what the next one's norm was made for"
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.zero_()
    assert probes.attentions[0].qkv.weight.any(), "nothing is shared"
    assert all(parameter.requires_grad for parameter in probes.parameters())


def test_denoising_probes_start_as_plain_ones() -> None:
    model, hidden = host(), tower()
    plain, exact, near = made("softmax"), made(), made()
    start(plain, model)
    start(exact, model, alpha=0.0)
    start(near, model)
    with torch.no_grad():
        for probes in (exact, near):
            probes.probes.copy_(plain.probes)
    assert torch.equal(exact(hidden), plain(hidden))
    assert 0 < (near(hidden) - plain(hidden)).abs().max() < 1e-2
    q = model.blocks[2].attn.qkv.weight[:DIM]
    assert_close(near.attentions[1].q_neg.weight, 1e-4 * q, 1e-12, "negative queries")


def test_wider_heads_start_from_the_tower_too() -> None:
    model, hidden = host(), tower()
    plain, wide = made("softmax"), made({"attention": "softmax", "attn_head_dim": 9})
    start(plain, model)
    start(wide, model)
    with torch.no_grad():
        wide.probes.copy_(plain.probes)
    assert_close(wide(hidden), plain(hidden), 1e-10, "probes")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: model.blocks.__delitem__(2), "2 attentions were given"),
        (lambda model: setattr(model.blocks[2], "attn", nn.Linear(3, 3)), "conversion does not know"),
        (lambda model: setattr(model.blocks[2], "attn", type(model.blocks[2].attn)(DIM, 2, qkv_bias=True).double()), "layer 2 .*2 heads, wanted 4"),
        (lambda model: setattr(model.blocks[2], "attn", type(model.blocks[2].attn)(DIM, HEADS).double()), "layer 2 .*missing qkv.bias"),
        (
            lambda model: setattr(
                model.blocks[2], "attn", type(model.blocks[2].attn)(DIM, HEADS, qkv_bias=True, qk_norm=True, norm_layer=nn.LayerNorm).double()
            ),
            "layer 2 .*left over q_norm",
        ),
        (lambda model: setattr(model.blocks[2], "norm1", nn.LayerNorm(DIM, eps=1e-5)), "norm_eps=1e-05"),
        (lambda model: setattr(model.blocks[2], "norm1", nn.RMSNorm(DIM)), "LayerNorm"),
        (lambda model: model.to("meta"), "meta device"),
    ],
)
def test_a_tower_that_does_not_fit_leaves_the_probes_as_they_were(change, says) -> None:
    model, probes = host(), made()
    before = {name: value.clone() for name, value in probes.state_dict().items()}
    change(model)
    with pytest.raises(ValueError, match=says):
        start(probes, model)
    assert all(torch.equal(value, before[name]) for name, value in probes.state_dict().items())


def test_norms_for_probes_without_any_are_refused() -> None:
    model = host()
    with pytest.raises(ValueError, match="norm=True"):
        made(form="published").start_from([block.attn for block in model.blocks], norms=[block.norm1 for block in model.blocks])
    with pytest.raises(ValueError, match="no effect for softmax"):
        start(made("softmax"), model, alpha=0.5)


def test_start_from_videollama3() -> None:
    """Its queries and keys are turned by positions, which probes have not: said."""
    pytest.importorskip("transformers")
    from transformers.models.video_llama_3 import VideoLlama3VisionConfig, VideoLlama3VisionModel

    config = VideoLlama3VisionConfig(hidden_size=DIM, intermediate_size=24, num_hidden_layers=3, num_attention_heads=HEADS, patch_size=2)
    layers = VideoLlama3VisionModel(config).double().encoder.layers
    probes = made("denoising")
    report = probes.start_from([layer.self_attn for layer in layers], norms=[layer.layer_norm1 for layer in layers])
    want = torch.cat([getattr(layers[2].self_attn, name).weight for name in ("q_proj", "k_proj", "v_proj")])
    assert torch.equal(probes.attentions[1].qkv.weight, want)
    assert report[2].dropped == ["rotary positions"]
    assert report[2].new == ["lambdas"]


# -- maps, cost, precision ----------------------------------------------------------------------------------------------------------------------------


def test_maps_are_those_that_probes_were_read_with() -> None:
    probes, hidden = made(), tower()
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    maps = probes.attention_map(hidden, mask)
    assert list(maps) == [0, 2]
    p = probes.begin(2)
    for at, layer in enumerate(maps):
        got, one, h = maps[layer], probes.attentions[at], probes.norms[at](hidden[layer])
        assert got["combined"].shape == (2, HEADS, 3, 7)
        assert not got["positive"][0, ..., 4:].any()
        v = (h @ one.qkv.weight[2 * DIM :].T + one.qkv.bias[2 * DIM :]).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        v_neg = (h @ one.v_neg.weight.T + one.v_neg.bias).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        out = got["positive"] @ v - one.lambdas.view(-1, 1, 1) * (got["negative"] @ v_neg)
        p = p + out.transpose(1, 2).flatten(2) @ one.proj.weight.T + one.proj.bias
    assert_close(p, probes(hidden, mask), 1e-12, "probes out of maps")
    seen = foveal.attention_maps(probes, {"hidden": hidden, "mask": mask})
    # without gradients the fused kernel sums in another order
    assert_close(seen["attentions.1"]["combined"], maps[2]["combined"], 1e-12, "maps of all attentions")


def test_cost_is_counted() -> None:
    n, c, p, h = 50, DIM, 3, HEADS
    plain, denoising = made("softmax").cost(n), made().cost(n)
    assert plain.macs == 2 * (2 * h * p * n * c + 4 * p * c * c), "two products with the tokens themselves; queries, keys and values folded, output of probes"
    assert denoising.macs == 2 * (4 * h * p * n * c + 7 * p * c * c)
    many = 8
    assert many * h > c, "keys and values of tokens are less"
    assert made("softmax", num_probes=many).cost(n).macs == 2 * (2 * n * c * c + 2 * many * c * c + 2 * many * n * c)
    assert made(num_probes=many).cost(n).macs == 2 * (3 * n * c * c + 3 * many * c * c + 4 * many * n * c)
    assert plain.parameters == sum(value.numel() for value in made("softmax").parameters())


@pytest.mark.parametrize(("attention", "share"), [("softmax", 0.0383), ("denoising", 0.0753)])
def test_share_of_the_published_tower(attention, share) -> None:
    """27 layers of width 1152, 1,024 tokens: one layer of VideoLLaMA 3's tower, counted, and what probes read of it. With keys and values of all tokens it
    would be 15.5 and 23.4 %."""
    pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode
    from transformers.models.video_llama_3 import VideoLlama3VisionConfig
    from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3VisionEncoderLayer

    config = VideoLlama3VisionConfig(hidden_size=1152, intermediate_size=4304, num_attention_heads=16, num_hidden_layers=27, attn_implementation="sdpa")
    layer = VideoLlama3VisionEncoderLayer(config).to("meta").requires_grad_(False)
    turned = torch.empty(1024, 72, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.empty(1024, 1152, device="meta"), torch.tensor([0, 1024]), (turned, turned))
    tower = 27 * counter.get_total_flops() // 2
    probes = VisualProbes(1152, 16, range(27), attention=attention, device="meta")
    assert probes.cost(1024).macs / tower == pytest.approx(share, abs=0.0006)


def test_autocast_and_half() -> None:
    probes, hidden = made(time=7).float(), [layer.float() for layer in tower()]
    want = probes(hidden, frame=torch.arange(7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = probes([layer.bfloat16() for layer in hidden], frame=torch.arange(7))
    assert_close(got.float(), want, 3e-2, "autocast")
    half = probes.bfloat16()([layer.bfloat16() for layer in hidden], frame=torch.arange(7))
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), want, 5e-2, "bfloat16")


def test_compiles_whole() -> None:
    probes, hidden = made(time=7).float(), [layer.float() for layer in tower()]
    mask, frame = torch.arange(7) < torch.tensor([[4], [7]]), torch.arange(7)
    torch._dynamo.reset()
    compiled = torch.compile(probes, fullgraph=True, backend="aot_eager")
    assert_close(compiled(hidden, mask, frame), probes(hidden, mask, frame), 1e-5, "compiled")


def test_probes_and_times_do_not_decay() -> None:
    probes = made(time=2)
    spared = {id(p) for p in foveal.param_groups(probes)[0]["params"]}
    assert {id(probes.probes), id(probes.time_embed), id(probes.attentions[0].lambdas)} <= spared
    assert id(probes.attentions[0].qkv.weight) not in spared


# -- bad input --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attention": "external"}, "external attention reads its own input alone; .* causal, cross_sample, denoising"),
        ({"attention": "halo"}, "reads its own input"),
        ({"attention": "linear_2d"}, "reads its own input"),
        ({"attention": {"attention": "denoising", "core": "halo"}}, "grid"),
        ({"attention": "denosing"}, "did you mean denoising"),
        ({"form": "publshed"}, "did you mean published"),
        ({"layers": []}, "at least one"),
        ({"layers": [2, 0]}, "rising order"),
        ({"layers": [0, 0]}, "rising order"),
        ({"layers": [-1]}, "from 0"),
        ({"layers": [3], "depth": 3}, "layers 0 to 2, got 3"),
        ({"num_probes": 0}, "num_probes"),
        ({"time": 0}, "at least 1"),
        ({"time_std": 0.5}, "no effect without time"),
        ({"num_heads": 5}, "try num_heads"),
    ],
)
def test_bad_options_are_explained(options, says) -> None:
    with pytest.raises(ValueError, match=says):
        VisualProbes(**{"dim": DIM, "num_heads": HEADS, "layers": [0]} | options)


@pytest.mark.parametrize(
    ("options", "given", "says"),
    [
        ({}, lambda h: (h[:2],), r"at least 3 layers, got 2; .*hidden_states\[1:\]"),
        ({"depth": 3}, lambda h: ([h[0], *h],), r"3 layers, got 4; .*hidden_states\[1:\]"),
        ({"layers": range(3)}, lambda h: ([h[0], *h],), r"cannot be told; .*hidden_states\[1:\]"),
        ({}, lambda h: (h[0],), "got one tensor"),
        ({}, lambda h: ({0: h[0], 1: h[1]},), r"read layer 2, and tokens of \[0, 1\]"),
        ({}, lambda h: ([one[..., 1:] for one in h],), "C=24"),
        ({}, lambda h: ([one[:, :0] for one in h],), "without frames"),
        ({}, lambda h: ([h[0], h[1], h[2][:1]],), "B=2"),
        ({}, lambda h: (h, torch.ones(2, 6, dtype=torch.bool)), r"bool mask \(B, N\) = \(2, 7\)"),
        ({}, lambda h: (h, torch.ones(2, 7)), "bool mask"),
        ({}, lambda h: (h, torch.ones(2, 4, 7, dtype=torch.bool)), "multiple of 3"),
        ({}, lambda h: (h, None, torch.arange(7)), "blind to time"),
        ({"time": 7}, lambda h: (h,), "frame was not given"),
        ({"time": 6}, lambda h: (h, None, torch.arange(7)), "from 0 to 6, and the probes know 0 to 5"),
        ({"time": 7}, lambda h: (h, None, torch.arange(7) - 1), "from -1"),
        ({"time": 7}, lambda h: (h, None, torch.arange(7.0)), "whole numbers"),
        ({"time": 7}, lambda h: (h, None, torch.arange(6)), r"\(2, 7\)"),
        ({}, lambda h: ([one.float() for one in h],), "dtype"),
    ],
)
def test_bad_input_is_explained(options, given, says) -> None:
    probes = made(**options)
    for call in (probes, probes.attention_map):
        with pytest.raises(ValueError, match=says):
            call(*given(tower()))


@pytest.mark.parametrize(("counts", "says"), [([3, 0], "sample 1 has 0 tokens.*without frames"), ([], "at least one sample"), ([3, 3], "6 tokens in a row")])
def test_bad_lengths_are_explained(counts, says) -> None:
    with pytest.raises(ValueError, match=says):
        pad(torch.randn(7, DIM), counts)
