"""Attentions that ask how large things are, that show their maps, whose queries are learned, and those that are no attention of queries and keys."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention, convert_
from tests.convert.test_hosts import stirred


class Around(nn.Module):
    """Something before and behind, so that the attention has a place; of what comes as a tuple, all is given."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.first, self.attn = nn.Linear(16, 16), attn

    def forward(self, x: Tensor) -> Any:
        return self.attn(self.first(x))


class WaryAttention(nn.Module):
    """As the older classes of transformers: tokens before samples, heads and samples in one axis, sizes checked, maps given with the output."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.permute(1, 0, 2)
        batch, count, dim = x.size()
        q, k, v = (layer(x).view(batch, -1, 4, 4).transpose(1, 2).contiguous().view(batch * 4, -1, 4) for layer in (self.q_proj, self.k_proj, self.v_proj))
        keys = k.size(1)
        logits = torch.bmm(q * 0.5, k.transpose(1, 2))
        if logits.size() != (batch * 4, count, keys):
            raise ValueError("another size")
        maps = nn.Softmax(dim=-1)(logits).view(batch, 4, count, keys)
        out = torch.bmm(F.dropout(maps.view(batch * 4, count, keys), 0.0, self.training), v)
        if out.size() != (batch * 4, count, 4):
            raise ValueError("another size")
        out = out.view(batch, 4, count, 4).transpose(1, 2).reshape(batch, count, dim)
        return self.out_proj(out).permute(1, 0, 2), maps


def _agree(got: Any, want: Any) -> None:
    for have, one in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,), strict=True):
        torch.testing.assert_close(have, one, rtol=1e-4, atol=1e-5)


def _are_ours(report: Any) -> bool:
    """Whether queries, keys and values of the one place are made by our attention, and not by its host."""
    return not any("stay its host's" in note for note in report.swaps[0].notes)


@pytest.mark.parametrize("config", [SoftmaxAttention.Config(), DenoisingAttention.Config()], ids=["softmax", "denoising"])
def test_checks_of_sizes_go_and_maps_are_shown(config) -> None:
    torch.manual_seed(0)
    model = stirred(Around(WaryAttention())).eval()
    shapes = ((7, 2, 16), (7, 3, 16), (9, 2, 16), (2, 5, 16))
    given = [torch.randn(shape) for shape in shapes]
    want = [model(x) for x in given]
    exact = {"warm_start": "exact"} if config.attention == "denoising" else {}
    report = convert_(model, config, inputs=given[0], **exact)
    assert [swap.output for swap in report.swaps] == ["identical"]
    assert _are_ours(report)
    for x, one in zip(given, want, strict=True):
        # another mechanism shows maps of its own, in the same form
        _agree(model(x) if config.attention == "softmax" else model(x)[0], one if config.attention == "softmax" else one[0])
        assert model(x)[1].shape == one[1].shape
    foveal.revert_(model)
    for x, one in zip(given, want, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(model(x), one, strict=True))


class ShowingAttention(nn.Module):
    """Its map is formed for those who look before it meets values, which are made after it; that of the gated one lies in front of the heads."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.qkv, self.v, self.proj, self.gated = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 16), gated

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, count, _ = x.shape
        q, k = self.qkv(x).chunk(2, dim=-1)
        q, k = (part.view(batch, count, 4, 4).transpose(1, 2).reshape(batch * 4, count, 4) for part in (q.sigmoid() if self.gated else q, k))
        logits = torch.bmm(q, k.mT)
        maps = logits.mul_(0.5).softmax(-1)
        shown = maps.view(batch, 4, maps.shape[-2], logits.size(-1)).transpose(0, 1)
        v = self.v(x.flip(1)).view(batch, count, 4, 4).transpose(1, 2).flatten(0, 1)
        return self.proj(torch.bmm(maps, v).view(batch, 4, count, 4).transpose(1, 2).flatten(2)), shown


@pytest.mark.parametrize("gated", [False, True])
def test_maps_are_shown_in_any_form(gated) -> None:
    torch.manual_seed(0)
    model = stirred(Around(ShowingAttention(gated))).eval()
    given = [torch.randn(shape) for shape in ((2, 7, 16), (3, 5, 16))]
    want = [model(x) for x in given]
    report = convert_(model, SoftmaxAttention.Config(), "attn", inputs=given[0])
    assert [swap.output for swap in report.swaps] == ["identical"]
    assert _are_ours(report) is not gated
    for x, one in zip(given, want, strict=True):
        _agree(model(x), one)
        assert "softmax" not in model.attn.code.source


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


class SteppedAttention(_Plain):
    """Another thing for many tokens, before its maps."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(-1) if x.shape[1] > 40 else x + x.mean(1, keepdim=True)
        q, k, v = self.heads(x)
        return self.proj((q @ k.mT * 0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class LongAttention(_Plain):
    """Another thing for many tokens, within its attention."""

    gated = False

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x + x.mean(1, keepdim=True))
        v = v.sigmoid() if self.gated else v
        logits = q @ k.mT * 0.5
        if logits.shape[-1] > 400:
            v = v.flip(-2)
        return self.proj(logits.softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class LongGatedAttention(LongAttention):
    gated = True


def test_another_way_through_a_forward_is_never_taken_unseen() -> None:
    torch.manual_seed(0)
    model = stirred(Around(SteppedAttention())).eval()
    few, many = torch.randn(2, 9, 16), torch.randn(2, 41, 16)
    want = model(few)
    assert len(convert_(model, SoftmaxAttention.Config(), inputs=few).swaps) == 1
    _agree(model(few), want)
    with pytest.raises(InputError, match=r"one of its conditions on sizes was False and is given tokens of which it is True; convert with inputs of the sizes"):
        model(many)
    # what the condition asked for is computed no longer, and its size is known still
    for kind in (LongAttention, LongGatedAttention):
        model = stirred(Around(kind())).eval()
        want, of_many = model(few), model(many)
        # values through a function stay their host's, and so does the condition
        assert _are_ours(convert_(model, SoftmaxAttention.Config(), inputs=few)) is (kind is LongAttention)
        _agree((model(few), model(many)), (want, of_many))
        with pytest.raises(InputError, match="one of its conditions on sizes was False and is given tokens of which it is True"):
            model(torch.randn(1, 401, 16))


class ClosedAttention(_Plain):
    """The same by an assignment, which no tracer follows."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x + x.mean(1, keepdim=True))
        logits = q @ k.mT * 0.5
        if logits.shape[-1] > 400:
            logits[..., 400:] = float("-inf")
        return self.proj(logits.softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class DoubledAttention(_Plain):
    """The same by a statement that changes a tensor in place."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x + x.mean(1, keepdim=True))
        logits = q @ k.mT * 0.5
        if logits.shape[-1] > 400:
            v.mul_(2)
        return self.proj(logits.softmax(-1).matmul(v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("kind", [ClosedAttention, DoubledAttention])
def test_what_a_tracer_cannot_follow_is_no_mere_check(kind) -> None:
    torch.manual_seed(0)
    model = stirred(Around(kind())).eval()
    given = [torch.randn(2, count, 16) for count in (9, 50)]
    want = [model(x) for x in given]
    assert _are_ours(convert_(model, SoftmaxAttention.Config(), inputs=given[0]))
    for x, one in zip(given, want, strict=True):
        _agree(model(x), one)
    for mode in (False, True):
        with pytest.raises(InputError, match="one of its conditions on sizes was False and is given tokens of which it is True"):
            model.train(mode)(torch.randn(1, 401, 16))


class LatentPoolAttention(nn.Module):
    """A learned token asks as it is, without a map of its own, as in AIMv2 (arXiv 2411.14402)."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.randn(1, 3, 16))
        self.kv, self.proj = nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        asks = self.latent.expand(x.shape[0], -1, -1).reshape(x.shape[0], 3, 2, 8).transpose(1, 2)
        k, v = self.kv(x).reshape(x.shape[0], x.shape[1], 2, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(asks, k, v).transpose(1, 2).reshape(x.shape[0], 3, 16)).mean(1)


def test_queries_that_no_map_makes() -> None:
    torch.manual_seed(0)
    model = stirred(Around(LatentPoolAttention())).eval()
    x, other = torch.randn(2, 9, 16), torch.randn(3, 5, 16)
    want, of_other = model(x), model(other)
    with pytest.raises(InputError, match="is converted only where it is named"):
        convert_(model, SoftmaxAttention.Config(), inputs=x)
    with pytest.raises(InputError, match="reads no other tokens than those that ask"):
        convert_(model, ExternalAttention.Config(), "attn", inputs=x)
    for config, exact in ((SoftmaxAttention.Config(), {}), (DenoisingAttention.Config(), {"warm_start": "exact"})):
        report = convert_(model, config, "attn", inputs=x, **exact)
        assert [swap.output for swap in report.swaps] == ["identical"]
        assert _are_ours(report)
        _agree(model(x), want)
        _agree(model(other), of_other)
        model(x).square().sum().backward()
        assert model.attn.latent.grad.abs().sum() > 0
        foveal.revert_(model)
        assert torch.equal(model(x), want)


class SampledAttention(nn.Module):
    """Deformable attention (arXiv 2010.04159, eq. 2) of one level: points and their weights are made of what asks."""

    def __init__(self, product: bool = False) -> None:
        super().__init__()
        self.sampling_offsets, self.attention_weights = nn.Linear(16, 2 * 3 * 2), nn.Linear(16, 2 * 3)
        self.value_proj, self.output_proj, self.product = nn.Linear(16, 16), nn.Linear(16, 16), product

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        values = self.value_proj(x).view(batch, 3, 3, 2, 8).permute(0, 3, 4, 1, 2).flatten(0, 1)
        points = self.sampling_offsets(x).view(batch, count, 2, 3, 2).tanh().transpose(1, 2).flatten(0, 1)
        weights = self.attention_weights(x).view(batch, count, 2, 3).softmax(-1).transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(values, points, align_corners=False)
        by_product = (weights[:, :, None] @ sampled.permute(0, 2, 3, 1))[:, :, 0].transpose(1, 2)
        out = by_product if self.product else (sampled * weights[:, None]).sum(-1)
        return self.output_proj(out.unflatten(0, (batch, 2)).permute(0, 3, 1, 2).flatten(2))


class ScoredAttention(nn.Module):
    """Tokens are pooled by a score that a map makes of each."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.value, self.proj = nn.Linear(16, 2), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.score(x).transpose(1, 2).softmax(-1) @ self.value(x))


class Both(nn.Module):
    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.attn, self.other = nn.MultiheadAttention(16, 2, batch_first=True), other

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x + self.attn(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize(
    ("other", "kind"),
    [(SampledAttention(), "over points that it samples"), (SampledAttention(True), "over points that it samples"), (ScoredAttention(), "tokens are pooled")],
    ids=["deformable", "deformable, by a product", "scores"],
)
@pytest.mark.filterwarnings("ignore:the maps of")
def test_weights_without_queries_and_keys_are_another_kind(other, kind) -> None:
    torch.manual_seed(0)
    model, x = stirred(Both(other)).eval(), torch.randn(2, 9, 16)
    want = model(x)
    report = convert_(model, SoftmaxAttention.Config(), inputs=x)
    _agree(model(x), want)
    assert [swap.name for swap in report.swaps] == ["attn"]
    assert [one.name for one in report.left] == ["other"]
    assert "another kind than attention of queries and keys" in report.left[0].reason
    assert kind in report.left[0].reason
    foveal.revert_(model)
    with pytest.raises(InputError, match=f"other .* is another kind than attention of queries and keys: .*{kind}"):
        convert_(model, SoftmaxAttention.Config(), "other", inputs=x)
    if isinstance(other, SampledAttention):
        maps = foveal.attention_maps(model, x)
        assert list(maps) == ["attn"]
        assert list(maps.missing) == ["other"]
        assert "sampled at points" in maps.missing["other"]


class _Words(nn.Module):
    """A transformer with the configuration of a language model, with its table of words or without."""

    def __init__(self, words: bool) -> None:
        super().__init__()
        self.config = type("Config", (), {"vocab_size": 40})()
        self.embed = nn.Embedding(40, 16) if words else nn.Linear(16, 16)
        self.attn = SteppedAttention()

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.embed.weight[:16].new_ones(()) * x)


def test_a_language_model_without_words_reads_images() -> None:
    x = torch.randn(2, 9, 16)
    assert len(convert_(_Words(False), SoftmaxAttention.Config(), inputs=x).swaps) == 1
    with pytest.raises(InputError, match="reads text"):
        convert_(_Words(True), SoftmaxAttention.Config(), inputs=x)
