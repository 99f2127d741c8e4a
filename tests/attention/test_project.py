"""Projections use weights without calling the layer, for speed. Whatever hangs on a layer is honored all the same: with gradients, without, and for slices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune

import foveal
from foveal.attention import _linear
from foveal.attention._linear import project


class Negated(nn.Module):
    def forward(self, weight):
        return -weight


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def with_forward(layer):
    """As accelerate does to move weights in and out."""
    old = layer.forward
    layer.forward = lambda x: old(x) + 1
    return layer


def with_hook(layer):
    layer.register_forward_hook(lambda module, args, out: out + 1)
    return layer


def with_pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return layer


def subclassed(layer):
    other = Doubled(5, 12)
    other.load_state_dict(layer.state_dict())
    return other


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Negated())
    return layer


EXTRAS = {
    "plain": (lambda layer: layer, lambda x, w, b: F.linear(x, w, b)),
    "forward hook": (with_hook, lambda x, w, b: F.linear(x, w, b) + 1),
    "forward pre-hook": (with_pre_hook, lambda x, w, b: F.linear(x + 1, w, b)),
    "another forward on the layer": (with_forward, lambda x, w, b: F.linear(x, w, b) + 1),
    "subclass": (subclassed, lambda x, w, b: 2 * F.linear(x, w, b)),
    "parametrization": (parametrized, lambda x, w, b: F.linear(x, -w, b)),
    "weight norm": (parametrizations.weight_norm, lambda x, w, b: F.linear(x, w, b)),
    "spectral norm": (parametrizations.spectral_norm, lambda x, w, b: F.linear(x, w / torch.linalg.matrix_norm(w, 2), b)),
    "pruned": (lambda layer: prune.custom_from_mask(layer, "weight", MASK), lambda x, w, b: F.linear(x, w * MASK, b)),
}
MASK = (torch.arange(60).view(12, 5) % 3 > 0).float()


@pytest.mark.parametrize("extra", list(EXTRAS))
@pytest.mark.parametrize("rows", [None, slice(4, None)])
def test_what_hangs_on_a_layer_is_honored(extra, rows, monkeypatch) -> None:
    # small maps take the fast path too
    monkeypatch.setattr(_linear, "_CONVOLUTION_PAYS", 1)
    make, want = EXTRAS[extra]
    layer = nn.Linear(5, 12)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer = make(layer)
    if extra == "spectral norm":
        # its power iteration converges
        for _ in range(200):
            layer(torch.zeros(1, 5))
        layer.eval()
    x = torch.randn(2, 3, 5)
    expected = want(x, weight, bias)
    expected = expected if rows is None else expected[..., rows]
    torch.testing.assert_close(project(layer, x, rows), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(project(layer, x, rows), expected, rtol=1e-4, atol=1e-5)


def targets(graph: torch.fx.Graph) -> set[object]:
    return {node.target for node in graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("gradient", [False, True])
def test_a_compiled_projection_takes_the_way_of_an_eager_one_and_an_exported_one_says_what_is_meant(gradient, monkeypatch) -> None:
    monkeypatch.setattr(_linear, "_CONVOLUTION_PAYS", 1)
    monkeypatch.setattr(_linear, "_ONEDNN", True)
    layer, x, graphs = nn.Linear(5, 12), torch.randn(2, 3, 5), []

    def keep(module: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(module.graph)
        return module

    def projected(x: torch.Tensor) -> torch.Tensor:
        return project(layer, x)

    torch._dynamo.reset()
    with torch.set_grad_enabled(gradient):
        assert torch.equal(torch.compile(projected, fullgraph=True, backend=keep)(x), projected(x))
        torch.testing.assert_close(projected(x), layer(x))
    assert torch.conv2d in targets(graphs[0])
    with torch.no_grad():
        program = torch.export.export(Projection(layer), (x,), strict=False)
    assert torch.ops.aten.linear.default in targets(program.graph)


@pytest.mark.parametrize("shape", [(7, 5), (2, 6, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("rows", [None, slice(4, None)])
def test_gradients_of_any_order_are_those_of_the_linear_map(shape, rows, monkeypatch) -> None:
    monkeypatch.setattr(_linear, "_CONVOLUTION_PAYS", 1)
    layer, x = nn.Linear(5, 12), torch.randn(shape, requires_grad=True)
    inputs = (x, layer.weight, layer.bias)

    def both_orders(out: torch.Tensor) -> list[torch.Tensor]:
        first = torch.autograd.grad(out.square().sin().sum(), inputs, create_graph=True)
        return [*first, *torch.autograd.grad(sum(one.square().sum() for one in first), inputs)]

    linear = layer(x) if rows is None else layer(x)[..., rows]
    for ours, want in zip(both_orders(project(layer, x, rows)), both_orders(linear), strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-4)


class Projection(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return project(self.layer, x)


def test_backward_hooks_and_hooks_of_all_modules_see_the_projections() -> None:
    module = foveal.DenoisingAttention(dim=8, num_heads=2)
    seen = []
    for name in ("qkv", "proj", "q_neg"):
        getattr(module, name).register_full_backward_hook(lambda layer, into, out, name=name: seen.append(name))
    module(torch.randn(1, 3, 8, requires_grad=True)).sum().backward()
    assert sorted(seen) == ["proj", "q_neg", "qkv"]
    classes = []
    handle = register_module_forward_hook(lambda layer, args, out: classes.append(type(layer)))
    try:
        foveal.SoftmaxAttention(dim=8, num_heads=2)(torch.randn(1, 3, 8))
    finally:
        handle.remove()
    assert classes.count(nn.Linear) == 2


def test_convolutions_of_halo_attention_are_called_when_something_hangs_on_them() -> None:
    x = torch.randn(1, 8, 6, 6)
    module = foveal.HaloAttention2d(8, num_heads=2, block_size=3, halo_size=1)
    want, calls = module(x), []
    module.kv.register_forward_hook(lambda layer, args, out: calls.append(out.shape))
    torch.testing.assert_close(module(x), want, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1
    module.q.forward = lambda x: torch.zeros(1, module.q.out_channels, 6, 6)
    assert (module(x) - want).abs().max() > 1e-3
