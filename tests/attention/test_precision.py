"""Half precision is as good as PyTorch's own: of every mechanism and every path, outputs and gradients, measured with the fused kernel as the yardstick.

What is exact is the same function in float64, which the other tests hold against slow oracles.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import foveal.functional as ff
from foveal.functional._precision import less
from foveal.functional.halo import halo_attention

SIDE, WIDTH, SLOTS = 12, 24, 40
"""A width that is no power of four: then s = 1/√D is not exact in half precision."""
HALVES = [torch.bfloat16, torch.float16]

Inputs = dict[str, Tensor]


def inputs(dtype: torch.dtype, size: float) -> Inputs:
    """Float64 numbers that ``dtype`` holds exactly."""
    draw = torch.Generator().manual_seed(3)

    def some(*shape: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(*shape, generator=draw)).to(dtype).double()

    tokens = (2, 2, SIDE * SIDE, WIDTH)
    names = ("q", "q_neg", "k", "k_neg", "v", "v_neg")
    drawn = {name: some(*tokens, std=size if name.startswith("q") else 1.0) for name in names}
    tables = {name: some(2 * 4 + 2 * 3 - 1, WIDTH, std=WIDTH**-0.5) for name in ("rel_height", "rel_width")}
    return drawn | tables | {"lambdas": torch.tensor([0.75, -0.5], dtype=torch.float64), "global_k": some(2, 2, 1, WIDTH), "global_v": some(2, 2, 1, WIDTH)}


def grid(x: Tensor) -> Tensor:
    return x.unflatten(2, (SIDE, SIDE))


def halo(q: Tensor, k: Tensor, v: Tensor, *, path: str, with_global: bool = False, masked: bool = False, border: bool = True, **t: Tensor) -> Tensor:
    options = {"global_k": t["global_k"], "global_v": t["global_v"]} if with_global else {}
    if masked:
        options["mask"] = torch.arange(SIDE * SIDE + with_global).expand(len(q), -1) % 5 != 2
    tables = {name: t[name] for name in ("rel_height", "rel_width")}
    out = halo_attention(grid(q), grid(k), grid(v), **tables, **options, block_size=4, halo_size=3, path=path, mask_border=border)
    return out.flatten(2, 3)


def slots(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
    return ff.external_attention(q, k[0, 0, :SLOTS], v[0, 0, :SLOTS], **options)


def call(function: Callable[..., Tensor], names: str, options: dict) -> Callable[[Inputs], Tensor]:
    def run(given: Inputs) -> Tensor:
        out = function(**{name: given[name] for name in names.split()}, **options)
        return torch.cat(out, -1) if isinstance(out, tuple) else out

    return run


def of(function: Callable[..., Tensor], names: str = "q k v", **options: object) -> Callable[[Inputs], Tensor]:
    return call(function, names, options)


def cross(q: Tensor, k: Tensor, v: Tensor, k_neg: Tensor, v_neg: Tensor) -> tuple[Tensor, Tensor]:
    return ff.cross_sample_attention(q, k, v, dictionary_k=k_neg[:1], dictionary_v=v_neg[:1])


def pixels(v: Tensor, *, legacy: bool = False) -> Tensor:
    return ff.channel_linear_attention(v.mT, legacy=legacy).mT


HALO, SIGNED = "q k v rel_height rel_width global_k global_v", "q k v q_neg v_neg lambdas"

FORMS: dict[str, Callable[[Inputs], Tensor]] = {
    "softmax": of(ff.softmax_attention),
    "softmax, scaled": of(ff.softmax_attention, scale=0.3),
    "softmax, map": of(lambda q, k, v: ff.softmax_attention_map(q, k) @ v),
    "external": of(slots),
    "external, token": of(slots, normalization="token"),
    "external, slot": of(slots, normalization="slot"),
    "external, eps": of(slots, eps=1e-3),
    "external, masked": of(slots, mask=torch.arange(SIDE * SIDE).expand(2, -1) % 5 != 2),
    "halo, auto": of(halo, HALO, path="auto"),
    "halo, explicit": of(halo, HALO, path="explicit"),
    "halo, explicit, prefix": of(halo, HALO, path="explicit", with_global=True),
    "halo, explicit, masked": of(halo, HALO, path="explicit", with_global=True, masked=True),
    "halo, folded": of(halo, HALO, path="folded"),
    "halo, folded, prefix": of(halo, HALO, path="folded", with_global=True),
    "halo, folded, masked": of(halo, HALO, path="folded", with_global=True, masked=True),
    "halo, folded, border": of(halo, HALO, path="folded", border=False),
    "halo, tiled": of(halo, HALO, path="tiled"),
    "linear": of(ff.linear_attention),
    "linear, pieces": of(ff.linear_attention, chunk=37),
    "linear, channels": of(pixels, "v"),
    "linear, channels, legacy": of(pixels, "v", legacy=True),
    "efficient": of(ff.efficient_attention),
    "efficient, pieces": of(ff.efficient_attention, chunk=37),
    "efficient, scaling": of(ff.efficient_attention, normalization="scaling"),
    "denoising": of(ff.denoising_attention, SIGNED),
    "denoising, shared values": of(ff.denoising_attention, "q k v q_neg lambdas"),
    "denoising, linear": of(ff.denoising_attention, SIGNED, core=ff.linear_attention),
    "denoising, efficient": of(ff.denoising_attention, SIGNED, core=ff.efficient_attention),
    "causal": of(ff.causal_attention),
    "causal, is_causal": of(ff.causal_attention, is_causal=True),
    "differential": of(lambda lambdas, **t: ff.differential_attention(**t, lambdas=lambdas.view(-1, 1, 1)), "q k v q_neg k_neg lambdas"),
    "cross_sample": of(cross, "q k v k_neg v_neg"),
}

FORWARD_ONLY: dict[str, Callable[[Inputs], Tensor]] = {
    "halo, flex": of(halo, HALO, path="flex"),
    "halo, flex, prefix": of(halo, HALO, path="flex", with_global=True),
}


def sdpa(given: Inputs) -> Tensor:
    return F.scaled_dot_product_attention(given["q"], given["k"], given["v"])


def error(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


def used(form: Callable[[Inputs], Tensor], given: Inputs, cotangent: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradients of what it is made of."""
    given = {name: value.detach().requires_grad_(cotangent is not None) for name, value in given.items()}
    out = form(given)
    if cotangent is None:
        return out, {}
    width = out.shape[-1] // cotangent.shape[-1]
    grads = torch.autograd.grad(out, list(given.values()), torch.cat([cotangent] * width, -1).to(out.dtype), allow_unused=True)
    found = {name: grad for name, grad in zip(given, grads, strict=True) if grad is not None}
    # keys that all queries see are some of the keys: a single one has a gradient that is small beside what it is the sum of, with the fused kernel too
    for name in set(found) & {"global_k", "global_v"}:
        found[name[-1]] = torch.cat([found[name[-1]], found.pop(name)], dim=2)
    return out, found


@pytest.mark.case("R1")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("name", FORMS)
def test_outputs_and_gradients_are_as_near_as_those_of_the_fused_kernel(name, size, dtype) -> None:
    exact = inputs(dtype, size)
    half = {key: value.to(dtype) for key, value in exact.items()}
    cotangent = torch.randn(exact["v"].shape, generator=torch.Generator().manual_seed(5)).to(dtype).double()
    yardstick = [used(sdpa, given, cotangent) for given in (half, exact)]
    got, want = (used(FORMS[name], given, cotangent) for given in (half, exact))
    assert got[0].dtype == dtype
    allowed = error(yardstick[0][0], yardstick[1][0])
    assert error(got[0], want[0]) <= 2 * allowed
    allowed = max(error(yardstick[0][1][key], yardstick[1][1][key]) for key in "qkv")
    for key, grad in want[1].items():
        assert error(got[1][key], grad) <= 2 * allowed, key


@pytest.mark.case("R1")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_paths_without_gradients_are_as_near_as_the_fused_kernel(name, size, dtype) -> None:
    exact = inputs(dtype, size)
    half = {key: value.to(dtype) for key, value in exact.items()}
    with torch.no_grad():
        allowed = error(sdpa(half), sdpa(exact))
        like = FORMS["halo, explicit, prefix" if "prefix" in name else "halo, explicit"]
        assert error(FORWARD_ONLY[name](half), like(exact)) <= 2 * allowed


@pytest.mark.case("R1")
@pytest.mark.parametrize("name", FORMS)
def test_autocast_is_within_a_hundredth(name) -> None:
    """Parameters and inputs in float32, queries ×4, as a layer behind a float32 norm finds them."""
    exact = inputs(torch.bfloat16, 4.0)
    with torch.autocast("cpu", torch.bfloat16):
        got, grads = used(FORMS[name], {key: value.float() for key, value in exact.items()}, exact["v"])
    want, want_grads = used(FORMS[name], exact, exact["v"])
    assert error(got, want) < 0.01
    for key, grad in want_grads.items():
        assert error(grads[key], grad) < 0.02, key


@pytest.mark.case("R1")
@pytest.mark.parametrize("name", FORMS)
def test_autocast_lowers_nothing_that_was_kept_wide(name) -> None:
    """Of inputs in half precision autocast has nothing left to convert: the same numbers come out, bit for bit."""
    half = {key: value.bfloat16() for key, value in inputs(torch.bfloat16, 4.0).items()}
    want = FORMS[name](half)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FORMS[name](half), want)


@pytest.mark.case("R1")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["linear", "efficient", "efficient, scaling", "external, token"])
def test_sums_over_many_positions_neither_overflow_nor_vanish(name, dtype) -> None:
    """16384 values near 8: their sum is twice what float16 holds, and a weight of 1/16384 is below its normal numbers."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 16384, 8, generator=draw).to(dtype).double() for _ in range(3))
    exact = {"q": q, "k": k, "v": (v + 8).to(dtype).double()}
    half = {key: value.to(dtype) for key, value in exact.items()}
    got, want = FORMS[name](half), FORMS[name](exact)
    assert error(got, want) <= 2 * torch.finfo(dtype).eps


@pytest.mark.case("C28")
@pytest.mark.parametrize("size", [300.0, 3000.0])
@pytest.mark.parametrize("name", [name for name in FORMS if "halo" in name or "external" in name] + ["softmax, map"])
def test_huge_logits_do_not_tie_in_float16(name, size) -> None:
    """Logits far beyond 65504: the map is one-hot, and which key it is has to be right."""
    exact = inputs(torch.float16, 1.0)
    for key in ("q", "k"):
        exact[key] = (size * exact[key]).clamp(-60000, 60000).half().double()
    half = {key: value.half() for key, value in exact.items()}
    got, want = FORMS[name](half), FORMS[name](exact)
    assert got.isfinite().all()
    assert error(got, want) <= max(2 * error(sdpa(half), sdpa(exact)), 2e-3)


@pytest.mark.case("C28")
@pytest.mark.parametrize("path", ["explicit", "folded"])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_huge_negative_logits_do_not_give_way_to_masked_keys(path, dtype) -> None:
    """Every key that may be seen has a logit of −1e8 or so: what lies outside, or is masked, must still get nothing."""
    q = torch.full((1, 1, 5, 5, 8), 4096.0, dtype=dtype)
    k, v = -q, torch.ones_like(q)
    tables = {"rel_height": torch.zeros(7, 8, dtype=dtype), "rel_width": torch.zeros(7, 8, dtype=dtype)}
    mask = torch.arange(25)[None] % 3 != 0
    v.flatten(2, 3)[:, :, ~mask[0]] = 100.0
    out = halo_attention(q, k, v, **tables, block_size=3, halo_size=1, mask=mask, path=path)
    torch.testing.assert_close(out, torch.ones_like(out), atol=1e-2, rtol=0)


def test_a_difference_is_rounded_once() -> None:
    first = torch.tensor([1.0], dtype=torch.bfloat16)
    second = torch.tensor([1.0078125], dtype=torch.bfloat16)
    factor = torch.tensor([0.998046875])
    assert less(first, factor, second).item() == torch.tensor(1 - 0.998046875 * 1.0078125).bfloat16().item()
