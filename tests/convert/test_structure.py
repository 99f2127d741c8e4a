"""Attentions of classes that nobody declared: read by their structure, and refused where numbers do not agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention


class Attention(nn.Module):
    """Rows head by head, keys before queries, a scale of its own, and positions on queries and keys alone."""

    def __init__(self, dim: int = 16, heads: int = 4, scale: float = 0.3, gain: float = 0.0) -> None:
        super().__init__()
        self.heads, self.factor, self.gain = heads, scale, gain
        self.inner = nn.Linear(dim, 3 * dim)
        self.outer = nn.Linear(dim, dim)

    def forward(self, x: Tensor, flag: bool = False) -> tuple[Tensor, None]:
        k, q, v = self.inner(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        weights = (q @ k.mT * self.factor + self.gain * q.square().sum(-1)[..., None] * k.sum(-1)[..., None, :]).softmax(-1)
        return self.outer((weights @ v).transpose(1, 2).flatten(2)), None


class PositionsAttention(nn.Module):
    """As in DETR."""

    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.a, self.b, self.c, self.d = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        asked = hidden if where is None else hidden + where
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, x in ((self.b, asked), (self.c, asked), (self.a, hidden)))
        return self.d(F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2))


class Rotated(nn.Module):
    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (part * turn[0] + torch.cat([-part[..., 4:], part[..., :4]], dim=-1) * turn[1] for part in (q, k))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 16, 8, 8), attention
        self.where = nn.Parameter(torch.randn(1, 4, 16))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).mT
        if isinstance(self.attention, PositionsAttention):
            return self.attention(x, where=self.where.expand_as(x))
        if isinstance(self.attention, Rotated):
            angles = torch.outer(torch.arange(4.0), torch.tensor([1.0, 0.5, 0.2, 0.1])).repeat(1, 2)
            return self.attention(x, (angles.cos(), angles.sin()))
        out = self.attention(x)
        return out[0] if isinstance(out, tuple) else out


def _model(attention: nn.Module) -> tuple[Model, Tensor]:
    torch.manual_seed(0)
    return Model(attention).eval(), torch.randn(3, 3, 16, 16)


@pytest.mark.parametrize("kind", [Attention, PositionsAttention, Rotated])
def test_what_is_read_is_what_was_there(kind: type[nn.Module]) -> None:
    """Kept to the last bits, and bit for bit there again."""
    model, images = _model(kind())
    want, state = model(images), {name: value.clone() for name, value in model.state_dict().items()}
    for config in (SoftmaxAttention.Config(), DenoisingAttention.Config()):
        report = foveal.convert_(model, config, warm_start="exact", inputs=images[:2])
        assert [(swap.name, swap.output) for swap in report.swaps] == [("attention", "identical")]
        torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-6)
        foveal.revert_(model)
        assert torch.equal(model(images), want)
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


class WavedAttention(Attention):
    """Products and a little of a function of them."""

    def forward(self, x: Tensor, flag: bool = False) -> tuple[Tensor, None]:
        k, q, v = self.inner(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        logits = q @ k.mT * self.factor
        return self.outer(((logits + 0.01 * logits.sin()).softmax(-1) @ v).transpose(1, 2).flatten(2)), None


def test_what_is_no_softmax_of_products_is_refused() -> None:
    """A term that no part explains, though small: the class and what did not fit are named, and nothing changes."""
    model, images = _model(WavedAttention())
    want = model(images)
    with pytest.raises(InputError, match=r"attention \(WavedAttention\) cannot be read by its structure: .*do not make its logits.*more than a factor"):
        foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)
    assert torch.equal(model(images), want)


class ScaledAttention(Attention):
    """Something behind the output map."""

    def forward(self, x: Tensor, flag: bool = False) -> tuple[Tensor, None]:
        out, _ = super().forward(x)
        return out * 1.001, None


@pytest.mark.parametrize("kind", [lambda: Attention(gain=0.01), ScaledAttention], ids=["a term of queries and keys", "behind the output map"])
def test_what_a_host_adds_and_does_behind_goes_on(kind) -> None:
    """Not part of ours, and not lost: the host's own code computes it."""
    model, images = _model(kind())
    want = model(images)
    report = foveal.convert_(model, SoftmaxAttention.Config(), inputs=images[:2])
    assert [(swap.name, swap.output) for swap in report.swaps] == [("attention", "identical")]
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-6)


def test_attention_that_makes_keys_and_values_of_the_same_tokens_is_refused() -> None:
    model, images = _model(PositionsAttention())
    with pytest.raises(InputError, match="values are made of other tokens"):
        foveal.convert_(model, ExternalAttention.Config(), inputs=images)


class PickyAttention(Attention):
    """Asserts what it is made for, as timm's halo attention does, or raises something of its own."""

    kind: type[Exception] = AssertionError

    def forward(self, x: Tensor, flag: bool = False) -> tuple[Tensor, None]:
        if x.shape[-2] != 4 or x.std() > 0.2:
            raise self.kind
        return super().forward(x, flag)


class NeverHeardOfError(Exception):
    pass


@pytest.mark.parametrize("kind", [AssertionError, NeverHeardOfError])
def test_whatever_an_attention_raises_on_other_tokens_is_a_reason_and_no_crash(kind) -> None:
    picky = PickyAttention()
    picky.kind = kind
    model, images = _model(picky)
    model.patches.weight.data.mul_(0.1)
    model.patches.bias.data.zero_()
    with pytest.raises(InputError, match=rf"could not be run by itself \({kind.__name__}"):
        foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)


class CrossAttention(PositionsAttention):
    def forward(self, hidden: Tensor, others: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, x in ((self.b, hidden), (self.c, others), (self.a, others)))
        return self.d(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.cross_attention = Attention(), CrossAttention()

    def forward(self, x: Tensor) -> Tensor:
        return self.cross_attention(self.attention(x)[0], x[:, :3])


def test_cross_attention_is_converted_only_where_it_is_named() -> None:
    torch.manual_seed(0)
    model, tokens = Decoder().eval(), torch.randn(2, 5, 16)
    want = model(tokens)
    report = foveal.convert_(model, SoftmaxAttention.Config(), inputs=tokens)
    assert [swap.name for swap in report.swaps] == ["attention"]
    assert [(left.name, "cross-attention" in left.reason) for left in report.left] == [("cross_attention", True)]
    foveal.revert_(model)
    report = foveal.convert_(model, SoftmaxAttention.Config(), "cross_*", inputs=tokens)
    assert [(swap.name, swap.output) for swap in report.swaps] == [("cross_attention", "identical")]
    torch.testing.assert_close(model(tokens), want, rtol=1e-5, atol=1e-6)


def test_what_was_not_reached_is_said() -> None:
    """Inputs that break off the run before the attention."""
    model, _ = _model(Attention())
    with pytest.raises(InputError, match=r"no run reached it \(the model raised RuntimeError: .*channels.*\): give a batch with convert_"):
        foveal.convert_(model, SoftmaxAttention.Config(), inputs=torch.randn(1, 5, 16, 16))


def test_a_mask_that_comes_later_is_honored() -> None:
    """It was never given when the attention was read."""
    model, images = _model(PositionsAttention())
    tokens, mask = torch.randn(2, 4, 16), torch.randn(2, 1, 4, 4)
    want = model.attention(tokens, mask)
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)
    torch.testing.assert_close(model.attention(tokens, mask), want, rtol=1e-5, atol=1e-6)


def test_towers_of_transformers_by_structure() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    model = transformers.BlipVisionModel(transformers.BlipVisionConfig(**sizes)).eval()
    images = torch.randn(2, 3, 32, 32)
    want = model(pixel_values=images).last_hidden_state
    assert len(foveal.convert_(model, SoftmaxAttention.Config()).swaps) == 2
    torch.testing.assert_close(model(pixel_values=images).last_hidden_state, want, rtol=1e-5, atol=1e-5)
