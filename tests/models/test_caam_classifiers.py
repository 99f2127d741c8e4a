"""CaaM's networks as timm's classifiers: what is answered, what training reads, and where the streams part."""

import pytest
import timm
import torch
from torch import nn

from foveal import InputError
from foveal.models import CausalBlock, CausalResNet, CausalT2TViT, EnvironmentHeads
from tests.models.timm_contract import TimmContract, stir


class TestCausalResNet(TimmContract):
    name = "test_fov_caam_resnet"
    # read from the mixture, which is for training
    without_gradient = ("head.mixture",)


class TestCausalT2TViT(TimmContract):
    name = "test_fov_caam_t2t_vit"
    without_gradient = ("head.mixture",)


def test_the_registered_resnet_is_the_network_and_its_heads() -> None:
    model = timm.create_model("fov_caam_resnet18", device="meta")
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in CausalResNet().parameters()) + 4 * 10 * 512 + 10 * 512 + 10
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32]
    for info in model.feature_info:
        assert model.get_submodule(info["module"]).conv2.out_channels == info["num_chs"]


def test_the_registered_transformer_by_hand() -> None:
    """T2T-ViT-7; the causal blocks count as the plain ones, the norm for the complement is shared."""
    model, host = timm.create_model("fov_caam_t2t_vit_7", device="meta"), timm.create_model("fov_t2t_vit_7", num_classes=0, device="meta")
    assert [isinstance(block, CausalBlock) for block in model.blocks] == [False] * 3 + [True] * 4
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in host.parameters()) + 4 * 10 * 256 + 10 * 256 + 10
    own = timm.create_model("fov_caam_t2t_vit_7", complement_norm=True, device="meta")
    assert sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in model.parameters()) == 4 * 2 * 256


@pytest.mark.parametrize("name", ["test_fov_caam_resnet", "test_fov_caam_t2t_vit"])
def test_the_answer_is_the_mean_of_the_heads_on_the_causal_stream(name) -> None:
    model, x = stir(timm.create_model(name)).double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    streams = model.streams(x)
    assert all(stream.shape == (3, model.num_features) for stream in streams)
    each = torch.stack([streams.causal @ model.head.weight[head].T for head in range(4)])
    torch.testing.assert_close(model(x), each.mean(0))
    # the three are different things
    assert (streams.causal - streams.complement).abs().max() > 1e-3
    assert (streams.causal - streams.mixture).abs().max() > 1e-3


@torch.no_grad()
def test_blocks_of_the_transformer_hand_on_the_mixture() -> None:
    model, x = stir(timm.create_model("test_fov_caam_t2t_vit")).double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(x)], dim=1) + model.pos_embed
    for block in model.blocks[:2]:
        tokens = block(tokens)
    causal, complement, mixture = CausalBlock.forward(model.blocks[2], tokens)
    torch.testing.assert_close(mixture, causal + complement)
    last = CausalBlock.forward(model.blocks[3], mixture)
    for got, want in zip(model.streams(x), last, strict=True):
        torch.testing.assert_close(got, model.norm(want)[:, 0])


@pytest.mark.parametrize("name", ["test_fov_caam_resnet", "test_fov_caam_t2t_vit"])
def test_training_on_the_streams_reaches_every_head(name) -> None:
    model = stir(timm.create_model(name))
    streams = model.streams(torch.randn(4, 3, 32, 32))
    logits = model.head.of_environment(streams.causal, torch.tensor([0, 1, 2, 3]))
    (logits.logsumexp(-1).sum() + model.head.mixture(streams.mixture).logsumexp(-1).sum()).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent <= {"pos_embed"}


def test_number_of_environments_and_place_of_the_split_are_options() -> None:
    model = timm.create_model("fov_caam_resnet18", num_environments=7, split_stage=3, device="meta")
    assert model.head.weight.shape == (7, 10, 512)
    assert len(model.trunk.two_streams) == 2
    model.reset_classifier(5)
    assert model.head.weight.shape == (7, 5, 512)
    assert isinstance(model.head, EnvironmentHeads)
    assert model.head.weight.is_meta


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_pruned_stages_are_gone(stage) -> None:
    model, x = stir(timm.create_model("test_fov_caam_resnet")).eval(), torch.randn(2, 3, 32, 32)
    (want,) = model.forward_intermediates(x, indices=[stage], intermediates_only=True)
    before = sum(p.numel() for p in model.parameters())
    model.prune_intermediate_layers([stage])
    assert sum(p.numel() for p in model.parameters()) < before
    assert torch.equal(model.forward_features(x), want)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CausalT2TViT(causal_depth=3, img_size=32, embed_dim=24, depth=2, num_heads=2), "causal_depth must be 1 to the depth of 2, got 3"),
        (lambda: CausalT2TViT(causal_depth=0, img_size=32, embed_dim=24, depth=2, num_heads=2), "got 0"),
        (lambda: timm.create_model("test_fov_caam_resnet").reset_classifier(3, "max"), "got 'max'"),
        (lambda: timm.create_model("test_fov_caam_resnet").forward_intermediates(torch.zeros(1, 3, 32, 32), output_fmt="NLC"), "got 'NLC'"),
        (lambda: timm.create_model("test_fov_caam_t2t_vit").blocks[3](torch.zeros(1, 5, 24), is_causal=True), "neither attn_mask nor is_causal"),
    ],
)
def test_what_has_no_meaning_is_refused(make, says) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_checkpointing_spares_no_block() -> None:
    """Each block runs once more in the backward pass."""
    model = timm.create_model("test_fov_caam_resnet").eval()
    calls: list[nn.Module] = []
    for block in (*model.trunk.one_stream, *model.trunk.two_streams):
        block.register_forward_pre_hook(lambda module, _: calls.append(module))
    model.set_grad_checkpointing()
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all(calls.count(block) == 2 for block in (*model.trunk.one_stream, *model.trunk.two_streams))
