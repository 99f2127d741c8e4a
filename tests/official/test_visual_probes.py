"""Probes against the authors': outputs and gradients, from the layers that they stored and through transformers' tower."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from foveal import official
from foveal.models import VisualProbes
from foveal.models.probes import block_mask, pack, pad
from tests.official.test_golden import GOLDEN, part, read, relative

CASES = sorted(path.stem for path in GOLDEN.glob("dna_visual_probes_*.safetensors"))


def loaded(case: str) -> tuple[torch.nn.Module, dict, dict[str, Tensor]]:
    kind, settings, tensors = read(case)
    return official.load(kind, part(tensors, "state.", torch.float64), **settings), settings, tensors


def lengths(tensors: dict[str, Tensor]) -> list[int]:
    return tensors["input.grid_thw"].prod(dim=1).tolist()


def hidden(tensors: dict[str, Tensor]) -> list[Tensor]:
    return [tensors[f"hidden.{index}"] for index in range(sum(key.startswith("hidden.") for key in tensors))]


def assert_gradients(module: torch.nn.Module, settings: dict, tensors: dict[str, Tensor], tolerance: float) -> None:
    wanted = official.translate("dna.visual_probes", part(tensors, "grad.state.", torch.float64), **settings)
    largest = max(value.abs().max().item() for value in wanted.values())
    ours = {name: value for name, value in module.named_parameters() if value.requires_grad}
    assert ours.keys() == wanted.keys(), "the tower is frozen, and all else has a gradient"
    for name, want in wanted.items():
        # a bias of keys moves all logits of a probe alike, and cancels
        size = want.abs().max().item()
        assert (ours[name].grad - want).abs().max().item() < tolerance * (size if size > 1e-9 * largest else largest), name


def test_there_are_three() -> None:
    assert len(CASES) == 3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "in a row"])
def test_outputs_and_gradients_from_the_layers(case, packed) -> None:
    module, settings, tensors = loaded(case)
    counts = lengths(tensors)
    if packed:
        mask = block_mask(counts, settings["num_probes"])
        output = module.probes([layer[None] for layer in hidden(tensors)], mask)[0]
    else:
        layers = [pad(layer, counts) for layer in hidden(tensors)]
        output = module.probes([layer for layer, _ in layers], layers[0][1]).flatten(0, 1)
    assert relative(output, tensors["output"]) < 1e-10
    (output * tensors["cotangent"].double()).sum().backward()
    assert_gradients(module, settings, tensors, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_through_the_tower(case) -> None:
    """transformers turns by angles in single precision, and so 1e-5."""
    module, settings, tensors = loaded(case)
    features, output = module(tensors["input.pixel_values"].double(), tensors["input.grid_thw"], tensors["input.merge_sizes"])
    assert relative(features, tensors["output.features"]) < 1e-5
    assert relative(output, tensors["output"]) < 1e-5
    (output * tensors["cotangent"].double()).sum().backward()
    assert_gradients(module, settings, tensors, 1e-4)


def test_the_published_probes_do_not_see_the_order_of_frames() -> None:
    """The authors' own numbers: a video's frames reversed leave its probes as they are."""
    module, _, tensors = loaded(CASES[0])
    counts, grids = lengths(tensors), tensors["input.grid_thw"].tolist()
    video = next(index for index, (frames, _, _) in enumerate(grids) if frames > 1)

    def reversed_(layer: Tensor) -> Tensor:
        samples = list(layer.split(counts))
        samples[video] = samples[video].unflatten(0, (grids[video][0], -1)).flip(0).flatten(0, 1)
        return torch.cat(samples)

    layers = [pad(reversed_(layer), counts) for layer in hidden(tensors)]
    assert (reversed_(tensors["hidden.0"]) - tensors["hidden.0"]).abs().max() > 0.1
    output = module.probes([layer for layer, _ in layers], layers[0][1]).flatten(0, 1)
    assert relative(output, tensors["output"]) < 1e-10


@pytest.mark.parametrize("prefix", ["model.vision_encoder.vision_encoder.", "base_model.model.model.vision_encoder.vision_encoder."])
def test_names_in_a_whole_model(prefix) -> None:
    kind, settings, tensors = read(CASES[0])
    state = part(tensors, "state.", torch.float64)
    got = official.translate(kind, {prefix + key: value for key, value in state.items()}, **settings)
    want = official.translate(kind, state, **settings)
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


def test_a_layer_less_than_there_are_modules_is_refused() -> None:
    kind, settings, tensors = read(CASES[0])
    with pytest.raises(ValueError, match=r"left over .*attentions\.2"):
        official.load(kind, part(tensors, "state.", torch.float64), **settings | {"layers": [0, 1]})
    with pytest.raises(ValueError, match="softmax"):
        official.load(kind, part(tensors, "state.", torch.float64), **settings | {"attention": "efficient"})


def test_plain_and_denoising_modules_are_not_taken_for_each_other() -> None:
    kind, settings, tensors = read("dna_visual_probes_softmax")
    with pytest.raises(ValueError, match="missing"):
        official.load(kind, part(tensors, "state.", torch.float64), **settings | {"attention": "denoising"})


@pytest.mark.parametrize(
    ("attention", "published"),
    [("softmax", 143_451_648), ("denoising", 215_177_904), ({"attention": "softmax", "attn_head_dim": 108}, 215_161_920)],
)
def test_published_counts(attention, published) -> None:
    """27 layers of width 1152 in 16 heads, and the control with as many."""
    probes = VisualProbes(1152, 16, range(27), attention=attention, form="published", device="meta")
    assert sum(p.numel() for p in probes.attentions.parameters()) == published
    assert sum(p.numel() for p in probes.parameters()) == published + 18_432


def test_packing_is_undone() -> None:
    packed = torch.randn(9, 4)
    padded, mask = pad(packed, [2, 6, 1])
    assert padded.shape == (3, 6, 4)
    assert torch.equal(pack(padded, mask), packed)
    assert not padded[~mask].any()
