"""Attentions with windows are told the grid by the host or by the user, before anything is changed; what changes as the model runs is followed or refused."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, HaloAttention, InputError, convert, convert_
from tests.convert.hosts import SIZES, WINDOWS, maxxvit, of_timm
from tests.convert.test_hosts import run, stirred, timm_vit
from tests.convert.towers import TwoTowers, Visual

H = HaloAttention.Config(block_size=2, halo_size=1)


def windows_by_hand(attention: HaloAttention, x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """Pair by pair: who sees whom in blocks of 2 with a halo of 1, with relative positions at zero as conversion leaves them."""
    rows, columns = grid
    sees = torch.zeros(prefix + rows * columns, prefix + rows * columns, dtype=torch.bool)
    sees[:prefix], sees[:, :prefix] = True, True
    for y in range(rows):
        for z in range(columns):
            for other_y in range(rows):
                for other_z in range(columns):
                    near = all(2 * (a // 2) - 1 <= b <= 2 * (a // 2) + 2 for a, b in ((y, other_y), (z, other_z)))
                    sees[prefix + y * columns + z, prefix + other_y * columns + other_z] = near
    q, k, v = F.linear(x, attention.qkv.weight, attention.qkv.bias).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~sees, -math.inf).softmax(-1)
    return attention.proj(attention.norm((weights @ v).transpose(1, 2).flatten(2)))


def check_first(model: nn.Module, images: Tensor, grid: tuple[int, int], prefix: int) -> None:
    """The first attention with windows, on the tokens that reach it."""
    attention = next(module for module in model.modules() if isinstance(module, HaloAttention))
    seen: list[tuple[Tensor, Tensor]] = []
    handle = attention.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        run(model, images)
        handle.remove()
        torch.testing.assert_close(seen[0][1], windows_by_hand(attention, seen[0][0], grid, prefix), rtol=1e-4, atol=1e-5)


def tower(name: str, **options: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes | options))


WIDE = {
    "open_clip": (lambda: Visual((32, 72), 8), (32, 72), (4, 9), 1),
    "open_clip, 2 by 8": (lambda: Visual((16, 64), 8), (16, 64), (2, 8), 1),
    "timm": (lambda: timm_vit(img_size=(8, 32)), (8, 32), (1, 4), 1),
    "timm, patches no squares": (lambda: timm_vit(img_size=64, patch_size=(32, 8), reg_tokens=2), (64, 64), (2, 8), 3),
    "timm, all tokens a square": (lambda: timm_vit(img_size=(24, 40)), (24, 40), (3, 5), 1),
    "timm DeiT": (of_timm("deit", "VisionTransformerDistilled", **SIZES | {"img_size": (32, 72)}), (32, 72), (4, 9), 2),
    "timm EVA": (of_timm("eva", "Eva", **SIZES | {"img_size": (32, 72)}), (32, 72), (4, 9), 1),
    "timm BEiT": (of_timm("beit", "Beit", **SIZES | {"img_size": (32, 72)}, use_abs_pos_emb=False), (32, 72), (4, 9), 1),
    "timm SAM": (
        of_timm("vision_transformer_sam", "VisionTransformerSAM", **SIZES | {"img_size": (32, 72)}, use_rel_pos=False, window_size=0),
        (32, 72),
        (4, 9),
        0,
    ),
    "transformers ViT": (lambda: tower("ViT", image_size=(32, 72), patch_size=8), (32, 72), (4, 9), 1),
    "transformers ViT, patches no squares": (lambda: tower("ViT", image_size=(32, 32), patch_size=(16, 4)), (32, 32), (2, 8), 1),
    "transformers DeiT": (lambda: tower("DeiT", image_size=(32, 72), patch_size=8), (32, 72), (4, 9), 2),
    "transformers BEiT": (lambda: tower("Beit", image_size=(32, 72), patch_size=8), (32, 72), (4, 9), 1),
    "transformers ViTMSN": (lambda: tower("ViTMSN", image_size=(16, 64), patch_size=8), (16, 64), (2, 8), 1),
    "transformers IJepa": (lambda: tower("IJepa", image_size=(32, 72), patch_size=8), (32, 72), (4, 9), 0),
}


@pytest.mark.case("C4")
@pytest.mark.parametrize("name", list(WIDE))
@pytest.mark.parametrize("wrapped", [False, True])
def test_grids_that_are_no_squares_are_read_off_the_host(name, wrapped) -> None:
    """36, 16 and 4 patches are squares, but lie in other rows; and 15 with a class token."""
    torch.manual_seed(0)
    make, size, grid, prefix = WIDE[name]
    model = stirred(make())
    model = nn.Sequential(nn.Identity(), model) if wrapped else model
    convert_(model, H)
    check_first(model, torch.randn(2, 3, *size), grid, prefix)


@pytest.mark.case("C4")
def test_the_vision_tower_of_two_is_converted_on_its_grid() -> None:
    torch.manual_seed(0)
    model = stirred(TwoTowers())
    for where in ("visual*", "*"):
        other, report = convert(model, H, where)
        assert [swap.name for swap in report.swaps] == [f"visual.transformer.resblocks.{n}.attn" for n in range(2)]
        assert {swap.to["grid_size"] for swap in report.swaps} == {(4, 9)}
        check_first(other.visual, torch.randn(1, 3, 32, 72), (4, 9), 1)
    core, _ = convert(model, DenoisingAttention.Config(core="halo", core_options={"block_size": 2, "halo_size": 1}), "visual*")
    assert core.visual.transformer.resblocks[0].attn.attn.core.grid_size == (4, 9)


class Own(nn.Module):
    """A transformer of a user's own: 16 tokens in 2 rows of 8, and nothing that says so."""

    def __init__(self, tokens_first: int = 0) -> None:
        super().__init__()
        self.cut, self.first = nn.Conv2d(3, 16, (32, 8), (32, 8)), nn.Parameter(torch.randn(1, tokens_first, 16))
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first.expand(len(x), -1, -1), self.cut(x).flatten(2).mT], 1)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.case("C4")
@pytest.mark.parametrize("make", [Own, lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1)])
@pytest.mark.parametrize("where", ["*", "layers.0.self_attn"])
@pytest.mark.parametrize("config", [H, DenoisingAttention.Config(core="halo")])
def test_where_nobody_says_the_grid_it_is_asked_for(make, where, config) -> None:
    model = make()
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(InputError, match=r"does not say how the tokens of .* lie; .* give the configuration grid_size=\(rows, columns\)"):
        convert_(model, config, where)
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.case("C4")
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_grid_that_the_user_gives_is_taken(prefix) -> None:
    torch.manual_seed(0)
    model = stirred(Own(prefix))
    convert_(model, HaloAttention.Config(block_size=2, halo_size=1, grid_size=(2, 8), num_prefix_tokens=prefix))
    check_first(model, torch.randn(2, 3, 64, 64), (2, 8), prefix)
    with pytest.raises(InputError, match="a grid of 2×8"):
        model(torch.randn(1, 3, 64, 128))
    with pytest.raises(InputError, match=r"grid_size=\(2, 2\) is not the grid of this model"):
        convert_(timm_vit(), HaloAttention.Config(grid_size=(2, 2)))


@pytest.mark.case("C4")
@pytest.mark.parametrize("kind", ["timm XCiT", "timm SAM", "timm CaiT", "open_clip", "transformers ViT", "transformers Dinov2WithRegisters"])
def test_images_of_another_size_are_followed_or_refused(kind) -> None:
    """A square of 36 tokens and 4 rows of 9 are as many: XCiT, SAM and the towers that resample their positions take both."""
    torch.manual_seed(0)
    model = {
        "timm XCiT": of_timm("xcit", "Xcit", **SIZES | {"img_size": 48, "cls_attn_layers": 1}),
        "timm SAM": of_timm("vision_transformer_sam", "VisionTransformerSAM", **SIZES | {"img_size": 48}, use_rel_pos=False, window_size=0, use_abs_pos=False),
        "timm CaiT": of_timm("cait", "Cait", **SIZES | {"img_size": 48}),
        "open_clip": lambda: Visual((48, 48), 8),
        "transformers ViT": lambda: tower("ViT", image_size=48, patch_size=8),
        "transformers Dinov2WithRegisters": lambda: tower("Dinov2WithRegisters", image_size=48, patch_size=8),
    }[kind]()
    model = stirred(model)
    host = copy.deepcopy(model)
    convert_(model, H)
    options = {"interpolate_pos_encoding": True} if kind == "transformers ViT" else {}
    square, wide = torch.randn(1, 3, 48, 48), torch.randn(1, 3, 32, 72)
    model(square, **options)
    try:
        host(wide, **options)
    except (AssertionError, RuntimeError):
        # the host takes one size alone
        return
    with pytest.raises(InputError, match=r"expects a (square grid|grid of 6×6) of tokens, and this image makes 4×9"):
        model(wide, **options)
    foveal.revert_(model)
    model(wide, **options)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.case("C4")
def test_timms_new_input_size_is_followed_where_the_grid_is_a_square() -> None:
    torch.manual_seed(0)
    model = stirred(timm_vit())
    convert_(model, H)
    model.set_input_size(img_size=48)
    check_first(model, torch.randn(1, 3, 48, 48), (6, 6), 1)
    model.set_input_size(img_size=(32, 72))
    with pytest.raises(InputError, match="expects a square grid of tokens, and this image makes 4×9"):
        model(torch.randn(1, 3, 32, 72))


@pytest.mark.case("C4")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning", "ignore:torch.searchsorted:UserWarning")
def test_windows_of_a_host_that_turn_are_followed() -> None:
    """Swin's own windows of 2 rows of 4, then of 4 rows of 2, where they are not shifted."""
    torch.manual_seed(0)
    model = stirred(of_timm("swin_transformer", "SwinTransformer", **WINDOWS | {"img_size": (32, 64), "window_size": (2, 4), "depths": (1, 1)})())
    report = convert_(model, H, where="layers.0.*.attn")
    assert [swap.to["grid_size"] for swap in report.swaps] == [(2, 4)]
    check_first(model, torch.randn(1, 3, 32, 64), (2, 4), 0)
    model.set_input_size(img_size=(64, 32), window_size=(4, 2))
    check_first(model, torch.randn(1, 3, 64, 32), (4, 2), 0)


@pytest.mark.case("C4")
@pytest.mark.parametrize(
    "make",
    [lambda: timm_vit(patch_drop_rate=0.5), of_timm("eva", "Eva", **SIZES, patch_drop_rate=0.5), lambda: Visual((32, 72), 8, patch_dropout=True)],
)
def test_patches_that_are_dropped_leave_no_grid(make) -> None:
    with pytest.raises(InputError, match="there is none where patches are dropped at random"):
        convert_(make(), H)


@pytest.mark.case("C4")
def test_blocks_on_maps_say_their_grid_in_every_call() -> None:
    """CoAtNet attends to the whole map, MaxViT to windows of it."""
    torch.manual_seed(0)
    model = stirred(maxxvit("T", "bias", False)())
    report = convert_(model, H, where="stages.*.blocks.[1-9].attn")
    assert len(report.swaps) == 1
    model(torch.randn(1, 3, 16, 16))
    attention = next(module for module in model.modules() if isinstance(module, HaloAttention))
    attention.core.grid_size = (2, 8)
    with pytest.raises(InputError, match="expects a grid of 2×8 of tokens, and this image makes 4×4"):
        model(torch.randn(1, 3, 16, 16))


@pytest.mark.case("C18")
@pytest.mark.parametrize("registers", [4, 1])
def test_dinov2_with_registers_is_converted_behind_its_registers(registers) -> None:
    torch.manual_seed(0)
    model = stirred(tower("Dinov2WithRegisters", image_size=28, patch_size=14, num_register_tokens=registers))
    images = torch.randn(2, 3, 42, 42)
    exact, report = convert(model, DenoisingAttention.Config(), warm_start="exact")
    assert {swap.output for swap in report.swaps} == {"identical"}
    torch.testing.assert_close(run(exact, images), run(model, images), rtol=1e-4, atol=1e-5)
    convert_(model, H)
    check_first(model, images, (3, 3), 1 + registers)


@pytest.mark.case("C18")
@pytest.mark.parametrize("name", ["ViTMSN", "IJepa", "Pixio", "ChineseCLIPVision", "DPT", "Yolos", "Siglip2Vision"])
def test_siblings_of_the_same_shape_keep_their_function(name) -> None:
    torch.manual_seed(0)
    options = {"Yolos": {"image_size": [32, 32]}, "DPT": {"backbone_out_indices": [0]}, "Siglip2Vision": {"num_patches": 16}}.get(name, {"image_size": 32})
    model = stirred(tower(name, **{"patch_size": 8} | options))
    inputs: dict[str, Tensor] = {"pixel_values": torch.randn(2, 3, 32, 32)}
    if name == "Siglip2Vision":
        inputs = {"pixel_values": torch.randn(2, 16, 192), "spatial_shapes": torch.tensor([[4, 4], [2, 6]])}
        inputs["pixel_attention_mask"] = torch.ones(2, 16, dtype=torch.long)
        inputs["pixel_attention_mask"][1, 12:] = 0
    other, report = convert(model, DenoisingAttention.Config(), warm_start="exact")
    assert {swap.output for swap in report.swaps} == {"identical"}
    with torch.no_grad():
        torch.testing.assert_close(other(**inputs).last_hidden_state, model(**inputs).last_hidden_state, rtol=1e-4, atol=1e-5)
