"""Published files of other sizes and settings than those at hand: the authors' formulas over the authors' names, one sample, head and layer after the other.

Each of the two is held to the authors' own numbers first, and then asked about sizes that none of their files has.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from foveal import official
from tests.official.test_catt_lxmert import CASES as LXMERTS
from tests.official.test_golden import part, read, relative
from tests.official.test_visual_probes import CASES as PROBES


class Weights(dict[str, Tensor]):
    """A state dict that draws what is asked for and not there, so that it ends up with all names that the formula knows."""

    def of(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            self[name] = (0.4 * torch.randn(*shape, dtype=torch.float64)).requires_grad_()
        return self[name]

    def linear(self, name: str, x: Tensor, out: int) -> Tensor:
        return x @ self.of(f"{name}.weight", out, x.shape[-1]).T + self.of(f"{name}.bias", out)

    def norm(self, name: str, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        width = x.shape[-1]
        scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * self.of(f"{name}.weight", width) + self.of(f"{name}.bias", width)


# -- LXMERT with CATT ---------------------------------------------------------------------------------------------------------------------------------


class Lxmert:
    """The authors' network, over their names."""

    def __init__(self, weights: Weights, settings: dict) -> None:
        self.w, self.s = weights, settings
        self.same, self.chained = settings["bert_type"] == "ft_same", settings["bert_type"] == "ft_same" or bool(settings["ft_large"])

    def attention(self, name: str, asks: Tensor, read: Tensor, there: Tensor | None) -> Tensor:
        width, heads, out = asks.shape[-1], self.s["num_attention_heads"], []
        for sample in range(len(asks)):
            keys = read[sample if len(read) > 1 else 0]
            keys = keys if there is None else keys[there[sample].bool()]
            q, k, v = (self.w.linear(f"{name}.{part}", x, width) for part, x in (("query", asks[sample]), ("key", keys), ("value", keys)))
            size = width // heads
            rows = [slice(head * size, (head + 1) * size) for head in range(heads)]
            out.append(torch.cat([(q[:, row] @ k[:, row].T / math.sqrt(size)).softmax(-1) @ v[:, row] for row in rows], -1))
        return torch.stack(out)

    def added(self, name: str, x: Tensor, to: Tensor) -> Tensor:
        return self.w.norm(f"{name}.LayerNorm", self.w.linear(f"{name}.dense", x, to.shape[-1]) + to)

    def fed(self, inner: str, outer: str, x: Tensor) -> Tensor:
        hidden = self.w.linear(f"{inner}.dense", x, self.s["intermediate_size"])
        return self.added(outer, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), x)

    def block(self, name: str, asks: Tensor, read: Tensor, there: Tensor | None, second: bool = False) -> Tensor:
        ft = "FT" if second else ""
        inner = f"{name}.{ft}attention"
        hidden = self.added(f"{inner}.output", self.attention(f"{inner}.{'att' if second or self.same else 'self'}", asks, read, there), asks)
        return self.fed(f"{name}.{ft}intermediate", f"{name}.{ft}output", hidden)

    def cross(self, name: str, asks: list[Tensor], read: list[Tensor], there: list[Tensor | None]) -> list[Tensor]:
        out = []
        for one, kind in enumerate(("lang", "visn")):
            joint = name.format("visual_attention")
            hidden = self.added(f"{joint}.output", self.attention(f"{joint}.att", asks[one], read[1 - one], there[1 - one]), asks[one])
            own = name.format(f"{kind}_self_att")
            hidden = self.added(f"{own}.output", self.attention(f"{own}.self", hidden, hidden, there[one]), hidden)
            out.append(self.fed(name.format(f"{kind}_inter"), name.format(f"{kind}_output"), hidden))
        return out

    def __call__(self, given: dict[str, Tensor]) -> list[Tensor]:
        w, s, ids = self.w, self.s, given["input_ids"]
        width = s["hidden_size"]
        table = {"word": (s["vocab_size"], ids), "token_type": (2, given["token_type_ids"])}
        table["position"] = (s["max_position_embeddings"], torch.arange(ids.shape[1]))
        words = sum(w.of(f"embeddings.{kind}_embeddings.weight", rows, width)[at] for kind, (rows, at) in table.items())
        words = w.norm("embeddings.LayerNorm", words)
        parts = (("visn_fc", "visn_layer_norm", "visual_feats"), ("box_fc", "box_layer_norm", "visual_pos"))
        seen = sum(w.norm(f"encoder.visn_fc.{norm}", w.linear(f"encoder.visn_fc.{fc}", given[what], width)) for fc, norm, what in parts) / 2
        there = [given["attention_mask"], given.get("visual_attention_mask")]
        hidden, crossed = [words, seen], []
        for one, (stack, depth, name, entries) in enumerate(
            [("layer", s["l_layers"], "ML", s["language_dictionary"]), ("r_layers", s["r_layers"], "MV", s["visual_dictionary"])]
        ):
            c, mask = w.of(f"encoder.{name}", 1, entries, width), None
            for at in range(depth):
                if self.chained or at == depth - 1:
                    c, mask = self.block(f"encoder.{stack}.{at}", hidden[one], c, mask, second=not self.same), there[one]
                hidden[one] = self.block(f"encoder.{stack}.{at}", hidden[one], hidden[one], there[one])
            crossed.append(c)
        for at in range(s["x_layers"]):
            other = f"encoder.x_layers.{at}." + ("{}" if self.same else "M_{}")
            o = self.cross(other, hidden if s["cross_type"] == "g2l" else crossed, crossed, there)
            hidden = self.cross(f"encoder.x_layers.{at}.{{}}", hidden, hidden, there)
        language, vision = (w.linear(f"encoder.fc_{kind}", torch.cat([hidden[one], o[one]], -1), width) for one, kind in enumerate(("lang", "visn")))
        return [language, vision, torch.tanh(w.linear("pooler.dense", language[:, 0], width))]


@pytest.mark.parametrize("case", LXMERTS)
def test_the_formula_of_lxmert_is_the_authors(case) -> None:
    _, settings, tensors = read(case)
    outputs = Lxmert(Weights(part(tensors, "state.", torch.float64)), settings)(part(tensors, "input.", torch.float64))
    for output, name in zip(outputs, ("", ".vision", ".pooled"), strict=True):
        assert relative(output, tensors[f"output{name}"]) < 1e-12


@pytest.mark.parametrize(
    ("bert_type", "cross_type", "ft_large", "sizes", "masked"),
    [
        ("ft", "g2l", 0, (3, 1, 1, 16, 4, 7), True),
        ("ft", "g2g", 0, (1, 2, 3, 8, 1, 5), False),
        ("ft", "anything", 0, (2, 3, 2, 12, 2, 6), True),
        ("ft", "g2g", 1, (3, 1, 2, 12, 3, 5), False),
        ("ft", "g2l", 1, (1, 3, 1, 16, 2, 9), True),
        ("ft_same", "g2g", 0, (1, 1, 3, 8, 2, 4), True),
        ("ft_same", "g2l", 1, (3, 2, 1, 20, 5, 6), False),
    ],
)
def test_lxmert_of_other_sizes(bert_type, cross_type, ft_large, sizes, masked) -> None:
    torch.manual_seed(sum(sizes))
    l_layers, r_layers, x_layers, width, heads, entries = sizes
    settings = {"vocab_size": 17, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 3 * width, "max_position_embeddings": 9}
    settings |= {"l_layers": l_layers, "r_layers": r_layers, "x_layers": x_layers, "visual_feat_dim": 5, "visual_pos_dim": 4, "bert_type": bert_type}
    settings |= {"cross_type": cross_type, "ft_large": ft_large, "visual_dictionary": entries, "language_dictionary": entries + 2}
    given = {"input_ids": torch.randint(17, (3, 6)), "token_type_ids": torch.randint(2, (3, 6))}
    given["attention_mask"] = (torch.arange(6) < torch.tensor([[6], [2], [5]])).long()
    given |= {"visual_feats": torch.randn(3, 4, 5).double(), "visual_pos": torch.rand(3, 4, 4).double()}
    if masked:
        given["visual_attention_mask"] = (torch.arange(4) < torch.tensor([[1], [4], [3]])).long()
    weights = Weights()
    want = Lxmert(weights, settings)(given)
    module = official.load("catt.lxmert", {name: value.detach() for name, value in weights.items()}, **settings)
    got = module(*(given[name] for name in ("input_ids", "token_type_ids", "attention_mask", "visual_feats", "visual_pos")), given.get("visual_attention_mask"))
    cotangents = [torch.randn_like(output) for output in want]
    for one, other in zip(got, want, strict=True):
        assert relative(one, other) < 1e-12
    for outputs in (got, want):
        sum((output * cotangent).sum() for output, cotangent in zip(outputs, cotangents, strict=True)).backward()
    gradients = official.translate("catt.lxmert", {name: value.grad for name, value in weights.items() if value.grad is not None}, **settings)
    ours = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    largest = max(float(value.abs().max()) for value in gradients.values())
    for name, gradient in gradients.items():
        if "_embeddings." in name:
            # row 0 of each table is one of padding, in LXMERT itself
            gradient[0] = 0.0
        assert (ours[name] - gradient).abs().max() < 1e-11 * largest, name
    assert ours.keys() <= gradients.keys()


# -- probes -------------------------------------------------------------------------------------------------------------------------------------------


def probes_of(weights: Weights, hidden: list[Tensor], lengths: list[int], settings: dict) -> Tensor:
    """Probes of each sample in a row, read from what comes out of the tower's layers, by the authors' names."""
    width, heads = hidden[0].shape[-1], settings["num_attention_heads"]
    size, out = width // heads, []
    layers = range(settings["num_hidden_layers"]) if settings["layers"] is None else settings["layers"]
    for sample in range(len(lengths)):
        probes = weights.of("encoder.visual_probes", 1, settings["num_probes"], width)[0]
        for at, layer in enumerate(layers):
            tokens, name = hidden[layer].split(lengths)[sample], f"encoder.interaction_modules.{at}"

            def heads_of(query: str, value: str, scale: float = 1.0, *, x: Tensor = probes, y: Tensor = tokens, name: str = name) -> list[Tensor]:
                q, k, v = (weights.linear(f"{name}.{what}", rows, width) for what, rows in ((query, x), ("k_proj", y), (value, y)))
                rows = [slice(head * size, (head + 1) * size) for head in range(heads)]
                return [(scale * q[:, row] @ k[:, row].T / math.sqrt(size)).softmax(-1) @ v[:, row] for row in rows]

            if settings["attention"] == "softmax":
                read_ = heads_of("q_proj", "v_proj")
            else:
                lambdas = weights.of(f"{name}.neg_scalers", heads).flatten()
                pairs = zip(heads_of("q_pos_proj", "v_pos_proj"), heads_of("q_neg_proj", "v_neg_proj", -1.0), lambdas, strict=True)
                read_ = [positive - one * negative for positive, negative, one in pairs]
            probes = weights.linear(f"{name}.out_proj", torch.cat(read_, -1), width)
        out.append(probes)
    return torch.cat(out)


@pytest.mark.parametrize("case", PROBES)
def test_the_formula_of_probes_is_the_authors(case) -> None:
    _, settings, tensors = read(case)
    hidden = [tensors[f"hidden.{index}"] for index in range(settings["num_hidden_layers"])]
    got = probes_of(Weights(part(tensors, "state.", torch.float64)), hidden, tensors["input.grid_thw"].prod(1).tolist(), settings)
    assert relative(got, tensors["output"]) < 1e-10


def merged(tokens: Tensor, grid: list[int], merge: int) -> Tensor:
    """Blocks of m × m patches, which lie in a row, as their means."""
    frames, rows, columns = grid
    return tokens.reshape(frames * (rows // merge) * (columns // merge), merge * merge, -1).mean(1)


@pytest.mark.parametrize("attention", ["softmax", "denoising"])
@pytest.mark.parametrize(
    ("layers", "depth", "heads", "num_probes", "grids", "merges"),
    [
        ([1], 2, 2, 1, [[1, 2, 2]], [1]),
        ([1], 3, 4, 5, [[3, 2, 4], [1, 6, 2], [2, 2, 2]], [2, 1, 2]),
        ([0, 1, 3], 4, 1, 2, [[1, 4, 4], [4, 2, 2]], [2, 2]),
        (None, 2, 2, 40, [[2, 2, 6], [1, 2, 2], [1, 4, 2], [5, 2, 2]], [1, 2, 1, 2]),
    ],
)
def test_probes_of_other_sizes(layers, depth, heads, num_probes, grids, merges, attention) -> None:
    from transformers.models.video_llama_3 import VideoLlama3VisionConfig, VideoLlama3VisionModel

    torch.manual_seed(depth + num_probes)
    sizes = {"hidden_size": 8 * heads, "intermediate_size": 20, "num_hidden_layers": depth, "num_attention_heads": heads, "patch_size": 3, "num_channels": 3}
    settings = sizes | {"num_probes": num_probes, "layers": layers, "attention": attention, "sign": "-"}
    tower = VideoLlama3VisionModel(VideoLlama3VisionConfig(**sizes)).double().eval()
    for value in tower.parameters():
        nn.init.normal_(value, std=0.3)
    grid, merge = torch.tensor(grids), torch.tensor(merges)
    lengths = grid.prod(1).tolist()
    pixels = torch.randn(sum(lengths), 27).double()
    found = tower(pixels, grid, merge, output_hidden_states=True)
    hidden = [layer.detach() for layer in found.hidden_states[1:]]
    weights = Weights()
    want = probes_of(weights, hidden, lengths, settings)
    own: Callable[[Tensor], Tensor] = tower.post_layernorm
    kept = zip(own(hidden[-1]).split(lengths), grids, merges, strict=True)
    features = torch.cat([merged(tokens, shape, by) for tokens, shape, by in kept])
    module = official.load("dna.visual_probes", tower.state_dict() | {name: value.detach() for name, value in weights.items()}, **settings)
    got_features, got = module(pixels, grid, merge)
    assert relative(got, want) < 1e-10
    assert relative(got_features, features) < 1e-10
    cotangent = torch.randn_like(want)
    for output in (got, want):
        (output * cotangent).sum().backward()
    gradients = official.translate("dna.visual_probes", {name: value.grad for name, value in weights.items()}, **settings)
    ours = {name: value.grad for name, value in module.named_parameters() if value.requires_grad}
    assert ours.keys() == gradients.keys()
    largest = max(float(value.abs().max()) for value in gradients.values())
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).abs().max() < 1e-9 * max(float(gradient.abs().max()), 1e-3 * largest), name
