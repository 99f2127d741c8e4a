"""Cosines and gradients behind every module of visual probes: by loops and finite differences, padded and packed, in whole models, what is refused."""

import math
from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor

from foveal.models import VisualProbes
from foveal.models.probes import ProbeCollapse, block_mask, pack, pad, probe_collapse, probe_collapse_in
from tests.models.test_visual_probes import by_hand

DIM, HEADS = 24, 4
FORMS = ["published", "residual"]


def made(form: str = "residual", attention: str = "denoising", layers: object = (0, 2), **options: object) -> VisualProbes:
    torch.manual_seed(0)
    return VisualProbes(DIM, HEADS, layers, **{"num_probes": 3} | options, attention=attention, form=form).double()


def tokens(batch: int = 2, count: int = 7, depth: int = 3) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, count, DIM, dtype=torch.float64) for _ in range(depth)]


def readout(seed: int = 0) -> Tensor:
    return torch.randn(3, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(found: ProbeCollapse) -> list[tuple[float | None, float]]:
    return [(one.similarity, one.gradient) for one in (found.start, *found.layers)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attention", ["softmax", "denoising"])
def test_gradients_are_those_of_the_formula_by_hand(attention, form) -> None:
    """Of loops over samples, probes and heads; its own gradients by autograd, and one direction of each by finite differences."""
    probes, hidden = made(form, attention, probe_std=0.5), tokens()
    found = probe_collapse(probes, hidden, seed=4)
    weights = [probes.probes, *(one.proj.weight for one in probes.attentions)]

    def read() -> Tensor:
        return (by_hand(probes, hidden) * readout(4)).sum() / 2

    gradients = torch.autograd.grad(read(), weights)
    assert [one.gradient for one in (found.start, *found.layers)] == pytest.approx([float(one.norm()) for one in gradients], rel=1e-9)
    with torch.no_grad():
        for weight, one, gradient in zip(weights, (found.start, *found.layers), gradients, strict=True):
            # along the gradient the slope is its norm
            step = 1e-5 * gradient / gradient.norm()
            weight += step
            above = read()
            weight -= 2 * step
            below = read()
            weight += step
            assert one.gradient == pytest.approx(float(above - below) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_cosines_are_those_of_a_loop(form) -> None:
    probes, hidden = made(form, probe_std=0.5), tokens()
    behind = [probes.begin(2)]
    for layer in probes.layers:
        behind.append(probes.read(layer, behind[-1], hidden[layer]))
    want = []
    for read in behind:
        cosines = []
        for sample in read.tolist():
            for a, b in permutations(sample, 2):
                dot = sum(x * y for x, y in zip(a, b, strict=True))
                cosines.append(dot / math.hypot(*a) / math.hypot(*b))
        want.append(sum(cosines) / len(cosines))
    found = probe_collapse(probes, hidden)
    assert [one.similarity for one in (found.start, *found.layers)] == pytest.approx(want, rel=1e-12)
    assert [one.layer for one in (found.start, *found.layers)] == [None, 0, 2]
    assert (found.samples, found.dtype) == (2, "float64")


@pytest.mark.parametrize("form", FORMS)
def test_padded_and_packed_samples_say_the_same(form) -> None:
    """And the mean over two samples of unequal length is not that of the longer one alone."""
    probes, lengths = made(form, probe_std=0.5), [4, 7]
    rows = [torch.cat([one[0, :4], one[1]]) for one in tokens()]
    both = [pad(one, lengths) for one in rows]
    mask = both[0][1]
    assert torch.equal(pack(both[0][0], mask), rows[0])
    padded = probe_collapse(probes, [one for one, _ in both], mask)
    packed = probe_collapse(probes, [one[None] for one in rows], block_mask(lengths, 3))
    alone = [probe_collapse(probes, [one[None] for one in part]) for part in ([one[:4] for one in rows], [one[4:] for one in rows])]
    assert padded.samples == packed.samples == 2
    for a, b in zip(numbers(padded), numbers(packed), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    for place, (similarity, gradient) in enumerate(numbers(padded)):
        singles = [numbers(one)[place] for one in alone]
        assert similarity == pytest.approx(sum(one for one, _ in singles) / 2, rel=1e-9)
        assert gradient <= sum(one for _, one in singles) / 2 * (1 + 1e-9)
        assert place == 0 or similarity != pytest.approx(singles[1][0], rel=1e-6)


def test_the_published_form_collapses_and_ours_does_not() -> None:
    """On a random tower of eight layers, where every module has random weights too."""
    torch.manual_seed(2)
    hidden = [torch.randn(2, 20, 32) for _ in range(8)]
    found = {}
    for form in FORMS:
        torch.manual_seed(0)
        found[form] = probe_collapse(VisualProbes(32, 4, range(8), 8, form=form), hidden, dtype=torch.float64)
    published, ours = found["published"].layers, found["residual"].layers
    assert all(one.similarity > 0.999 for one in published)
    assert published[0].gradient < 1e-8 * published[-1].gradient
    assert all(a.gradient < 0.2 * b.gradient for a, b in pairwise(published))
    assert all(abs(one.similarity) < 0.3 for one in ours)
    assert 0.2 < ours[0].gradient / ours[-1].gradient < 5
    text = str(found["published"]).splitlines()
    assert text[0].startswith("8 denoising probes, no residual, tokens as they are; 2 samples, float64")
    assert len(text) == 11
    assert text[3].split() == ["layer", "0", f"{published[0].similarity:.6f}", f"{published[0].gradient:.1e}"]


def test_nothing_of_the_probes_is_changed_and_any_state_will_do() -> None:
    """Training with dropout, frozen, half precision, in inference mode, under autocast: the numbers are those of the function in evaluation mode."""
    hidden = [one.float() for one in tokens()]
    probes = made(time=4, time_std=1.0).float().train()
    frame = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    want = probe_collapse(probes, hidden, frame=frame)
    assert want.dtype == "float32"
    probes.attentions[0].proj_drop.p = 0.5
    probes.requires_grad_(False)
    before = {name: value.clone() for name, value in probes.state_dict().items()}
    with torch.inference_mode():
        given = {layer: hidden[layer].clone() for layer in (0, 2)}
        assert probe_collapse(probes, given, torch.ones(2, 7, dtype=torch.bool), frame.clone()) == want
    with torch.autocast("cpu", torch.bfloat16):
        assert probe_collapse(probes, hidden, frame=frame) == want
    assert probes.training
    assert all(value.grad is None and not value.requires_grad for value in probes.parameters())
    assert all(torch.equal(value, before[name]) for name, value in probes.state_dict().items())
    half = probe_collapse(probes.bfloat16(), [one.bfloat16() for one in hidden], frame=frame)
    assert half.dtype == "float32"
    assert [one.gradient for one in half.layers] == pytest.approx([one.gradient for one in want.layers], rel=0.05)
    assert probe_collapse(made(num_probes=1), tokens()).layers[0].similarity is None


def test_in_a_videollama() -> None:
    """Two videos of unequal size, by hand: layers of the tower run alone, video by video."""
    pytest.importorskip("transformers")
    from foveal.models.video_language import attached_probes
    from tests.models.test_video_llama import GRIDS, attached, both, host

    model, given = attached(form="published").requires_grad_(False), both()
    parts, at, want = attached_probes(model), 0, []
    for grid in GRIDS:
        size = math.prod(grid)
        rows = {"pixel_values": given["pixel_values_videos"][at : at + size], "grid_thw": torch.tensor([grid]), "merge_sizes": torch.tensor([2])}
        with torch.no_grad():
            hidden = host().model.vision_model(**rows, output_hidden_states=True).hidden_states[1:]
        at += size
        read = parts.probes.double()
        probes, cosines = read.begin(1), []
        for layer in read.layers:
            probes = read.read(layer, probes, hidden[layer][None].double())
            cosines.append(float(read.similarity(probes)))
        want.append(cosines)
        read.float()
    found = probe_collapse_in(model, lambda: model(**given), dtype=torch.float64)
    assert [one.similarity for one in found.layers] == pytest.approx([sum(both) / 2 for both in zip(*want, strict=True)], abs=1e-6)
    assert found.samples == 2
    assert found.layers[0].gradient < 1e-2 * found.layers[1].gradient
    looked = {"pixel_values_videos": given["pixel_values_videos"], "video_grid_thw": given["video_grid_thw"], "video_merge_sizes": given["video_merge_sizes"]}
    assert probe_collapse_in(model, lambda: model.model.get_video_features(**looked), dtype=torch.float64) == found, "without the language model"
    assert not parts.probes._forward_pre_hooks


def test_in_a_video_language_model() -> None:
    pytest.importorskip("transformers")
    from foveal.models.video_language import read_tower
    from tests.models.test_video_language import model, padded, sample, videos

    whole, clips = model(time=3), videos()
    ids, mask = padded(sample([7, 8]), sample([9]))
    frames = torch.tensor([[True, True, True], [True, True, False]])
    ids[1, ids[1] == 38] = torch.tensor([38] * 8 + [5] * 4)
    found = probe_collapse_in(whole, lambda: whole(ids, clips, mask, frames=frames))
    with torch.no_grad():
        seen = read_tower(whole.tower, clips.flatten(0, 1))
    count = seen.layers[0].shape[1]
    hidden = [one.unflatten(0, (2, 3)).flatten(1, 2) for one in seen.layers]
    want = probe_collapse(whole.probes, hidden, frames.repeat_interleave(count, 1), torch.arange(3).repeat_interleave(count))
    for a, b in zip(numbers(found), numbers(want), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    assert found.dtype == "float64"


def test_what_is_refused() -> None:
    probes, hidden = made(), tokens()
    with pytest.raises(ValueError, match=r"got torch\.bfloat16"):
        probe_collapse(probes, hidden, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"hidden_states\[1:\]"):
        probe_collapse(probes, hidden[:2])
    with pytest.raises(ValueError, match="meta device"):
        probe_collapse(made().to("meta"), hidden)
    with pytest.raises(ValueError, match=r"this Linear has no visual probes.*attach_probes_"):
        probe_collapse_in(torch.nn.Linear(2, 2), lambda: None)
    with pytest.raises(ValueError, match=r"probes at 0, 1; .*get_submodule\('0'\)"):
        probe_collapse_in(torch.nn.ModuleList([made(), made()]), lambda: None)
    with pytest.raises(ValueError, match="did not come to the probes"):
        probe_collapse_in(probes, lambda: None)
    with pytest.raises(ZeroDivisionError):
        probe_collapse_in(probes, lambda: 1 / 0)
    assert not probes._forward_pre_hooks
    probes.attentions[1].proj = torch.nn.Identity()
    with pytest.raises(ValueError, match="attention at layer 2, 'denoising', has no output projection"):
        probe_collapse(probes, hidden)
