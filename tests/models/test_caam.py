"""CaaM's networks: what the gates promise, and the assembled ResNet-18. The blocks themselves are held by golden vectors."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from foveal.models import CausalBlock, CausalResNet, GatedBlock, SplitBlock, TwoStreamBlock
from tests.attention.contract import assert_close


def test_split_streams_share_the_branch() -> None:
    """Before ReLU: cause and complement add up to the mixture, and the complement has no residual."""
    torch.manual_seed(0)
    block, x = SplitBlock(16, 16, reduction=4).double().eval(), torch.randn(2, 16, 5, 7, dtype=torch.float64)
    h = block._branch(x)
    a = block.gate.gate(h)
    streams = block(x)
    assert_close(streams.causal, (a * h + x).relu(), 1e-12, "cause")
    assert_close(streams.complement, ((1 - a) * h).relu(), 1e-12, "complement")
    assert_close(streams.mixture, (h + x).relu(), 1e-12, "mixture")


def test_a_gated_block_is_the_causal_stream_of_a_split_block() -> None:
    gated, split = GatedBlock(16, 32, 2, reduction=4).eval(), SplitBlock(16, 32, 2, reduction=4).eval()
    split.load_state_dict(gated.state_dict())
    x = torch.randn(2, 16, 7, 5)
    assert torch.equal(gated(x), split(x).causal)


def test_paths_have_norms_of_their_own_and_share_the_rest() -> None:
    """Exchanging the maps and the two paths' batch norms exchanges nothing but the gate."""
    torch.manual_seed(0)
    block = TwoStreamBlock(16, 16, reduction=4).double().train()
    a, b = torch.randn(2, 4, 16, 5, 5, dtype=torch.float64)
    block(a, b)
    block.eval()
    h = block._branch(a) + block.bn4(block.conv2(block.bn3(block.conv1(b)).relu()))
    for one, other in ((block.bn1, block.bn3), (block.bn2, block.bn4)):
        mine, theirs = {k: v.clone() for k, v in one.state_dict().items()}, {k: v.clone() for k, v in other.state_dict().items()}
        one.load_state_dict(theirs)
        other.load_state_dict(mine)
    exchanged = block._branch(b) + block.bn4(block.conv2(block.bn3(block.conv1(a)).relu()))
    assert_close(exchanged, h, 1e-12, "branch")
    assert len({id(p) for p in block.parameters()}) == len(list(block.parameters()))


def test_it_is_a_resnet18_with_gates_and_norms() -> None:
    """Its plain part counts what torchvision's counts; a gate is two linear maps, a 7×7 convolution of two maps and a norm."""
    model = CausalResNet()
    plain = sum(p.numel() for p in resnet18().parameters()) - (512 * 1000 + 1000)
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    gates = sum(2 * w * (w // 16) + w // 16 + w + 98 + 2 for w in widths)
    second_norms = sum(4 * w for w in (256, 256, 512, 512))
    assert sum(p.numel() for p in model.parameters()) == plain + gates + second_norms
    assert [type(block).__name__ for block in model.one_stream] == ["GatedBlock", "GatedBlock", "GatedBlock", "SplitBlock"]
    assert len(model.two_streams) == 4


def test_places_of_the_split() -> None:
    """NICO: five blocks from the second of stage 2. ImageNet-9: three from the second of stage 3."""
    for stage, blocks in ((2, 5), (3, 3)):
        model = CausalResNet(split_stage=stage)
        assert sum(isinstance(block, (SplitBlock, TwoStreamBlock)) for block in model.modules()) == blocks
        streams = model.eval()(torch.randn(1, 3, 64, 64))
        assert all(stream.shape == (1, 512) for stream in streams)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = CausalResNet(widths=(16, 32), depths=(2, 1), split_stage=1, stem=False, reduction=4)
    with torch.no_grad():
        for module in model.modules():
            # the official start: a batch norm of weight 0 hides the spatial convolution behind it for a step
            if isinstance(module, nn.BatchNorm2d) and module.num_features == 1:
                module.weight.fill_(0.5)
    streams = model(torch.randn(4, 3, 12, 10))
    sum(stream.square().sum() for stream in streams).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("complement_norm", [False, True])
def test_token_block_equals_its_formula(complement_norm) -> None:
    torch.manual_seed(0)
    block, x = CausalBlock(24, 4, complement_norm=complement_norm).double(), torch.randn(2, 9, 24, dtype=torch.float64)
    normed = block.norm1(x)
    maps = block.attn.attention_map(normed)
    v = block.attn.qkv(normed).chunk(3, -1)[2].unflatten(-1, (4, 6)).transpose(1, 2)
    c, s = (block.attn.proj((maps[name] @ v).transpose(1, 2).flatten(2)) for name in ("positive", "negative"))
    c = x + c
    c = c + block.mlp(block.norm2(c))
    s = s + block.mlp((block.norm3 if complement_norm else block.norm2)(s))
    streams = block(x)
    for got, want in zip(streams, (c, s, c + s), strict=True):
        assert_close(got, want, 1e-12, "stream")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split_stage": 4}, "expected 1 to 3"),
        ({"split_stage": 0}, "expected 1 to 3"),
        ({"widths": (64, 128)}, "each stage"),
        ({"reduction": 100}, "reduction"),
    ],
)
def test_networks_that_cannot_be_are_refused(options, says) -> None:
    with pytest.raises(ValueError, match=says):
        CausalResNet(**options)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        GatedBlock(16, 16, kernel_size=2)


def test_compiles_and_exports() -> None:
    model = CausalResNet(widths=(16, 32), depths=(1, 1), split_stage=1, stem=False, reduction=4).eval()
    x = torch.randn(2, 3, 12, 12)
    torch._dynamo.reset()
    assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x).causal, model(x).causal, 1e-5, "compiled output")
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    x = torch.randn(5, 3, 12, 12)
    assert_close(program.module()(x)[0], model(x)[0], 1e-5, "exported output")
