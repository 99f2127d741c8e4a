"""Point networks: published counts, loops for sampling and neighbors, permutations, and the identity that offset attention rests on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal import InputError
from foveal.functional.offset import offset_attention, offset_attention_map, offset_attention_reference
from foveal.functional.points import farthest_points, gather_points, nearest_points
from foveal.models.points import PCT, PCTParts, PointMixer, SimplePCT, list_point_mixers
from tests.official.test_golden import read


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("build", "want"),
    [
        (PCT, 2_810_856),  # the official code with positions
        (lambda: PCT(position_bias=True), 2_811_112),  # a public port
        (lambda: PCT(position=False, stem=2), 2_876_136),  # its other file
        (SimplePCT, 1_360_552),
        (PCTParts, 2_446_130),
        (lambda: PCT(attention="external"), 2_875_368),
        (lambda: PointMixer(256), 148_480),
        (lambda: PointMixer(128), 37_376),
        (lambda: PointMixer(256, "external"), 164_608),
        (lambda: PointMixer(128, "external"), 49_536),
    ],
)
def test_published_counts(build, want) -> None:
    with torch.device("meta"):
        assert count(build()) == want


def farthest_by_loop(cloud: np.ndarray, n: int, skip_origin: bool) -> list[int]:
    chosen, nearest = [0], np.full(len(cloud), np.inf)
    allowed = [i for i, p in enumerate(cloud) if not skip_origin or p @ p > 1e-3]
    while len(chosen) < n:
        nearest = np.minimum(nearest, ((cloud - cloud[chosen[-1]]) ** 2).sum(1))
        chosen.append(max(allowed, key=lambda i: (nearest[i], -i)) if allowed else 0)
    return chosen


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), number=st.integers(1, 40), copies=st.integers(0, 5), skip=st.booleans(), origin=st.booleans())
def test_farthest_points_are_those_of_a_loop(seed, number, copies, skip, origin) -> None:
    """Integer coordinates, so that ties and duplicates are many; the lowest index wins."""
    generator = np.random.default_rng(seed)
    cloud = generator.integers(-3, 4, (2, number, 3)).astype(float)
    cloud[:, number // 2 : number // 2 + copies] = cloud[:, :1]
    if origin:
        cloud *= 0.0
    n = int(generator.integers(1, number + 1))
    got = farthest_points(torch.from_numpy(cloud), n, skip_origin=skip)
    assert got.tolist() == [farthest_by_loop(one, n, skip) for one in cloud]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_farthest_points_of_clouds_that_are_all_apart_or_all_in_one_place(dtype) -> None:
    """Real numbers, down to the last point; and away from the origin, where every distance is a tie, the first point again and again."""
    cloud = np.random.default_rng(5).normal(size=(3, 50, 3))
    # in single precision too no two distances are so near that rounding could turn them
    for n in (1, 17, 50):
        got = farthest_points(torch.from_numpy(cloud).to(dtype), n)
        assert got.tolist() == [farthest_by_loop(one, n, False) for one in cloud]
    assert sorted(got[0].tolist()) == list(range(50))
    same = np.broadcast_to(np.array([1.0, -2.0, 0.5]), (2, 9, 3)).copy()
    assert farthest_points(torch.from_numpy(same).to(dtype), 9).tolist() == [farthest_by_loop(one, 9, False) for one in same] == [[0] * 9] * 2


def test_sampled_points_and_neighbors_are_those_of_the_reference() -> None:
    """By index, on a cloud with a point near the origin, which its kernel never chooses."""
    _, about, tensors = read("pct_sample_and_group")
    xyz = tensors["input.xyz"].double()
    chosen = farthest_points(xyz, about["npoint"], skip_origin=True)
    assert torch.equal(chosen, tensors["input.fps_index"])
    assert torch.equal(nearest_points(gather_points(xyz, chosen), xyz, about["nsample"]), tensors["input.neighbours"])
    assert not torch.equal(farthest_points(xyz, xyz.shape[1]), farthest_points(xyz, xyz.shape[1], skip_origin=True))


def test_neighbors_by_brute_force() -> None:
    generator = np.random.default_rng(0)
    queries, points = generator.normal(size=(2, 7, 3)), generator.normal(size=(2, 30, 3))
    got = nearest_points(torch.from_numpy(queries), torch.from_numpy(points), 5)
    for b in range(2):
        for q in range(7):
            assert got[b, q].tolist() == np.argsort(((points[b] - queries[b, q]) ** 2).sum(1))[:5].tolist()


def test_neighbors_are_found_in_chunks_and_in_half_precision(monkeypatch) -> None:
    """Far from the origin half precision would merge points a tenth apart; distances are taken in float32, also under autocast."""
    points = torch.randn(1, 50, 3, dtype=torch.float64)
    whole = nearest_points(points, points, 4)
    monkeypatch.setattr("foveal.functional.points._CHUNK_ENTRIES", 120)
    assert torch.equal(nearest_points(points, points, 4), whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_points(points.float(), points.float(), 4), whole)
    assert torch.equal(gather_points(points, whole)[0, 3, 2], points[0, whole[0, 3, 2]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: farthest_points(torch.zeros(1, 4, 3), 5), "5 points cannot be chosen from clouds of 4"),
        (lambda: nearest_points(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), 5), "5 neighbors cannot be found among 4"),
        (lambda: farthest_points(torch.zeros(4, 3), 2), r"expected xyz \(B, N, 3\)"),
        (lambda: farthest_points(torch.zeros(1, 4, 3), 2, start="second"), "start must be"),
        (lambda: PointMixer(8, "halo"), "attention of points"),
        (lambda: PointMixer(8, "denoising", options={"core": "halo"}), "needs the grid"),
        (lambda: PointMixer(8, "external", options={"slot": 3}), "do not fit external"),
        (lambda: PointMixer(8, form="bent"), "form of a layer of points"),
        (lambda: PCT(in_channels=2), "in_channels must be at least 3"),
        (lambda: PCT(width=4)(torch.zeros(1, 9, 4)), r"expects points \(B, N, 3\)"),
        (lambda: PCT(width=4).eval()(torch.zeros(1, 100, 3)), "512 points cannot be chosen from clouds of 100"),
        (lambda: PCTParts(width=4).eval()(torch.zeros(2, 9, 3), torch.zeros(3, dtype=torch.long)), "the class of each shape"),
    ],
)
def test_bad_input_is_a_message(call, says) -> None:
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize("eps", [0.0, 1e-9])
def test_offset_attention_is_the_official_two_steps(eps) -> None:
    k, v = torch.randn(2, 17, 5, dtype=torch.float64), torch.randn(2, 17, 9, dtype=torch.float64)
    torch.testing.assert_close(offset_attention(k, v, eps=eps), offset_attention_reference(k, v, eps=eps), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(offset_attention_map(k, eps=eps) @ v, offset_attention(k, v, eps=eps))


def test_offset_attention_stays_finite_where_the_official_division_is_not() -> None:
    """A point that nobody looks at: its column underflows, and 0/0 is what the two steps make of it."""
    k, v = torch.tensor([[[1.0], [200.0]]]), torch.randn(1, 2, 3)
    assert not offset_attention_reference(k, v).isfinite().all()
    # rows are (e⁻¹⁹⁹, 1) and (e⁻³⁹⁸⁰⁰, 1): of the first column all but e⁻³⁹⁶⁰¹ is the first point's, of the second each has half
    torch.testing.assert_close(offset_attention(k, v), torch.stack([v[:, 0], v.mean(1)], 1))


MIXERS = list_point_mixers()


@pytest.mark.parametrize("form", ["offset", "plain"])
@pytest.mark.parametrize("attention", MIXERS)
def test_every_layer_follows_a_permutation(attention, form) -> None:
    """Points have no order. Gradients reach every parameter but those whose gradient is zero by theorem."""
    layer = PointMixer(16, attention, form, num_heads=4).double().eval()
    x, order = torch.randn(2, 16, 11, dtype=torch.float64), torch.randperm(11)
    torch.testing.assert_close(layer(x)[..., order], layer(x[..., order]))
    position = torch.randn_like(x)
    torch.testing.assert_close(layer(x, position), layer(x + position))
    layer.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("attention", ["none", "pointwise", "external", "offset"])
def test_where_points_meet(attention) -> None:
    layer = PointMixer(8, attention).double().eval()
    x = torch.randn(1, 8, 6, dtype=torch.float64)
    other = x.clone()
    other[..., 5] += 1
    moved = (layer(x) - layer(other)).abs().amax(1)[0] > 1e-12
    assert moved[:5].any().item() is (attention not in ("none", "pointwise"))


def test_the_plain_form_is_the_papers_self_attention() -> None:
    layer = PointMixer(8, "offset", "plain").double().eval()
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    k, v = layer.mix.qk(x), layer.mix.v(x)
    gathered = torch.einsum("bcj,bij->bci", v, ((k.mT @ k) / 2**0.5).softmax(-1))
    torch.testing.assert_close(layer(x), x + layer.norm(layer.proj(gathered)).relu())


@pytest.mark.parametrize("attention", ["offset", "external", "softmax", "denoising"])
def test_a_cloud_in_another_order_has_the_same_logits(attention) -> None:
    """With the first point kept first: sampling begins there. Without sampling, in any order; and of parts each point keeps its own."""
    cloud, order = torch.randn(2, 40, 3, dtype=torch.float64), torch.randperm(40)
    kept = torch.cat([torch.zeros(1, dtype=torch.long), order[order != 0]])
    options = {"width": 8, "attention": attention}
    model = PCT(5, npoints=(24, 12), neighbors=6, **options).double().eval()
    torch.testing.assert_close(model(cloud[:, kept]), model(cloud))
    assert not torch.allclose(model(cloud[:, order]), model(cloud)), "sampling from another point chooses others"
    simple, parts = SimplePCT(5, **options).double().eval(), PCTParts(6, 3, **options).double().eval()
    torch.testing.assert_close(simple(cloud[:, order]), simple(cloud))
    shapes = torch.tensor([0, 2])
    torch.testing.assert_close(parts(cloud[:, order], shapes), parts(cloud, shapes)[:, order])


def test_networks_take_half_precision_and_gradients() -> None:
    parts = PCTParts(6, 3, in_channels=6, width=8, attention="denoising")
    cloud, shape = torch.randn(2, 20, 6), torch.tensor([0, 2])
    with torch.autocast("cpu", torch.bfloat16):
        out = parts(cloud, shape)
    assert out.shape == (2, 20, 6)
    torch.testing.assert_close(parts.eval()(cloud, shape), parts(cloud, torch.nn.functional.one_hot(shape, 3).float()))
    assert SimplePCT(4, width=8, attention="external")(torch.randn(3, 10, 3)).shape == (3, 4)
