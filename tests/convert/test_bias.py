"""What attentions add to their logits out of their own parameters, images one behind the other, output maps beside them: read, trained and given back."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention


def _relative(side: int) -> Tensor:
    """Places of a table of all distances on a grid, forth and back."""
    row, column = torch.arange(side * side) // side, torch.arange(side * side) % side
    return (row[:, None] - row + side - 1) * (2 * side - 1) + column[:, None] - column + side - 1


class TableAttention(nn.Module):
    """A table of a parameter, heads first or last, read by an index; kept between calls in evaluation, as LeViT keeps it."""

    def __init__(self, dim: int = 16, heads: int = 4, side: int = 4, heads_first: bool = False, keeps: bool = False) -> None:
        super().__init__()
        self.heads, self.heads_first, self.keeps = heads, heads_first, keeps
        self.kept: dict[str, Tensor] = {}
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        places = (2 * side - 1) ** 2
        self.table = nn.Parameter(0.5 * torch.randn((heads, places) if heads_first else (places, heads)))
        self.register_buffer("index", _relative(side))

    def train(self, mode: bool = True) -> "TableAttention":
        self.kept = {} if mode else self.kept
        return super().train(mode)

    def bias(self) -> Tensor:
        made = self.table[:, self.index] if self.heads_first else self.table[self.index].permute(2, 0, 1)
        return self.kept.setdefault("cpu", made) if self.keeps and not self.training else made

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT / q.shape[-1] ** 0.5 + self.bias()
        if attention_mask is not None:
            # a mask a window, twice, as Swin V2 of transformers adds it
            logits = logits + 2 * attention_mask.repeat(len(x) // len(attention_mask), 1, 1)[:, None]
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class NetworkAttention(TableAttention):
    """Cosine attention, and a bias of a small network of coordinates, as in Swin V2."""

    def __init__(self, dim: int = 16, heads: int = 4, side: int = 4) -> None:
        super().__init__(dim, heads, side)
        self.table = None
        self.mlp = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, heads, bias=False), nn.Dropout(0.0))
        self.logit_scale = nn.Parameter(torch.randn(heads, 1, 1) + 1)
        self.register_buffer("coordinates", torch.linspace(-1, 1, 2 * (2 * side - 1) ** 2).sin().view(1, 2 * side - 1, 2 * side - 1, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.logit_scale.clamp(max=math.log(100.0)).exp()
        bias = self.mlp(self.coordinates).view(-1, self.heads)[self.index].permute(2, 0, 1)
        return self.out(((logits + 16 * bias.sigmoid()).softmax(-1) @ v).transpose(1, 2).flatten(2))


class DecomposedAttention(nn.Module):
    """Queries times tables of rows and of columns, over maps (B, H, W, C), as in SAM."""

    def __init__(self, dim: int = 16, heads: int = 4, height: int = 4, width: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.of_rows, self.of_columns = (nn.Parameter(torch.randn(2 * side - 1, dim // heads)) for side in (height, width))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT / q.shape[-1] ** 0.5
        for i in range(height * width):
            for j in range(height * width):
                both = self.of_rows[i // width - j // width + height - 1] + self.of_columns[i % width - j % width + width - 1]
                logits = logits.index_put(
                    (torch.arange(len(x))[:, None], torch.arange(self.heads), *(torch.tensor(n) for n in (i, j))), q[:, :, i] @ both, True
                )
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)).view(x.shape)


class Windowed(nn.Module):
    """What a model would be around it."""

    def __init__(self, attention: nn.Module, maps: bool = False, masked: bool = False) -> None:
        super().__init__()
        self.patches, self.attention, self.maps = nn.Conv2d(3, 16, 4, 4), attention, maps
        # two windows an image, of which one must not see some of its tokens
        self.mask = torch.zeros(2, 16, 16).masked_fill(torch.arange(16) > 11, -100.0) * torch.tensor([0.0, 1.0])[:, None, None] if masked else None

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)
        x = x.permute(0, 2, 3, 1) if self.maps else x.flatten(2).mT
        return self.attention(x) if self.mask is None else self.attention(x.repeat_interleave(2, 0), attention_mask=self.mask)


KINDS = {
    "heads last": lambda: Windowed(TableAttention()),
    "heads first": lambda: Windowed(TableAttention(heads_first=True)),
    "kept in evaluation": lambda: Windowed(TableAttention(heads_first=True, keeps=True)),
    "masked windows": lambda: Windowed(TableAttention(), masked=True),
    "network": lambda: Windowed(NetworkAttention()),
    "decomposed": lambda: Windowed(DecomposedAttention(), maps=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_of_the_host_is_kept_trained_and_given_back(kind: str) -> None:
    """Function and gradients are the host's own in float64; a step of training comes back; without one everything is bit for bit as it was."""
    torch.manual_seed(0)
    model = KINDS[kind]().double().eval()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    want, state = model(images), {name: value.clone() for name, value in model.state_dict().items()}
    for config in (SoftmaxAttention.Config(), DenoisingAttention.Config()):
        report = foveal.convert_(model, config, warm_start="exact", inputs=images)
        assert [(swap.name, swap.output) for swap in report.swaps] == [("attention", "identical")]
        torch.testing.assert_close(model(images), want, rtol=1e-9, atol=1e-10)
        foveal.revert_(model)
        assert torch.equal(model(images), want)
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    other, weights = KINDS[kind]().double().eval(), torch.randn_like(want)
    other.load_state_dict(state)
    other(images)  # what is kept for evaluation is kept by now
    foveal.convert_(other, SoftmaxAttention.Config(), inputs=images)
    for one in (model, other):
        (one.train()(images) * weights).sum().backward()
        torch.optim.SGD(one.parameters(), lr=0.1).step()
        one.eval()
    foveal.revert_(other)
    torch.testing.assert_close(other(images), model(images), rtol=1e-9, atol=1e-10)
    assert list(other.state_dict()) == list(state)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-9, atol=1e-10, msg=name)
        if name.endswith(("table", "mlp.0.weight", "mlp.2.weight", "of_rows", "of_columns", "logit_scale")):
            assert not torch.equal(value, state[name]), f"{name} was to learn"


def test_a_bias_that_no_table_makes_is_refused() -> None:
    """Twice the table at some places: what is added is no place of it."""

    class OddAttention(TableAttention):
        def bias(self) -> Tensor:
            return super().bias() * torch.linspace(1, 2, 16)

    torch.manual_seed(0)
    model, images = Windowed(OddAttention()).eval(), torch.randn(3, 3, 16, 16)
    want = model(images)
    with pytest.raises(InputError, match="none of its arguments says, and no table"):
        foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)
    assert torch.equal(model(images), want)


def test_positions_of_another_grid_are_refused_by_the_converted() -> None:
    """As many tokens, in other rows: the tables have other places."""
    torch.manual_seed(0)
    model, images = Windowed(DecomposedAttention(), maps=True).eval(), torch.randn(2, 3, 16, 16)
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)
    with pytest.raises(InputError, match="positions of 4 × 4 tokens, got 2 × 8"):
        model(torch.randn(2, 3, 8, 32))


def test_a_bias_is_dropped_and_said_where_there_are_no_pairs() -> None:
    torch.manual_seed(0)
    model, images = Windowed(TableAttention()).eval(), torch.randn(2, 3, 16, 16)
    report = foveal.convert_(model, ExternalAttention.Config(slots=8), inputs=images)
    assert any(name.startswith("position.") for name in report.swaps[0].dropped)
    assert model(images).shape == (2, 16, 16)


class PackedAttention(nn.Module):
    """Images one behind the other, turned by their positions, as in Qwen2-VL."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, ends: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        q, k = (part * turn[0] + torch.cat([-part[..., 4:], part[..., :4]], dim=-1) * turn[1] for part in (q, k))
        pieces = [torch.split(part[None], (ends[1:] - ends[:-1]).tolist(), dim=2) for part in (q, k, v)]
        out = torch.cat([F.scaled_dot_product_attention(*piece) for piece in zip(*pieces, strict=True)], dim=2)
        return self.proj(out[0].transpose(0, 1).flatten(1))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = PackedAttention()

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(len(tokens)) ** 1.5, torch.tensor([1.0, 0.5, 0.2, 0.1])).repeat(1, 2)
        return self.attention(tokens, ends, (angles.cos(), angles.sin()))


def test_every_image_of_a_pack_is_by_itself() -> None:
    """Read from a pack of two; one, several alike, and several of other sizes give what the host gives, and no image sees another."""
    torch.manual_seed(0)
    model, tokens = Packed().eval(), torch.randn(12, 16)
    packs = [torch.tensor(ends) for ends in ([0, 12], [0, 6, 12], [0, 3, 4, 12])]
    wants = [model(tokens, ends) for ends in packs]
    report = foveal.convert_(model, SoftmaxAttention.Config(), inputs=(tokens, packs[1]))
    assert [swap.output for swap in report.swaps] == ["identical"]
    for ends, want in zip(packs, wants, strict=True):
        torch.testing.assert_close(model(tokens, ends), want, rtol=1e-5, atol=1e-6)
    changed = tokens.clone()
    changed[4:] += 1
    torch.testing.assert_close(model(changed, packs[2])[:4], wants[2][:4], rtol=1e-5, atol=1e-6)
    foveal.revert_(model)
    assert all(torch.equal(model(tokens, ends), want) for ends, want in zip(packs, wants, strict=True))


class Inner(nn.Module):
    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.query, self.key, self.value = heads, *(nn.Linear(dim, dim) for _ in range(3))

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, None]:
        q, k, v = (layer(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2), None


class Behind(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, made: Tensor, came: Tensor) -> Tensor:
        return self.norm(self.dense(made) + came)


class BesideAttention(nn.Module):
    """As in BERT's family."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.behind = Inner(), Behind()

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.behind(self.inner(hidden, attention_mask)[0], hidden)


def test_an_output_map_beside_the_attention_is_ours_and_what_follows_goes_on() -> None:
    """The norm behind it and a hook on the attention itself go on; the mask is honored; training comes back."""
    torch.manual_seed(0)
    model, images, mask = Windowed(BesideAttention()).eval(), torch.randn(2, 3, 16, 16), torch.randn(2, 1, 16, 16)
    seen: list[torch.Size] = []
    model.attention.inner.register_forward_hook(lambda module, args, made: seen.append(made[0].shape))
    tokens = torch.randn(2, 16, 16)
    want, masked, state = model(images), model.attention(tokens, mask), {name: value.clone() for name, value in model.state_dict().items()}
    norm = model.attention.behind.norm
    report = foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)
    assert [(swap.name, swap.output) for swap in report.swaps] == [("attention", "identical")]
    assert model.attention.behind.norm is norm
    seen.clear()
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-6)
    assert seen == [torch.Size([2, 16, 16])]
    torch.testing.assert_close(model.attention(tokens, mask), masked, rtol=1e-5, atol=1e-6)
    foveal.revert_(model)
    assert torch.equal(model(images), want)
    assert list(model.state_dict()) == list(state)


class LateAttention(nn.Module):
    """Told causal: PyTorch's kernel is, where no mask says otherwise, as attentions of transformers are called."""

    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, is_causal=attention_mask is None)
        return self.proj(out.transpose(1, 2).flatten(2))


def test_causal_without_a_mask() -> None:
    torch.manual_seed(0)
    model, images, mask = Windowed(LateAttention()).eval(), torch.randn(2, 3, 16, 16), torch.randn(2, 1, 16, 16)
    tokens = torch.randn(2, 16, 16)
    want, masked = model(images), model.attention(tokens, mask)
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.attention(tokens, mask), masked, rtol=1e-5, atol=1e-6)


def test_windows_that_are_masked_take_attentions_of_pairs_alone() -> None:
    """Said before anything is changed, and not in a call."""
    torch.manual_seed(0)
    model, images = Windowed(TableAttention(), masked=True).eval(), torch.randn(2, 3, 16, 16)
    with pytest.raises(InputError, match=r"its windows are shifted, and a mask .* has no pairs"):
        foveal.convert_(model, ExternalAttention.Config(slots=8), inputs=images)
    assert type(model.attention) is TableAttention
