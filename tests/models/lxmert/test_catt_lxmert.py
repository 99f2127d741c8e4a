"""CATT in transformers' LXMERT: the start, gradients, streams by hand, dictionaries, maps, counts, saving, and what is refused."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.attention.contract import assert_close

transformers = pytest.importorskip("transformers")

import foveal  # noqa: E402
from foveal.models.lxmert import CattLxmert, Lxmert, LxmertReader, catt_lxmert_, unreached  # noqa: E402
from tests.models.lxmert.hosts import asked, config, host  # noqa: E402

MODES = list(itertools.product(["single", "chained"], [True, False], ["g2g", "g2l"]))
NAMES = ("language_output", "vision_output", "pooled_output")


def outputs(model: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    out = model(**given)
    return [out[name] for name in NAMES]


def network(mode: str = "single", seed: int = 3, **options: object) -> nn.Module:
    """Any weights, so that what is wrong shows."""
    model = host()
    torch.manual_seed(seed)
    catt_lxmert_(model, mode, **{"dictionaries": (5, 4)} | options)
    for value in model.encoder.catt.parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=0.3)
    return model


@pytest.mark.parametrize("second", ["dictionary", "in_sample"])
@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize(("mode", "share", "cross"), MODES)
def test_the_function_and_all_weights_are_as_they_were(mode, share, cross, compat, second) -> None:
    model, given = host(), asked()
    before, weights = outputs(model, given), {name: value.clone() for name, value in model.state_dict().items()}
    catt_lxmert_(model, mode, share=share, cross=cross, compat=compat, second=second, dictionaries=(5, 4))
    for got, want in zip(outputs(model, given), before, strict=True):
        assert torch.equal(got, want)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert all(".catt." in name for name in after.keys() - weights.keys())


@pytest.mark.parametrize("kind", ["LxmertForQuestionAnswering", "LxmertForPreTraining"])
def test_heads_answer_as_before(kind) -> None:
    model, given = host(kind), asked()
    before = model(**given).question_answering_score
    foveal.catt_lxmert_(model, dictionaries=(5, 4))
    assert_close(model(**given).question_answering_score, before, 1e-12, "scores")
    labels = {"LxmertForQuestionAnswering": {"labels": torch.tensor([1, 2])}, "LxmertForPreTraining": {"ans": torch.tensor([1, 2])}}[kind]
    model(**given, **labels).loss.backward()
    assert model.lxmert.encoder.catt.fuse_language.weight.grad.abs().max() > 0


@pytest.mark.parametrize("second", ["dictionary", "in_sample"])
@pytest.mark.parametrize(("mode", "share", "cross"), MODES)
def test_every_parameter_gets_a_gradient(mode, share, cross, second) -> None:
    model = network(mode, share=share, cross=cross, second=second)
    torch.manual_seed(9)
    sum((out * torch.randn_like(out)).sum() for out in outputs(model, asked())).backward()
    largest = max(value.grad.abs().max() for value in model.parameters() if value.grad is not None)
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        # a bias of keys moves all logits of a row alike, and cancels
        assert value.grad.abs().max() > 1e-12 * largest or name.endswith("key.bias"), name


@pytest.mark.parametrize(("mode", "share", "cross"), MODES)
def test_every_parameter_moves_from_the_identity(mode, share, cross) -> None:
    """In the first step what the second stream makes is not read, and only the fusion learns; by the third all have moved."""
    model, given = host(), asked()
    torch.manual_seed(9)
    catt_lxmert_(model, mode, share=share, cross=cross, dictionaries=(5, 4))
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    wanted = [torch.randn_like(out) for out in outputs(model, given)]
    for _ in range(3):
        optimizer.zero_grad()
        sum((out - want).square().mean() for out, want in zip(outputs(model, given), wanted, strict=True)).backward()
        optimizer.step()
    still = [name for name, value in model.named_parameters() if torch.equal(value, start[name])]
    assert still == []


def test_compat_leaves_all_cross_layers_but_the_last_without_a_gradient() -> None:
    model = network(compat=True)
    none = unreached(model, sum(out.sum() for out in outputs(model, asked())))
    assert len(none) == 42 * 2
    assert all(name.startswith(("encoder.catt.x_layers.0.", "encoder.catt.x_layers.1.")) for name in none)


def softmax(layer: nn.Module, asks: Tensor, read: Tensor, present: Tensor | None) -> Tensor:
    """One attention in its own words."""
    batch, heads = len(asks), layer.num_attention_heads
    read = read.expand(batch, -1, -1)
    q, k, v = (part(x).unflatten(-1, (heads, -1)).transpose(1, 2) for part, x in ((layer.query, asks), (layer.key, read), (layer.value, read)))
    logits = q @ k.mT / q.shape[-1] ** 0.5
    if present is not None:
        logits = logits.masked_fill(~present[:, None, None], -torch.inf)
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def around(parts: tuple, asks: Tensor, attended: Tensor) -> Tensor:
    output, inter, last = parts
    hidden = output.LayerNorm(output.dense(attended) + asks)
    return last.LayerNorm(last.dense(nn.functional.gelu(inter.dense(hidden))) + hidden)


def whole(layer: nn.Module, asks: Tensor, read: Tensor, present: Tensor | None) -> Tensor:
    return around((layer.attention.output, layer.intermediate, layer.output), asks, softmax(layer.attention.self, asks, read, present))


def across(layer: nn.Module, asks: tuple, read: tuple, present: tuple) -> tuple[Tensor, Tensor]:
    """Language and vision: each asks the other's ``read``, then itself."""
    out, both = layer.visual_attention, []
    for one, (lin, inter, last) in enumerate(
        [(layer.lang_self_att, layer.lang_inter, layer.lang_output), (layer.visn_self_att, layer.visn_inter, layer.visn_output)]
    ):
        hidden = out.output.LayerNorm(out.output.dense(softmax(out.att, asks[one], read[1 - one], present[1 - one])) + asks[one])
        both.append(around((lin.output, inter, last), hidden, softmax(lin.self, hidden, hidden, present[one])))
    return both[0], both[1]


@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("second", ["dictionary", "in_sample"])
@pytest.mark.parametrize(("mode", "share", "cross"), MODES)
def test_the_streams_by_hand(mode, share, cross, second, compat) -> None:
    """The formula, written a second time."""
    model, given = network(mode, share=share, cross=cross, second=second, compat=compat), asked()
    encoder, catt = model.encoder, model.encoder.catt
    present = given["attention_mask"].bool(), given["visual_attention_mask"].bool()
    tokens = [model.embeddings(given["input_ids"], given["token_type_ids"]), encoder.visn_fc(given["visual_feats"], given["visual_pos"])]
    streams, halves, dictionaries = (encoder.layer, encoder.r_layers), (catt.layer, catt.r_layers), (catt.dictionary_language, catt.dictionary_vision)
    hidden, crossed = [], []
    for one in (0, 1):
        h, depth = tokens[one], len(streams[one])
        c, c_mask = (dictionaries[one].entries[None], None) if second == "dictionary" else (None, present[one])
        for at, layer in enumerate(streams[one]):
            if mode == "chained" or at == depth - 1:
                half = layer if share else halves[one][at if mode == "chained" else 0]
                c = whole(half, h, h if c is None else c, c_mask)
                c_mask = present[one]
            h = whole(layer, h, h, present[one])
        hidden.append(h)
        crossed.append(c)
    c, o = tuple(crossed), None
    first = tuple(hidden)
    for at, layer in enumerate(encoder.x_layers):
        half = layer if share else catt.x_layers[at]
        o = across(half, c if cross == "g2g" else first, c, present)
        c = c if compat else o
        first = across(layer, first, first, present)
    language, vision, pooled = outputs(model, given)
    want = [fuse(torch.cat([h, x], -1)) for fuse, h, x in zip((catt.fuse_language, catt.fuse_vision), first, o, strict=True)]
    assert_close(language, want[0], 1e-11, "language")
    assert_close(vision, want[1], 1e-11, "vision")
    assert_close(pooled, torch.tanh(model.pooler.dense(want[0][:, 0])), 1e-11, "pooled")


@pytest.mark.parametrize("mode", ["single", "chained"])
def test_a_dictionary_of_the_tokens_makes_both_streams_equal(mode) -> None:
    """With shared weights and a stack of one layer, so that the tokens of the dictionary are those of the layer."""
    model = host(l_layers=1, r_layers=1, x_layers=2)
    catt = catt_lxmert_(model, mode, share=True, dictionaries=(4, 5))
    given = asked(batch=1)
    given = {name: value for name, value in given.items() if "mask" not in name}
    for fuse in (catt.fuse_language, catt.fuse_vision):
        fuse.weight.data.copy_(torch.cat([torch.eye(24), -torch.eye(24)], dim=1))
    catt.dictionary_language.entries.data.copy_(model.embeddings(given["input_ids"], given["token_type_ids"])[0])
    catt.dictionary_vision.entries.data.copy_(model.encoder.visn_fc(given["visual_feats"], given["visual_pos"])[0])
    for out in outputs(model, given)[:2]:
        assert_close(out, torch.zeros_like(out), 1e-11, "difference of the streams")


def test_order_of_entries_padding_and_other_samples_do_not_matter() -> None:
    model, given = network("chained"), asked()
    before = outputs(model, given)
    catt = model.encoder.catt
    for dictionary in (catt.dictionary_language, catt.dictionary_vision):
        dictionary.entries.data.copy_(dictionary.entries.data.flip(0))
    for got, want in zip(outputs(model, given), before, strict=True):
        assert_close(got, want, 1e-11, "permuted entries")
    alone = {name: value[:1] for name, value in given.items()}
    alone = {name: value[:, :3] if name in ("input_ids", "attention_mask", "token_type_ids") else value for name, value in alone.items()}
    for got, want in zip(outputs(model, alone), before, strict=True):
        assert_close(got, want[:1, :3] if want.shape[1:] == (5, 24) else want[:1], 1e-11, "one sample without its padding")


@pytest.mark.parametrize("mode", ["single", "chained"])
def test_dictionaries_are_fitted_to_embedded_words_and_regions(mode, monkeypatch) -> None:
    """Of all batches, without padding."""
    model, batches, read = host(), [asked(), asked(seed=2)], {}
    catt = catt_lxmert_(model, mode, init="kmeans", dictionaries=(5, 4))
    with pytest.raises(ValueError, match="fit_dictionaries_"):
        model(**batches[0])
    fit = foveal.CrossSampleDictionary.fit

    def listened(self: nn.Module, tokens: list, **options: object) -> Tensor:
        read[self] = list(tokens)
        return fit(self, read[self], **options)

    monkeypatch.setattr(foveal.CrossSampleDictionary, "fit", listened)
    counts = foveal.fit_dictionaries_(model, batches, call=lambda model, batch: model(**batch))
    assert {name: int(count.sum()) for name, count in counts.items()} == {
        "encoder.catt.dictionary_language": 2 * 8,
        "encoder.catt.dictionary_vision": 2 * 7,
    }
    for given, words, regions in zip(batches, read[catt.dictionary_language], read[catt.dictionary_vision], strict=True):
        embedded = model.embeddings(given["input_ids"], given["token_type_ids"])
        assert torch.equal(words, embedded[given["attention_mask"].bool()])
        assert torch.equal(regions, model.encoder.visn_fc(given["visual_feats"], given["visual_pos"])[given["visual_attention_mask"].bool()])
    assert all(out.isfinite().all() for out in outputs(model, batches[0]))


@pytest.mark.parametrize(("mode", "share"), [("single", False), ("single", True), ("chained", False)])
def test_maps_of_both_streams(mode, share) -> None:
    """As ``foveal.attention_maps`` shows them: those of the dictionary have its entries as keys."""
    model, given = network(mode, share=share), asked()
    maps = foveal.attention_maps(model, given)
    assert not maps.missing
    last, half = "encoder.layer.2.attention.self", f"encoder.catt.layer.{0 if mode == 'single' else 2}.attention.self"
    first = f"{last}:2" if share else ("encoder.catt.layer.0.attention.self")
    assert maps[last]["combined"].shape == (2, 3, 5, 5)
    assert maps[first]["combined"].shape == (2, 3, 5, 4), "language entries"
    assert_close(maps[first]["combined"].sum(-1), torch.ones(2, 3, 5, dtype=torch.float64), 1e-9, "rows")
    if mode == "chained":
        assert maps[half]["combined"].shape == (2, 3, 5, 5)
        assert maps[half]["combined"][0, :, :, 3:].abs().max() == 0, "padding of what the layer below made"
    out = model(**given, output_attentions=True)
    assert_close(out.language_attentions[2], maps[last]["combined"], 1e-9, "the first stream's own")
    assert len(out.language_attentions) == 3
    assert len(out.cross_encoder_attentions) == 3


def test_hidden_states_are_as_many_as_before_and_end_in_what_is_fused() -> None:
    model, given = network(), asked()
    out = model(**given, output_hidden_states=True)
    plain = host()(**given, output_hidden_states=True)
    assert len(out.language_hidden_states) == len(plain.language_hidden_states) == 6
    assert len(out.vision_hidden_states) == 5
    assert torch.equal(out.language_hidden_states[-1], out.language_output)
    assert torch.equal(out.language_hidden_states[0], plain.language_hidden_states[0])


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_where_the_new_weights_start(start) -> None:
    model = host()
    for layer in model.encoder.r_layers:
        layer.output.LayerNorm.weight.data.fill_(2.0)
    catt = catt_lxmert_(model, share=False, start=start, dictionaries=(5, 4))
    own, copied = catt.r_layers[0].intermediate.dense.weight, model.encoder.r_layers[-1].intermediate.dense.weight
    assert torch.equal(own, copied) == (start == "identity")
    assert (catt.r_layers[0].output.LayerNorm.weight == (2.0 if start == "identity" else 1.0)).all()
    assert own.data_ptr() != copied.data_ptr()
    if start == "paper":
        assert abs(catt.fuse_language.weight.detach().std().item() / 0.02 - 1) < 0.1


def test_counts_of_the_published_sizes() -> None:
    """On the meta device, against the sum of the formula's parts."""
    d, f, k = 768, 3072, 500
    attention, output, inner, outer, norm = 3 * (d * d + d), d * d + d, d * f + f, f * d + d, 2 * d
    layer = attention + output + norm + inner + outer + norm
    cross = 3 * (attention + output + norm) + 2 * (inner + outer + norm)
    vision = (2048 * d + d + norm) + (4 * d + d + norm)
    plain = (30522 + 512 + 2) * d + norm + vision + 14 * layer + 5 * cross + d * d + d
    fused = 2 * (2 * d * d + d)

    def count(**options: object) -> int:
        with torch.device("meta"):
            return sum(value.numel() for value in CattLxmert(transformers.LxmertConfig(), **options).parameters())

    assert count(share=True) == plain + 2 * k * d + fused
    assert count(share=True, second="in_sample") == plain + fused
    assert count(share=False, dictionaries=(800, 800)) == plain + 2 * 800 * d + fused + 2 * layer + 5 * cross
    assert count(mode="chained", share=False) == plain + 2 * k * d + fused + 14 * layer + 5 * cross


def test_what_was_saved_comes_back(tmp_path) -> None:
    """By transformers' own way, into a model that was given CATT first."""
    from safetensors.torch import load_file

    model, given = host("LxmertForQuestionAnswering"), asked()
    catt_lxmert_(model, "chained", dictionaries=(5, 4))
    for value in model.lxmert.encoder.catt.parameters():
        value.data.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(tmp_path)
    other = host("LxmertForQuestionAnswering", seed=5)
    catt_lxmert_(other, "chained", dictionaries=(5, 4))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(**given).question_answering_score, model(**given).question_answering_score)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**given).question_answering_score, model(**given).question_answering_score)


def test_half_precision_and_training_run() -> None:
    model = network("chained").to(torch.bfloat16).train()
    given = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in asked().items()}
    assert all(out.isfinite().all() for out in outputs(model, given))
    assert model.encoder.catt.layer[0].training


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"visual_pos": torch.rand(2, 1, 4, dtype=torch.float64)}, r"as many boxes .* got \(2, 1, 4\) and \(2, 4, 10\)"),
        ({"visual_pos": torch.rand(2, 4, 5, dtype=torch.float64)}, "boxes of 4, got 10 and 5"),
        ({"visual_feats": torch.randn(2, 4, 9, dtype=torch.float64)}, "features of 10 numbers .* got 9"),
        ({"visual_feats": torch.randn(1, 4, 10, dtype=torch.float64), "visual_pos": torch.rand(1, 4, 4, dtype=torch.float64)}, "as many images as sentences"),
    ],
)
def test_inputs_that_would_be_stretched_are_refused(change, says) -> None:
    with pytest.raises(ValueError, match=says):
        network()(**asked() | change)


@pytest.mark.parametrize(
    ("sizes", "options", "says"),
    [
        ({}, {"mode": "double"}, "unknown mode of CATT in LXMERT 'double'"),
        ({}, {"cross": "l2g"}, "unknown cross"),
        ({}, {"second": "sample"}, "unknown second"),
        ({}, {"start": "zero"}, "unknown start"),
        ({}, {"init": "zeros"}, "unknown init of a dictionary"),
        ({}, {"dictionaries": (0, 4)}, "at least one entry"),
        ({"r_layers": 0}, {}, "r_layers=0"),
        ({"x_layers": 0}, {}, "x_layers=0"),
    ],
)
def test_settings_that_cannot_be_leave_the_model_as_it_was(sizes, options, says) -> None:
    model = host(**sizes)
    before = model.state_dict().keys()
    with pytest.raises(ValueError, match=says):
        catt_lxmert_(model, **options)
    assert model.state_dict().keys() == before


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="one LxmertModel of transformers in it, got Linear with 0"):
        catt_lxmert_(nn.Linear(2, 2))
    model = host("LxmertForQuestionAnswering")
    catt_lxmert_(model, dictionaries=(5, 4))
    with pytest.raises(ValueError, match="has CATT already"):
        catt_lxmert_(model)
    other = host()
    other.encoder.layer[1] = nn.Identity()
    with pytest.raises(ValueError, match="not all transformers' own LxmertLayer"):
        catt_lxmert_(other)


@pytest.mark.parametrize("name", sorted(Lxmert().arms()))
def test_all_that_is_trained_moves(name) -> None:
    """Of the network of a recipe, whose head leaves out the last half for regions."""
    torch.manual_seed(0)
    model = Lxmert(entries_vision=5, entries_language=4, width=24, num_heads=3, dropout=0.0).arms()[name].model
    net = model.build(words=30, region_dim=10, outputs=6, images=1)
    given = {key: value.float() if value.is_floating_point() else value for key, value in asked(batch=4).items()}
    if model.init == "kmeans" and model.second == "dictionary" and model.catt != "none":
        foveal.fit_dictionaries_(net, [given])
    start = {key: value.detach().clone() for key, value in net.named_parameters()}
    optimizer = torch.optim.AdamW([value for value in net.parameters() if value.requires_grad], lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(given), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    for key, value in net.named_parameters():
        # questions have one segment, whose row is one of padding, in LXMERT too
        assert torch.equal(value, start[key]) != value.requires_grad or "token_type" in key, key
    frozen = [key for key, value in net.named_parameters() if not value.requires_grad]
    own = [key for key in frozen if ".catt." not in key]
    assert own
    assert all(key.startswith(("lxmert.encoder.x_layers.1.visn_",)) for key in own), "as in LXMERT itself"


def test_base_is_read_whole_and_must_fit(tmp_path) -> None:
    host("LxmertForPreTraining").float().save_pretrained(tmp_path / "base")
    model = Lxmert(base=str(tmp_path / "base"), catt="none").build(words=30, region_dim=10, outputs=6, images=2)
    want = host("LxmertForPreTraining").float().lxmert.state_dict()
    assert all(torch.equal(value, want[name]) for name, value in model.lxmert.state_dict().items())
    with pytest.raises(ValueError, match="features of 10 numbers and has 30 words, and the data have features of 11"):
        Lxmert(base=str(tmp_path / "base")).build(words=30, region_dim=11, outputs=6, images=1)
    with pytest.raises(ValueError, match="no LXMERT could be read"):
        Lxmert(base=str(tmp_path / "nothing")).build(words=30, region_dim=10, outputs=6, images=1)
    # transformers fills what is missing with random numbers
    cut = host("LxmertModel", r_layers=1)
    cut.config.r_layers = 2
    cut.save_pretrained(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"lacks encoder\.r_layers\.1"):
        Lxmert(base=str(tmp_path / "cut")).build(words=30, region_dim=10, outputs=6, images=1)
    with pytest.raises(ValueError, match="images=3"):
        LxmertReader(host(), 2, images=3)
    assert config(l_layers=4).l_layers == 4
