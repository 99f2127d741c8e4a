"""torch.func and forward mode over every attention, against loops over samples, backward mode and differences."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from foveal import create_attention
from foveal.attention import list_attentions

# forward mode loads rules that PyTorch itself compiles with it
pytestmark = [
    pytest.mark.case("C30"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    # its fused attention has no batching rule backward, and is slow there, not wrong
    pytest.mark.filterwarnings("ignore:There is a performance drop.*scaled_dot_product"),
]

GRID = {"block_size": 2, "halo_size": 1, "num_prefix_tokens": 0}
EACH = {name: (name, {"num_heads": 2} | (GRID if name == "halo" else {}), (3, 9, 8)) for name in list_attentions(form="tokens")}
EACH |= {name: (name, {}, (3, 8, 3, 4)) for name in list_attentions(form="2d") if name != "halo_2d"}
EACH |= {
    "softmax, centered": ("softmax", {"num_heads": 2, "center": True}, (3, 9, 8)),
    "halo, prefix": ("halo", {"num_heads": 2, **GRID, "num_prefix_tokens": 1}, (3, 10, 8)),
    **{f"halo, {path}": ("halo", {"num_heads": 2, **GRID, "path": path}, (3, 9, 8)) for path in ("explicit", "folded", "tiled")},
    "denoising over halo": ("denoising", {"num_heads": 2, "core": "halo", "core_options": GRID}, (3, 9, 8)),
    "halo_2d": ("halo_2d", {"num_heads": 2, "block_size": 2, "halo_size": 1}, (3, 8, 3, 4)),
    "halo_2d, stride": ("halo_2d", {"num_heads": 2, "block_size": 2, "halo_size": 1, "stride": 2}, (3, 8, 5, 4)),
    "halo_2d, timm's": ("halo_2d", {"num_heads": 2, "block_size": 2, "halo_size": 1, "mask_border": False, "tight_tables": False}, (3, 8, 3, 4)),
}


@pytest.fixture(params=list(EACH))
def given(request) -> tuple[nn.Module, Tensor]:
    name, options, shape = EACH[request.param]
    torch.manual_seed(0)
    attention = create_attention(name, shape[1] if len(shape) == 4 else shape[2], **options).double().eval()
    with torch.no_grad():
        for p in attention.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return attention, torch.randn(shape, dtype=torch.float64)


def slope(f, x: Tensor, along: Tensor, step: float = 1e-5) -> Tensor:
    with torch.no_grad():
        return (f(x + step * along) - f(x - step * along)) / (2 * step)


def test_vmap_is_a_loop(given) -> None:
    attention, x = given
    batches = torch.stack([x, 2 * x, x - 1])
    want = torch.stack([attention(batch) for batch in batches])
    torch.testing.assert_close(vmap(attention)(batches), want)
    torch.testing.assert_close(vmap(attention, in_dims=1)(batches.transpose(0, 1)), want)
    maps_last = batches.movedim(2, -1).contiguous().movedim(-1, 2)
    torch.testing.assert_close(vmap(attention)(maps_last), want)


def test_gradients_of_each_sample_are_those_of_it_alone(given) -> None:
    attention, x = given
    parameters = {name: p.detach() for name, p in attention.named_parameters()}
    buffers = dict(attention.named_buffers())

    def loss(values, sample):
        return functional_call(attention, (values, buffers), (sample[None],)).square().sum()

    got = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for n in range(len(x)):
        attention.zero_grad()
        attention(x[n : n + 1]).square().sum().backward()
        for name, p in attention.named_parameters():
            torch.testing.assert_close(got[name][n], torch.zeros_like(p) if p.grad is None else p.grad, msg=f"{name} of sample {n}")


def test_forward_mode_is_the_slope(given) -> None:
    attention, x = given
    tangent = torch.randn_like(x)
    want = slope(attention, x, tangent)
    out, got = jvp(attention, (x,), (tangent,))
    torch.testing.assert_close(out, attention(x))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(attention(forward_ad.make_dual(x, tangent)))
        torch.testing.assert_close(dual.tangent, want, rtol=1e-4, atol=1e-6)
    # and backward mode comes back
    torch.testing.assert_close(attention(x), out)


def test_jacobians_agree_whichever_way(given) -> None:
    attention, x = given
    x = x[:1]
    got = jacfwd(attention)(x)
    torch.testing.assert_close(jacrev(attention)(x), got)
    torch.testing.assert_close(torch.autograd.functional.jacobian(attention, x), got)


def test_curvature_is_the_slope_of_gradients(given) -> None:
    attention, x = given
    x = x[:1]
    along = torch.randn_like(x)

    def loss(value):
        return attention(value).square().sum()

    def gradient(value):
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            return torch.autograd.grad(loss(value), value)[0]

    want = slope(gradient, x, along)
    got = (hessian(loss)(x).flatten(0, x.ndim - 1).flatten(1) @ along.flatten()).view_as(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["auto", "explicit", "tiled"])
@pytest.mark.parametrize("attention", ["halo", "halo_2d"])
def test_the_gradient_of_a_gradient_penalty(attention, path) -> None:
    """Positions are made from queries: a backward pass that is itself differentiated must not count them twice."""
    torch.manual_seed(0)
    options = GRID if attention == "halo" else {"block_size": 2, "halo_size": 1}
    module = create_attention(attention, 8, num_heads=2, path=path, **options).double()
    x = torch.randn((2, 9, 8) if attention == "halo" else (2, 8, 3, 4), dtype=torch.float64)
    along = torch.randn_like(x)

    def gradient(value, create_graph):
        value = value.detach().requires_grad_()
        return torch.autograd.grad(module(value).square().sum(), value, create_graph=create_graph)[0], value

    once, _ = gradient(x, False)
    kept, value = gradient(x, True)
    torch.testing.assert_close(kept, once)
    (got,) = torch.autograd.grad((kept * along).sum(), value)
    want = (gradient(x + 1e-5 * along, False)[0] - gradient(x - 1e-5 * along, False)[0]) / 2e-5
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_an_ensemble_is_its_members(given) -> None:
    attention, x = given
    torch.manual_seed(1)
    members = []
    for n in range(3):
        member = copy.deepcopy(attention)
        with torch.no_grad():
            for p in member.parameters():
                p.add_(0.1 * n * torch.randn_like(p))
        members.append(member)
    parameters, buffers = stack_module_state(members)
    got = vmap(lambda p, b: functional_call(attention, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(got, torch.stack([member(x) for member in members]))
