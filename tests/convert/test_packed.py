"""Attention in VideoLLaMA 3's vision tower, whose frames lie in one row."""

import copy
import pickle

import pytest
import torch
from torch import nn

import foveal

pytest.importorskip("transformers")

from transformers.models.video_llama_3 import VideoLlama3VisionConfig, VideoLlama3VisionModel


def tower(implementation: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    config = VideoLlama3VisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=2)
    return VideoLlama3VisionModel._from_config(config, attn_implementation=implementation).eval()


def given() -> dict[str, torch.Tensor]:
    """A video of two frames and a picture, of other sizes."""
    torch.manual_seed(1)
    return {"pixel_values": torch.randn(2 * 8 + 4, 12), "grid_thw": torch.tensor([[2, 4, 2], [1, 2, 2]]), "merge_sizes": torch.tensor([2, 1])}


def test_softmax_and_exact_denoising_keep_the_function() -> None:
    want = tower()(**given(), output_hidden_states=True)
    for config, warm_start in ((foveal.SoftmaxAttention.Config(), None), (foveal.DenoisingAttention.Config(), "exact")):
        model = tower()
        report = foveal.convert_(model, config, warm_start=warm_start)
        assert [swap.name for swap in report.swaps] == ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]
        assert {swap.output for swap in report.swaps} == {"identical"}
        again = pickle.loads(pickle.dumps(model))
        got = model(**given(), output_hidden_states=True)
        torch.testing.assert_close(got.last_hidden_state, want.last_hidden_state, rtol=1e-4, atol=1e-5)
        assert len(got.hidden_states) == 3
        assert torch.equal(again(**given()).last_hidden_state, got.last_hidden_state)


def test_every_frame_is_by_itself() -> None:
    model = tower()
    foveal.convert_(model, foveal.EfficientAttention.Config())
    batch = given()
    before = model(**batch, output_hidden_states=True).hidden_states[-1]
    batch["pixel_values"][:8] += 1
    after = model(**batch, output_hidden_states=True).hidden_states[-1]
    assert (after[:8] - before[:8]).abs().max() > 1e-2
    assert torch.equal(after[8:], before[8:])


def test_maps_are_those_of_the_host() -> None:
    model, other = tower("eager"), tower("eager")
    foveal.convert_(model, foveal.SoftmaxAttention.Config())
    want, got = (one.encoder.layers[0].self_attn for one in (other, model))
    hidden = torch.randn(20, 16)
    angles, lengths = torch.randn(20, 4).repeat(1, 2), torch.tensor([0, 8, 16, 20])
    turned = angles.cos(), angles.sin()
    first, second = (one(hidden, cu_seqlens=lengths, position_embeddings=turned) for one in (want, got))
    torch.testing.assert_close(second[0], first[0], rtol=1e-4, atol=1e-5)
    for theirs, ours in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_goes_back() -> None:
    model = tower()
    want = copy.deepcopy(model.state_dict())
    foveal.convert_(model, foveal.DenoisingAttention.Config())
    foveal.revert_(model)
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())


def test_what_needs_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="frames of any size"):
        foveal.convert_(tower(), foveal.HaloAttention.Config())
