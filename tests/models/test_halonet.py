"""HaloNet: the published counts and multiply-adds, timm's hybrids with their own weights, any image, and mixes of attention and convolution."""

import pytest
import timm
import torch
from timm.layers.halo_attn import HaloAttn
from timm.models.byobnet import BottleneckBlock
from timm.optim import create_optimizer_v2
from torch import nn

from foveal import HaloAttention2d, InputError
from foveal.analysis import cost
from foveal.models import HALONETS, HaloNetSize, build_halonet, build_timm_halonet
from foveal.models.halonet import HaloBlock

from ..attention.contract import assert_close
from .timm_contract import TimmContract

FAMILY = [name for name in HALONETS if name != "test"]
# millions of parameters and billions of multiply-adds at the sizes of the table, H7's with blocks that do not overhang
PRINTED = {
    "h0": ("5.502", 2.35),
    "h1": ("8.101", 2.99),
    "h2": ("9.406", 3.31),
    "h3": ("11.843", 6.18),
    "h4": ("19.103", 12.0),
    "h5": ("30.719", 32.3),
    "h6": ("43.458", 52.8),
    "h7": ("67.435", 106.8),
}
HYBRIDS = {"halonet26t": 12_480_288, "halonet50ts": 22_733_280, "sehalonet33ts": 13_691_712, "eca_halonext26ts": 10_756_885}


class TestHaloNet(TimmContract):
    name = "test_fov_halonet"
    shape = (3, 64, 64)


class TestTimmsHaloNet(TimmContract):
    name = "test_fov_halonet26t"
    shape = (3, 64, 64)
    traces = False


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def blocks_of(size: HaloNetSize):
    """Stage, channels in, width, channels out, stride and heads of every block."""
    cin = size.width
    for stage, (depth, heads) in enumerate(zip(size.depths, size.num_heads, strict=True), 1):
        width = size.width * 2 ** (stage - 1)
        for block in range(depth):
            out = round(size.r_b * width)
            yield stage, cin, width, out, 2 if stage > 1 and block == 0 else 1, heads
            cin = out


def parameters_by_hand(size: HaloNetSize, attention_stages=(1, 2, 3, 4), tight: bool = False) -> int:
    stem, last, classes = 3 * 49 * size.width + 2 * size.width, 0, 1000
    total = stem
    for stage, cin, w, out, stride, heads in blocks_of(size):
        if stage in attention_stages:
            v = round(size.r_v * w)
            step = stride if tight else 1
            rows = 2 * size.block_size + 2 * size.halo_size - step if tight else 2 * (size.block_size + 2 * size.halo_size) - 1
            total += cin * w + w * (2 * w + v) + 2 * rows * (w // heads) + v * out + 2 * (w + v + out)
        else:
            total += cin * w + 9 * w * w + w * out + 2 * (w + w + out)
        if cin != out or stride > 1:
            total += cin * out + 2 * out
        last = out
    if size.num_features:
        total += last * size.num_features + 2 * size.num_features
        last = size.num_features
    return total + last * classes + classes


def macs_by_hand(size: HaloNetSize, side: int, spared: bool = False) -> int:
    """The published rule; ``spared`` leaves out what we do not compute: offsets that a window has not, and what lies outside a map of one block."""
    window = size.block_size + 2 * size.halo_size
    total, last, hi = 49 * 3 * size.width * (side // 2) ** 2, 0, side // 4
    for _, cin, w, out, stride, _ in blocks_of(size):
        lo, v = hi // stride, round(size.r_v * w)
        seen = hi if spared and hi <= size.block_size else window
        offsets = seen if spared else 2 * window - 1
        total += hi**2 * cin * w + hi**2 * w * (w + v) + lo**2 * w**2 + lo**2 * seen**2 * (w + v) + lo**2 * 2 * offsets * w + lo**2 * v * out
        total += lo**2 * cin * out if cin != out or stride > 1 else 0
        hi, last = lo, out
    if size.num_features:
        total += hi**2 * last * size.num_features
        last = size.num_features
    return total + last * 1000


@pytest.mark.parametrize("name", FAMILY)
def test_published_counts(name) -> None:
    size = HALONETS[name]
    assert sum(3 * depth for depth in size.depths) + 2 == {"h0": 50, "h1": 59, "h2": 62, "h3": 65, "h4": 65, "h5": 98, "h6": 101, "h7": 107}[name]
    built = count(build_halonet(name, device="meta"))
    assert f"{built / 1e6:.3f}" == PRINTED[name][0]
    assert built == parameters_by_hand(size)


def test_tight_tables_leave_dead_rows_out() -> None:
    tight = build_halonet("h6", halo={"tight_tables": True}, device="meta")
    assert f"{count(tight) / 1e6:.3f}" == "43.441"
    assert count(tight) == parameters_by_hand(HALONETS["h6"], tight=True)


@pytest.mark.parametrize("name", FAMILY)
def test_published_multiply_adds(name) -> None:
    """The rule gives what is printed; we compute what the rule says, less what need not be."""
    size = HALONETS[name]
    # blocks of 10 do not tile the maps of 600 pixels
    side = 640 if name == "h7" else size.img_size
    printed = PRINTED[name][1] * (side / size.img_size) ** 2
    assert macs_by_hand(size, side) / 1e9 == pytest.approx(printed, rel=0.005)
    counted = cost(build_halonet(name, device="meta"), (3, side, side)).macs
    assert counted == macs_by_hand(size, side, spared=True)
    assert 0.97 < counted / (printed * 1e9) <= 1.0


@pytest.mark.parametrize("stages", [(2, 3, 4), (3, 4), (4,), ()])
def test_mixes_of_attention_and_convolution(stages) -> None:
    model = build_halonet("h7", attention_stages=stages, device="meta")
    for stage, blocks in enumerate(model.stages, 1):
        assert all(type(block) is (HaloBlock if stage in stages else BottleneckBlock) for block in blocks)
        assert any(isinstance(module, HaloAttention2d) for module in blocks.modules()) == (stage in stages)
    assert count(model) == parameters_by_hand(HALONETS["h7"], stages)


def test_a_hybrid_trains() -> None:
    model = build_halonet("test", attention_stages=(3, 4), num_classes=5)
    images = torch.randn(2, 3, 64, 64)
    model(images).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("side", [(64, 64), (1, 1), (50, 70), (33, 97)])
def test_any_image(side) -> None:
    model = build_halonet("test", num_classes=5).eval()
    features = model.forward_features(torch.randn(2, 3, *side))
    assert features.shape == (2, 96, -(-side[0] // 32), -(-side[1] // 32))
    assert model(torch.randn(2, 3, *side)).isfinite().all()


@pytest.mark.parametrize("name", [*HYBRIDS, "halonet_h1", "haloregnetz_b", "halo2botnet50ts", "lamhalobotnet50ts"])
def test_timms_names_and_shapes_are_ours(name) -> None:
    sized = {"img_size": 256} if "bot" in name else {}
    ours = build_timm_halonet(name, device="meta", **sized)
    theirs = timm.create_model(name + ("_256" if sized else ""), device="meta", **sized)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {key: value.shape for key, value in theirs.state_dict().items()}
    assert not any(isinstance(module, HaloAttn) for module in ours.modules())
    if name in HYBRIDS:
        assert count(ours) == HYBRIDS[name]


@pytest.mark.parametrize("name", [*HYBRIDS, "halonet_h1"])
def test_equals_timm(name) -> None:
    """Narrow, in float64, in training: outputs, running statistics and all gradients."""
    options = {"width_factor": 0.25, "num_classes": 7, "zero_init_last": False}
    torch.manual_seed(0)
    theirs, ours = timm.create_model(name, **options).double(), build_timm_halonet(name, **options).double()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 256, 256, dtype=torch.float64)
    outputs = [model(images) for model in (ours, theirs)]
    assert_close(outputs[0], outputs[1], 1e-8, "output")
    for output in outputs:
        output.square().sum().backward()
    wanted = dict(theirs.named_parameters())
    for key, value in ours.named_parameters():
        assert_close(value.grad, wanted[key].grad, 1e-7, f"gradient of {key}", floor=1e-6)
    for key, value in ours.named_buffers():
        assert_close(value, theirs.get_buffer(key), 1e-8, key)
    with pytest.raises(AssertionError):
        theirs(images[..., :224, :224])
    assert ours.eval()(images[..., :224, :200]).isfinite().all()


def test_timms_geometry_can_be_mended() -> None:
    options = {"width_factor": 0.25, "num_classes": 7, "zero_init_last": False}
    theirs = build_timm_halonet("halonet26t", **options).eval()
    mended = build_timm_halonet("halonet26t", halo={"mask_border": True, "strided_offsets": True}, **options).eval()
    mended.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 128, 128)
    assert (mended(images) - theirs(images)).abs().max() > 1e-4
    assert all(module.mask_border and module.strided_offsets for module in mended.modules() if isinstance(module, HaloAttention2d))


def test_weights_as_published() -> None:
    torch.manual_seed(0)
    model = build_halonet("h0", num_classes=10)
    for block in model.modules():
        if isinstance(block, HaloBlock):
            assert (block.conv3_1x1.bn.weight == 0).all()
            assert (block.conv1_1x1.bn.weight == 1).all()
            assert (block.post_attn.weight == 1).all()
    block = model.stages[3][1]
    conv, attention = block.conv1_1x1.conv.weight, block.self_attn
    assert conv.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert attention.kv.weight.std().item() == pytest.approx(512**-0.5, rel=0.02)
    assert attention.pos_embed.height_rel.std().item() == pytest.approx((512 / 8) ** -0.5, rel=0.1)
    assert model.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert (model.head.fc.bias == 0).all()
    torch.manual_seed(0)
    again = build_halonet("h0", num_classes=10)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_heads_are_those_of_the_paper() -> None:
    for name in FAMILY:
        stages = [
            {module.num_heads for module in stage.modules() if isinstance(module, HaloAttention2d)} for stage in build_halonet(name, device="meta").stages
        ]
        assert stages == [{4}, {8}, {8}, {8}]


def test_tables_do_not_decay() -> None:
    model = build_halonet("test")
    free = model.no_weight_decay()
    assert len(free) == 8
    assert free <= set(dict(model.named_parameters()))
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert not names & free
    assert "stages.0.0.self_attn.q.weight" in names


def test_channels_last_is_the_same() -> None:
    model = build_halonet("test", zero_init_last=False).eval()
    images = torch.randn(2, 3, 50, 64)
    want = model(images)
    model, images = model.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    assert model.stages(model.stem(images)).is_contiguous(memory_format=torch.channels_last)
    assert_close(model(images), want, 1e-4, "output of channels-last")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: build_halonet("h8"), "unknown size of HaloNet 'h8'"),
        (lambda: build_halonet("h1", attention_stages=(0, 4)), "attention_stages must be among"),
        (lambda: build_halonet("h1", output_stride=16), "no dilated form"),
        (
            lambda: build_halonet(HaloNetSize(block_size=4, halo_size=1, r_v=1, r_b=0.3, depths=(1,), img_size=64, num_features=0, num_heads=(4,))),
            "multiple of 8",
        ),
        (lambda: build_timm_halonet("halonet26"), "did you mean halonet26t"),
        (lambda: build_timm_halonet("botnet26t"), "unknown network of timm's with halo attention"),
    ],
)
def test_what_cannot_be_built_is_refused(build, says) -> None:
    with pytest.raises(InputError, match=says):
        build()
