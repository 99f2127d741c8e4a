"""Rollout against loops over tokens, heads and layers, and gradients against finite differences."""

import pytest
import torch
from torch import nn

import foveal
from foveal import InputError
from foveal.analysis import attention_maps, fold_to_grid, gradient_rollout, look_from, rollout, rollout_of, token_layout, upsample
from tests.convert.test_hosts import HOSTS, SIDE, stirred, timm_vit

IMAGES = (2, 3, SIDE, SIDE)


def vit(config: foveal.AttentionConfig | None = None, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = stirred(timm_vit(**options)).double()
    if config is not None:
        foveal.convert_(model, config, **({"warm_start": 0.7} if isinstance(config, foveal.DenoisingAttention.Config) else {}))
        for module in model.modules():
            if isinstance(module, foveal.DenoisingAttention):
                torch.nn.init.uniform_(module.lambdas, 1.1, 1.9)
    return model


def by_hand(layers: list[torch.Tensor], residual: float = 0.5) -> torch.Tensor:
    """Along every path, one entry at a time."""
    batch, _, tokens, _ = layers[0].shape
    out = torch.eye(tokens, dtype=torch.float64).repeat(batch, 1, 1)
    for layer in layers:
        new = torch.zeros_like(out)
        for b in range(batch):
            for i in range(tokens):
                for j in range(tokens):
                    weight = sum(layer[b, h, i, j].item() for h in range(layer.shape[1])) / layer.shape[1]
                    new[b, i] += (residual * (i == j) + (1 - residual) * weight) * out[b, j]
        out = new
    return out


@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_rollout_is_the_product_over_layers(residual) -> None:
    model, images = vit(patch_size=16), torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    layers = [maps["combined"] for maps in attention_maps(model, images).values()]
    got = rollout(model, images, residual=residual)
    torch.testing.assert_close(got, by_hand(layers, residual))
    torch.testing.assert_close(got.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    # the paper's own form, with its division
    paper = torch.eye(5, dtype=torch.float64)
    for layer in layers:
        mixed = layer.mean(1) + torch.eye(5, dtype=torch.float64)
        paper = mixed / mixed.sum(-1, keepdim=True) @ paper
    torch.testing.assert_close(rollout(model, images), paper)


@pytest.mark.parametrize("signed", ["positive", "negative", "combined", "magnitude"])
def test_signed_layers_are_rolled_out_as_they_are_asked(signed) -> None:
    model, images = vit(foveal.DenoisingAttention.Config(), patch_size=16), torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    every = list(attention_maps(model, images).values())
    if signed == "magnitude":
        layers = [maps["combined"].abs() / maps["combined"].abs().sum(-1, keepdim=True) for maps in every]
    else:
        layers = [maps[signed] for maps in every]
    got = rollout(model, images, signed=signed)
    torch.testing.assert_close(got, by_hand(layers))
    rows = torch.ones(2, 5, dtype=torch.float64)
    if signed == "combined":
        for values in foveal.lambdas(model).values():
            rows = rows * (1 - 0.5 * sum(values) / len(values))
        assert got.min() < 0
    torch.testing.assert_close(got.sum(-1), rows)


@pytest.mark.parametrize("heads", ["max", "min"])
def test_heads_are_made_one(heads) -> None:
    model, images = vit(patch_size=16), torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    layers = []
    for maps in attention_maps(model, images).values():
        picked = getattr(torch, heads)(maps["combined"], dim=1).values
        layers.append((picked / picked.sum(-1, keepdim=True))[:, None])
    torch.testing.assert_close(rollout(model, images, heads=heads), by_hand(layers))


@pytest.mark.parametrize("name", HOSTS)
def test_any_host_rolls_out_over_its_own_tokens(name) -> None:
    torch.manual_seed(0)
    model, images = stirred(HOSTS[name]()), torch.randn(IMAGES)
    got = rollout(model, images)
    layout = token_layout(model, got.shape[-1], (SIDE, SIDE))
    assert layout.grid == (4, 4)
    assert got.shape == (2, 16 + layout.num_prefix_tokens, 16 + layout.num_prefix_tokens)
    torch.testing.assert_close(got.sum(-1), torch.ones(2, got.shape[-1]))
    converted, _ = foveal.convert(model, foveal.ExternalAttention.Config())
    assert token_layout(converted, got.shape[-1], (SIDE, SIDE)) == layout
    assert look_from(rollout(converted, images), layout).shape == (2, 4, 4)


# -- weighted by gradients ------------------------------------------------------------------------------------------------------------------------


class Steered(nn.Module):
    """Two layers of one attention each, whose maps can be moved by hand: ``nudge`` is added to the map of a layer."""

    def __init__(self, signed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = foveal.DenoisingAttention if signed else foveal.SoftmaxAttention
        self.layers = nn.ModuleList(kind(8, 2).double() for _ in range(2))
        self.head = nn.Linear(8, 3).double()
        self.nudge: dict[tuple[int, str], torch.Tensor] = {}

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = x + (self.open(number, layer, x) if self.nudge else layer(x))
        return self.head(x[:, 0])

    def open(self, number, layer, x):
        maps = layer.attention_map(x)
        values = layer.qkv(x)[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
        if len(maps) == 1:
            out = (maps["combined"] + self.nudge.get((number, "combined"), 0)) @ values
        else:
            negative = layer.v_neg(x).unflatten(-1, (2, 4)).transpose(1, 2)
            out = (maps["positive"] + self.nudge.get((number, "positive"), 0)) @ values
            out = out - layer.lambdas.view(-1, 1, 1) * ((maps["negative"] + self.nudge.get((number, "negative"), 0)) @ negative)
        return layer.proj(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("signed", [False, True])
@torch.no_grad()
def test_gradients_weigh_the_maps(signed) -> None:
    model, x = Steered(signed).eval(), torch.randn(1, 4, 8, dtype=torch.float64)
    names = ["positive", "negative"] if signed else ["combined"]
    maps = attention_maps(model, x)
    want = torch.eye(4, dtype=torch.float64)
    for number in range(2):
        relevance = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
        for name in names:
            weights = maps[f"layers.{number}"][name]
            for place in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)).tolist():
                answers = []
                for step in (1e-5, -1e-5):
                    nudge = torch.zeros_like(weights)
                    nudge[(0, *place)] = step
                    model.nudge = {(number, name): nudge}
                    answers.append(model(x)[0, 2].item())
                relevance[(0, *place)] += (answers[0] - answers[1]) / 2e-5 * weights[(0, *place)].item()
        want = want + relevance.clamp_min(0).mean(1)[0] @ want
    model.nudge = {}
    got = gradient_rollout(model, x, 2)
    assert (got[0] - torch.eye(4)).abs().max() > 1e-3
    torch.testing.assert_close(got[0], want, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_a_host_leaves_its_parameters_alone() -> None:
    model, images = vit().float(), torch.randn(IMAGES)
    model.pos_embed.requires_grad_(False)
    before = [value.requires_grad for value in model.parameters()]
    by_class = gradient_rollout(model, images, 1)
    assert [value.requires_grad for value in model.parameters()] == before
    assert all(value.grad is None for value in model.parameters())
    assert images.grad is None
    torch.testing.assert_close(gradient_rollout(model, images, torch.tensor([1, 1])), by_class)
    torch.testing.assert_close(gradient_rollout(model, images, lambda logits: logits[:, 1]), by_class)
    assert not torch.allclose(gradient_rollout(model, images, 0), by_class)
    converted, _ = foveal.convert(model, foveal.SoftmaxAttention.Config())
    torch.testing.assert_close(gradient_rollout(converted, images, 1), by_class, rtol=1e-4, atol=1e-6)


def test_maps_off_the_path_of_gradients_are_refused() -> None:
    images = torch.randn(IMAGES)
    model = stirred(HOSTS["torchvision ViT"]())
    with pytest.raises(InputError, match=r"self_attention is a MultiheadAttention.*convert_"):
        gradient_rollout(model, images, 1)
    foveal.convert_(model, foveal.SoftmaxAttention.Config())
    assert gradient_rollout(model, images, 1).shape == (2, 17, 17)
    with pytest.raises(InputError, match=r"blocks\.0\.attn is a ExternalAttention"):
        gradient_rollout(vit(foveal.ExternalAttention.Config()).float(), images, 1)


@pytest.mark.parametrize("strides", [(1, 2), (2, 1), (2,)])
def test_tokens_that_become_fewer_are_no_rollout(strides) -> None:
    """What is left of a pyramid's layers with square maps says nothing of the tokens at its end."""
    layers = [foveal.HaloAttention2d(8, num_heads=2, block_size=2, halo_size=1, stride=stride) for stride in strides]
    with pytest.raises(InputError, match="tokens change between layers"):
        rollout(nn.Sequential(*layers), torch.randn(1, 8, 4, 4))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, x: rollout(m, x, heads="sum"), "expected heads to be one of mean, max, min"),
        (lambda m, x: rollout(m, x, signed="both"), "expected signed to be one of"),
        (lambda m, x: rollout(m, x, residual=1.5), "residual from 0 to 1"),
        (lambda m, x: rollout(m, x, where="nothing.*"), "no attention that ran is chosen"),
        (lambda m, x: rollout_of([]), "needs square maps"),
        (lambda m, x: rollout_of([torch.eye(3), torch.eye(4)]), "tokens change between layers"),
        (lambda m, x: rollout_of([torch.ones(2, 3)]), "tokens change between layers, from 3 to 2"),
        (lambda m, x: gradient_rollout(m, x, 99), "expected classes from 0 to 4"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(call, says) -> None:
    with pytest.raises(InputError, match=says):
        call(vit().float(), torch.randn(IMAGES))


# -- grids ----------------------------------------------------------------------------------------------------------------------------------------


def test_rows_are_folded_row_by_row() -> None:
    rows = torch.arange(2 * 14).view(2, 14).float()
    for folded in (fold_to_grid(rows, (3, 4)), fold_to_grid(rows, (3, 4), 2)):
        assert folded.shape == (2, 3, 4)
        assert folded[0].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]
    with pytest.raises(InputError, match="14 tokens with 1 in front do not fill a grid of 3×4"):
        fold_to_grid(rows, (3, 4), 1)
    with pytest.raises(InputError, match="do not fill"):
        fold_to_grid(rows, (4, 4))


def test_a_model_folds_its_own_tokens() -> None:
    model = stirred(timm_vit(dynamic_img_size=True, reg_tokens=3))
    maps = attention_maps(model, torch.randn(1, 3, 32, 64), reduce=lambda layer, maps: maps["combined"][:, :, 0])
    folded = fold_to_grid(maps["blocks.0.attn"], model, image_size=(32, 64))
    assert folded.shape == (1, 4, 4, 8)
    assert torch.equal(folded.flatten(-2), maps["blocks.0.attn"][..., 4:])
    with pytest.raises(InputError, match="image_size"):
        fold_to_grid(maps["blocks.0.attn"], model)
    with pytest.raises(InputError, match="are no grid of the proportions"):
        fold_to_grid(maps["blocks.0.attn"], model, image_size=(40, 32))
    with pytest.raises(InputError, match="does not say how many"):
        token_layout(nn.Linear(2, 2), 17, (32, 32))
    assert token_layout(nn.Linear(2, 2), 17, (32, 32), num_prefix_tokens=1).grid == (4, 4)


def test_nothing_stands_in_front_of_a_map() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 4, 4), foveal.HaloAttention2d(16, num_heads=2, block_size=2, halo_size=1)).eval()
    images = torch.randn(1, 3, 16, 32)
    found = attention_maps(net, images)["1"]["combined"]
    folded = fold_to_grid(found[:, :, 9], net, image_size=(16, 32))
    assert folded.shape == (1, 2, 4, 8)
    # pixel 9 is that of row 1 and column 1, whose block of 2×2 sees a halo of 1
    assert (folded[..., :3, :3] > 0).all()
    assert folded[..., :3, :3].sum((-2, -1)).allclose(torch.ones(1, 2))


def test_one_looks_from_the_class_token_a_patch_or_all() -> None:
    layout = token_layout(timm_vit(), 17, (SIDE, SIDE))
    maps = torch.rand(2, 4, 17, 17)
    assert torch.equal(look_from(maps, layout), maps[:, :, 0, 1:].unflatten(-1, (4, 4)))
    assert torch.equal(look_from(maps, layout, (1, 2)), maps[:, :, 7, 1:].unflatten(-1, (4, 4)))
    bare = token_layout(timm_vit(class_token=False, global_pool="avg"), 16, (SIDE, SIDE))
    assert bare.num_prefix_tokens == 0
    pooled = torch.rand(2, 16, 16)
    torch.testing.assert_close(look_from(pooled, bare), pooled.mean(1).unflatten(-1, (4, 4)))


def test_upsampling_keeps_the_middle_and_the_size() -> None:
    picture = torch.zeros(2, 3, 4, 4)
    picture[..., 1, 2] = 1
    large = upsample(picture, (36, 20))
    assert large.shape == (2, 3, 36, 20)
    assert divmod(large[0, 0].argmax().item(), 20) == (13, 12)
    torch.testing.assert_close(large.mean((-1, -2)), picture.mean((-1, -2)), rtol=1e-5, atol=1e-6)
