"""What cannot be converted is refused by name where it was meant, and left alone and reported where all were meant; nothing is ever silent."""

import pytest
import torch
from torch import nn

import foveal
from foveal import ConversionReport, DenoisingAttention, EfficientAttention, ExternalAttention, InputError, LinearAttention, SoftmaxAttention, convert, convert_
from tests.convert.hosts import SIZES, maxxvit, of_timm
from tests.convert.test_hosts import stirred, timm_vit
from tests.convert.towers import TwoTowers

VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 99, "max_position_embeddings": 64}
MEMORIES = [ExternalAttention.Config(), EfficientAttention.Config(), LinearAttention.Config()]


def two_towers(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    vision = VISION if name != "Siglip2" else {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
    return stirred(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(text_config=TEXT, vision_config=vision)))


@pytest.mark.case("H1")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Siglip", "CLIP", "Siglip2"])
@pytest.mark.parametrize("config", [DenoisingAttention.Config(), ExternalAttention.Config()], ids=lambda config: config.attention)
def test_models_of_two_towers_are_converted_as_far_as_they_can_be(name, config) -> None:
    model = two_towers(name)
    exact = config.attention == "denoising"
    if name == "Siglip2" and not exact:
        # both towers are given masks of pairs
        with pytest.raises(
            InputError, match=r"none of the 5 .* it reads text.*; .*images of other proportions are padded.*; .*its queries are other tokens than its keys"
        ):
            convert(model, config)
        return
    other, report = convert(model, config, **({"warm_start": "exact"} if exact else {}))
    reasons = {one.name: one.reason for one in report.left}
    # SigLIP's text is not causal, CLIP's is
    text = 2 if exact and name != "CLIP" else 0
    assert len([swap for swap in report.swaps if swap.name.startswith("text_model")]) == text
    assert len([swap for swap in report.swaps if swap.name.startswith("vision_model")]) == 2
    assert all("reads text" in reasons[f"text_model.encoder.layers.{n}.self_attn"] for n in range(2 - text))
    inputs = {"input_ids": torch.randint(1, 90, (2, 7)), "pixel_values": torch.randn(2, 3, 32, 32)}
    if name == "Siglip2":
        inputs |= {"pixel_values": torch.randn(2, 16, 192), "spatial_shapes": torch.tensor([[4, 4], [2, 8]]), "pixel_attention_mask": torch.ones(2, 16).long()}
    with torch.no_grad():
        got, want = other(**inputs), model(**inputs)
    if exact:
        torch.testing.assert_close(got.logits_per_image, want.logits_per_image, rtol=1e-3, atol=1e-4)


@pytest.mark.case("H2")
@pytest.mark.filterwarnings("ignore")
def test_nothing_swapped_is_an_error() -> None:
    transformers = pytest.importorskip("transformers")
    heads = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION))
    for where in ("head.*", lambda name, module: name.startswith("head")):
        with pytest.raises(InputError, match="is cross-attention or a pooling head: its queries are other tokens than its keys"):
            convert_(heads, ExternalAttention.Config(), where)
    pool = nn.Sequential(heads.head)
    with pytest.raises(InputError, match=r"none of the 1 attentions that are known can be converted: 0\.attention: is cross-attention or a pooling head"):
        convert_(pool, DenoisingAttention.Config())
    modern = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**{key: VISION[key] for key in VISION if key != "image_size"}, num_patches=16))
    report = convert_(modern, DenoisingAttention.Config())
    assert len(report.swaps) == 2
    assert [one.name for one in report.left] == ["head.attention"]
    images = torch.randn(2, 3, 32, 32)
    for config, exact in ((SoftmaxAttention.Config(), {}), (DenoisingAttention.Config(), {"warm_start": "exact"})):
        heads.eval()
        want = heads(images).pooler_output
        assert [swap.name for swap in convert_(heads, config, "head.*", **exact).swaps] == ["head.attention"]
        torch.testing.assert_close(heads(images).pooler_output, want, rtol=1e-4, atol=1e-5)
        foveal.revert_(heads)
        assert torch.equal(heads(images).pooler_output, want)
    before = {name: id(module) for name, module in two_towers("CLIP").text_model.named_modules()}
    assert before
    with pytest.raises(InputError, match="reads text"):
        convert_(two_towers("CLIP").text_model, SoftmaxAttention.Config())


@pytest.mark.case("H2")
def test_converting_again_is_nothing_to_do_and_no_error() -> None:
    model = timm_vit()
    convert_(model, DenoisingAttention.Config())
    assert convert_(model, DenoisingAttention.Config()).swaps == []


@pytest.mark.case("H4")
@pytest.mark.parametrize("config", MEMORIES, ids=lambda config: config.attention)
def test_a_causal_text_tower_is_refused_at_conversion(config) -> None:
    model = stirred(TwoTowers((32, 32)))
    before = {name: id(module) for name, module in model.named_modules()}
    for where in ("transformer.*", "transformer.resblocks.0.attn", lambda name, module: True):
        with pytest.raises(
            InputError, match=r"transformer\.resblocks\.0\.attn.*causal; leave text out of `where`, for example with where='visual\.\*'"
        ) as told:
            convert_(model, config, where)
        assert not str(told.value).startswith("visual")
    assert {name: id(module) for name, module in model.named_modules()} == before
    images, text = torch.randn(2, 3, 32, 32), torch.randint(0, 50, (2, 6))
    _, want = model(images, text)
    report = convert_(model, config)
    assert [swap.name for swap in report.swaps] == [f"visual.transformer.resblocks.{n}.attn" for n in range(2)]
    assert [one.name for one in report.left] == ["transformer.resblocks.0.attn"]
    seen, got = model(images, text)
    assert seen.isfinite().all()
    assert torch.equal(got, want)
    exact, report = convert(TwoTowers((32, 32)), SoftmaxAttention.Config())
    assert len(report.swaps) == 3
    exact(images, text)


@pytest.mark.case("H4")
def test_the_mask_of_openais_blocks_is_their_own() -> None:
    """Each block of its text tower keeps the mask, the blocks of its vision tower None."""
    model = TwoTowers((32, 32))
    mask, model.attn_mask = model.attn_mask, None
    model.transformer.resblocks[0].attn_mask = mask
    report = convert_(model, ExternalAttention.Config())
    assert len(report.swaps) == 2
    assert [one.name for one in report.left] == ["transformer.resblocks.0.attn"]


@pytest.mark.case("H7")
@pytest.mark.parametrize(
    ("module", "name", "options", "classes"),
    [
        ("convit", "ConVit", SIZES | {"local_up_to_layer": 9, "embed_dim": 32}, ["GPSA"]),
        ("efficientvit_mit", "EfficientVit", {"widths": (8, 8, 8, 16), "depths": (1, 1, 1, 2), "head_dim": 8, "head_widths": (16, 16)}, ["LiteMLA"]),
    ],
)
def test_a_refusal_names_the_models_own_attentions_first(module, name, options, classes) -> None:
    model = of_timm(module, name, **options)()
    with pytest.raises(InputError, match="none is an attention that is known") as told:
        convert_(model, DenoisingAttention.Config())
    shown = str(told.value).partition("known: ")[2].partition("; known")[0]
    assert all(one in shown for one in classes)
    assert "Conv2d" not in shown
    assert "ModuleList" not in shown


@pytest.mark.case("H7")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options", "one"),
    [("MobileViTV2", {}, "MobileViTV2LinearSelfAttention")],
)
def test_a_refusal_names_transformers_attentions_first(name, options, one) -> None:
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options))
    with pytest.raises(InputError, match="none is an attention that is known") as told:
        convert_(model, DenoisingAttention.Config())
    assert one in str(told.value).partition("; known")[0]


@pytest.mark.case("H8")
def test_the_report_names_every_attention_that_was_left() -> None:
    model = timm_vit(global_pool="map", class_token=False)
    report = convert_(model, DenoisingAttention.Config())
    assert [(one.name, one.was.rpartition(".")[2]) for one in report.left] == [("attn_pool", "AttentionPoolLatent")]
    assert "left as it is: attn_pool (AttentionPoolLatent): is cross-attention or a pooling head, which is converted only where it is named" in str(report)
    assert ConversionReport.from_json(report.to_json()) == report
    # where a part was meant, what lies outside of it is nobody's matter
    assert convert_(timm_vit(global_pool="map", class_token=False), DenoisingAttention.Config(), "blocks.*").left == []
    # its class tokens ask among tokens that they are part of: of pairs they are converted, by memories not
    crossing = of_timm("crossvit", "CrossVit", img_size=(32, 32), embed_dim=(8, 16), depth=((1, 1, 0),), num_heads=(2, 2), num_classes=3)()
    _, report = convert(crossing, SoftmaxAttention.Config())
    assert report.left == []
    _, report = convert(crossing, ExternalAttention.Config(slots=4))
    assert {one.was.rpartition(".")[2] for one in report.left} == {"CrossAttention"}
    assert len(report.left) == 2
    assert convert_(timm_vit(), SoftmaxAttention.Config()).left == []
    assert ConversionReport.from_json(ConversionReport([]).to_json()).left == []


@pytest.mark.case("H9")
def test_one_that_does_not_fit_refuses_no_other() -> None:
    model = maxxvit("T", "bias", False)()
    _, report = convert(model, SoftmaxAttention.Config())
    assert [swap.name for swap in report.swaps] == ["stages.0.blocks.0.attn", "stages.0.blocks.1.attn"]
    report = convert_(model, ExternalAttention.Config())
    assert [swap.name for swap in report.swaps] == ["stages.0.blocks.1.attn"]
    assert [(one.name, "changes the width" in one.reason) for one in report.left] == [("stages.0.blocks.0.attn", True)]
    gated = timm_vit()
    gated.blocks[1].attn.gate = nn.Linear(24, 24)
    for config in (SoftmaxAttention.Config(), {"*": SoftmaxAttention.Config()}):
        other, report = convert(gated, config)
        assert [swap.name for swap in report.swaps] == ["blocks.0.attn", "blocks.2.attn"]
        assert [(one.name, one.reason.startswith("gates its output")) for one in report.left] == [("blocks.1.attn", True)]
        other(torch.randn(1, 3, 32, 32))
    for meant in ({"where": "blocks.*"}, {"config": {"blocks.1.attn": SoftmaxAttention.Config()}}):
        with pytest.raises(InputError, match=r"blocks\.1\.attn gates its output"):
            convert_(gated, **{"config": SoftmaxAttention.Config()} | meant)
    assert not foveal.convert(gated, {"blocks.1.attn": None, "*": SoftmaxAttention.Config()})[1].left
