"""Sizes that change: two graphs at most for ``torch.compile``, one for ``torch.export``, with the values of eager mode."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from foveal import create_attention
from foveal.attention import list_attentions

WINDOWS = {"block_size": 3, "halo_size": 1}
TOKENS = {name: (name, {"num_heads": 4} | (WINDOWS if name == "halo" else {})) for name in list_attentions(form="tokens")}
MAPS = {name: (name, WINDOWS if name == "halo_2d" else {}) for name in list_attentions(form="2d")}
MORE = {
    "halo, one block": ("halo", {"num_heads": 4}),
    "halo_2d, one block": ("halo_2d", {}),
    "halo_2d, stride": ("halo_2d", {"block_size": 2, "halo_size": 1, "stride": 2}),
    "halo_2d, pooled": ("halo_2d", WINDOWS | {"stride": 2, "avg_down": True}),
    "halo_2d, timm's": ("halo_2d", {"block_size": 2, "halo_size": 1, "mask_border": False, "tight_tables": False}),
}
# the others take long: windows make long expressions of sizes
FAST = {"denoising", "external", "linear_2d"}
SIDES = ((2, 5, 7), (3, 9, 6), (5, 11, 8), (4, 13, 10), (7, 4, 3))


def each(of: dict) -> list:
    return [pytest.param(*given, marks=[pytest.mark.slow] if which not in FAST else [], id=which) for which, given in of.items()]


def inputs(attention: nn.Module) -> list[torch.Tensor]:
    if attention.form == "2d":
        return [torch.randn(batch, 16, height, width) for batch, height, width in SIDES]
    return [torch.randn(batch, 1 + height**2, 16) for batch, height, _ in SIDES]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.case("R10")
@pytest.mark.parametrize(("name", "options"), each(TOKENS | MAPS | MORE))
def test_two_graphs_for_all_sizes(name, options) -> None:
    torch.manual_seed(0)
    attention = create_attention(name, 16, **options).eval()
    counter = CompileCounter()
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    for x in inputs(attention):
        torch.testing.assert_close(compiled(x), attention(x), rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 2


@pytest.mark.case("R10")
@pytest.mark.parametrize(("name", "options"), each(MAPS | {which: given for which, given in MORE.items() if given[0] == "halo_2d"}))
def test_one_program_for_maps_of_any_size(name, options) -> None:
    torch.manual_seed(0)
    attention = create_attention(name, 16, **options).eval()
    batch, height, width = (torch.export.Dim(what, min=3 if what != "batch" else 1) for what in ("batch", "height", "width"))
    program = torch.export.export(attention, (inputs(attention)[0],), dynamic_shapes=({0: batch, 2: height, 3: width},)).module()
    for x in inputs(attention):
        torch.testing.assert_close(program(x), attention(x), rtol=1e-4, atol=1e-5)


@pytest.mark.case("R10")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("halo_2d", WINDOWS), ("halo", WINDOWS | {"num_heads": 4})])
def test_the_compiler_proper_agrees_forward_and_backward(name, options) -> None:
    torch.manual_seed(0)
    attention = create_attention(name, 16, **options)
    compiled = torch.compile(attention, fullgraph=True)
    for x in inputs(attention)[:3]:
        results = []
        for run in (attention, compiled):
            attention.zero_grad()
            out = run(x)
            out.square().sum().backward()
            results.append([out.detach(), *(p.grad.clone() for p in attention.parameters())])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
