"""Principal angles against constructions whose angles are known, and against scipy."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor, nn

import foveal
from foveal import InputError
from foveal.analysis import chance_angles, lambdas, neighbor_angles, principal_angles, value_angles, value_overlap


def rotated(angles: list[float], space: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two subspaces at these angles (radians), in a random position and random bases: each direction turns in a plane of its own."""
    generator, k = torch.Generator().manual_seed(seed), len(angles)
    frame = torch.linalg.qr(torch.randn(space, space, generator=generator, dtype=torch.float64)).Q
    theta = torch.tensor(angles, dtype=torch.float64)
    a = frame[:, :k]
    b = frame[:, :k] * theta.cos() + frame[:, k : 2 * k] * theta.sin()
    mix = [torch.randn(k, k, generator=generator, dtype=torch.float64) + 3 * torch.eye(k, dtype=torch.float64) for _ in range(2)]
    return a @ mix[0], b @ mix[1]


@pytest.mark.parametrize("angles", [[0.3], [0.1, 0.7, 1.2], [0.0, 0.0], [math.pi / 2] * 3, [math.pi / 4] * 2, [1e-6, 1e-3, math.pi / 2 - 1e-6]])
@pytest.mark.parametrize("space", [6, 20])
def test_angles_are_those_of_the_construction(angles, space) -> None:
    got = principal_angles(*rotated(angles, space)).deg2rad()
    torch.testing.assert_close(got, torch.tensor(angles, dtype=torch.float64), rtol=1e-7, atol=1e-12 if min(angles) > 0 else 1e-7)


def test_a_plane_against_a_line_and_a_plane_by_hand() -> None:
    x, y, z = torch.eye(3, dtype=torch.float64)
    tilt = math.cos(math.radians(25)) * y + math.sin(math.radians(25)) * z
    torch.testing.assert_close(principal_angles(torch.stack([x, y], 1), torch.stack([x, tilt], 1)), torch.tensor([0.0, 25.0], dtype=torch.float64))
    torch.testing.assert_close(principal_angles(torch.stack([x, y], 1), tilt[:, None]), torch.tensor([25.0], dtype=torch.float64))
    torch.testing.assert_close(principal_angles(tilt[:, None], torch.stack([x, y], 1)), torch.tensor([25.0], dtype=torch.float64))


@given(space=st.integers(1, 12), p=st.integers(1, 12), q=st.integers(1, 12), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_scipy_agrees(space, p, q, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(space, min(n, space), generator=generator, dtype=torch.float64) for n in (p, q))
    want = torch.from_numpy(subspace_angles(a.numpy(), b.numpy())[::-1].copy())
    torch.testing.assert_close(principal_angles(a, b).deg2rad(), want, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(principal_angles(a, b), principal_angles(b, a), rtol=1e-6, atol=1e-5)


def test_tiny_angles_survive_in_float32_weights() -> None:
    """arccos of a float32 cosine would say 0."""
    a = torch.zeros(10, 1)
    b = torch.zeros(10, 1)
    a[0] = b[0] = 1
    b[1] = 1e-6
    assert principal_angles(a, b).deg2rad().item() == pytest.approx(1e-6, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_that_repeat_do_not_count(dtype) -> None:
    a, b = (part.to(dtype) for part in rotated([0.2, 0.9], 8))
    doubled = torch.cat([a, a @ torch.tensor([[1.0], [2.0]], dtype=dtype), torch.zeros(8, 1, dtype=dtype)], 1)
    got = principal_angles(doubled, b).deg2rad()
    torch.testing.assert_close(got, torch.tensor([0.2, 0.9], dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_what_spans_nothing_or_lies_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match="spans no space"):
        principal_angles(torch.zeros(4, 2), torch.randn(4, 2))
    with pytest.raises(InputError, match=r"as many rows.*\(4, 2\) and \(5, 2\)"):
        principal_angles(torch.randn(4, 2), torch.randn(5, 2))
    with pytest.raises(InputError, match="two matrices"):
        principal_angles(torch.randn(2, 4, 2), torch.randn(4, 2))


@pytest.mark.parametrize(("space", "dim", "smallest", "mean"), [(768, 64, 57, 76), (384, 64, 43, 69), (192, 64, 21, 57), (64, 16, 33, 63), (128, 32, 32, 63)])
def test_chance_is_what_the_specification_measured(space, dim, smallest, mean) -> None:
    got = chance_angles(space, dim, samples=4 if space > 300 else 32)
    assert got == pytest.approx((smallest, mean), abs=1.0)


def test_chance_is_the_same_every_time() -> None:
    assert chance_angles(20, 3, samples=3) == chance_angles(20, 3, samples=3)
    assert chance_angles(20, 3, samples=3) != chance_angles(20, 3, samples=3, seed=1)


def layer(**options) -> foveal.DenoisingAttention:
    return foveal.DenoisingAttention(24, 3, **options).double()


def v_plus(module: foveal.DenoisingAttention, head: int) -> Tensor:
    """The rows that make a head's positive values."""
    return module.qkv.weight[2 * 24 + 8 * head : 2 * 24 + 8 * (head + 1)]


def test_value_angles_are_those_of_each_heads_weights() -> None:
    model = nn.Sequential(layer(), nn.Linear(24, 24), layer(), layer(shared_values=True), foveal.SoftmaxAttention(24, 3))
    got = value_angles(model)
    assert [(row.layer, row.head) for row in got] == [(name, head) for name in ("0", "2") for head in range(3)]
    for row in got:
        module = model[int(row.layer)]
        want = subspace_angles(v_plus(module, row.head).detach().numpy().T, module.v_neg.weight[8 * row.head : 8 * row.head + 8].detach().numpy().T)
        assert (row.smallest, row.mean) == pytest.approx((math.degrees(want[-1]), math.degrees(want.mean())))


def test_neighbor_angles_are_those_of_one_head_and_the_next() -> None:
    module = foveal.SoftmaxAttention(24, 3).double()
    got = neighbor_angles(nn.Sequential(module, layer()))
    assert [(row.layer, row.head) for row in got] == [("0", 0), ("0", 1)]
    for row in got:
        one, other = (module.qkv.weight[48 + 8 * head : 56 + 8 * head].detach().numpy().T for head in (row.head, row.head + 1))
        want = subspace_angles(one, other)
        assert (row.smallest, row.mean) == pytest.approx((math.degrees(want[-1]), math.degrees(want.mean())))


def test_lambdas_are_read_by_layer() -> None:
    model = nn.Sequential(layer(), foveal.SoftmaxAttention(24, 3), layer(lambda_init=0.2))
    assert lambdas(model) == {"0": [0.5] * 3, "2": pytest.approx([0.2] * 3)}


def test_overlap_is_the_mean_squared_cosine() -> None:
    module = layer()
    cosines = [
        math.cos(angle) ** 2
        for head in range(3)
        for angle in subspace_angles(v_plus(module, head).detach().numpy().T, module.v_neg.weight[8 * head : 8 * head + 8].detach().numpy().T)
    ]
    assert value_overlap(module).item() == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)


def test_overlap_is_one_for_equal_and_zero_for_orthogonal_spaces() -> None:
    module = layer()
    with torch.no_grad():
        module.v_neg.weight.copy_(torch.cat([torch.randn(8, 8).double() @ v_plus(module, head) for head in range(3)]))
        assert value_overlap(module).item() == pytest.approx(1, abs=1e-5)
        frame = torch.linalg.qr(torch.randn(24, 24).double()).Q
        for head in range(3):
            v_plus(module, head).copy_(torch.randn(8, 8).double() @ frame[:8])
            module.v_neg.weight[8 * head : 8 * head + 8] = torch.randn(8, 8).double() @ frame[8:16]
        assert value_overlap(module).item() == pytest.approx(0, abs=1e-10)


def test_the_gradient_of_the_overlap_lowers_it() -> None:
    module = layer()
    values, optimizer = [], torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(30):
        overlap = value_overlap(module)
        values.append(overlap.item())
        optimizer.zero_grad()
        overlap.backward()
        optimizer.step()
    assert values[-1] < 0.7 * values[0]
    assert all(after < before for before, after in pairwise(values))
    assert value_angles(module)[0].mean > math.degrees(math.acos(values[0] ** 0.5))
    assert module.q_neg.weight.grad is None, "it asks nothing of the queries"


def test_the_gradient_of_the_overlap_is_exact() -> None:
    """By finite differences along a random direction; QR runs in float32, hence the step."""
    module = layer()
    value_overlap(module).backward()
    direction = torch.randn_like(module.v_neg.weight)
    slope = (module.v_neg.weight.grad * direction).sum().item()
    with torch.no_grad():
        module.v_neg.weight += 5e-3 * direction
        above = value_overlap(module).item()
        module.v_neg.weight -= 1e-2 * direction
        below = value_overlap(module).item()
    assert slope == pytest.approx((above - below) / 1e-2, rel=0.02)


@pytest.mark.parametrize("model", [nn.Linear(3, 3), foveal.SoftmaxAttention(24, 3), foveal.DenoisingAttention(24, 3, shared_values=True)])
def test_no_overlap_without_two_values(model) -> None:
    with pytest.raises(InputError, match="this model has none"):
        value_overlap(model)
