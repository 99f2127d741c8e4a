"""What the viewer's page holds: weights as the model made them, to the error that it states; who looks and at what; and the sizes that were promised."""

import base64
import io
import itertools
import json
import re
import zlib

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import foveal
from foveal import InputError
from foveal.analysis import attention_maps, rollout
from foveal.analysis.viewer import AttentionPage, show, view_model, write_page
from foveal.analysis.viewer._stored import Store
from foveal.models import ViT
from foveal.models.timesformer import TimeSformer


def vit(name: str = "test_vit", sharp: float = 6.0, **options) -> nn.Module:
    """Queries and keys are made larger: fresh ones look everywhere alike."""
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=32, patch_size=8, num_classes=7, **options).eval()
    for block in model.blocks:
        block.attn.qkv.weight.data[: 2 * block.attn.qkv.in_features] *= sharp
    return model


def read(page: AttentionPage):
    """What the script of the page reads: the description, and a function from a map's record to its values."""
    about = json.loads(re.search(r'<script id="about"[^>]*>(.*?)</script>', page.html, re.DOTALL)[1])
    raw = zlib.decompress(base64.b64decode(re.search(r'<script id="packed"[^>]*>(.*?)</script>', page.html, re.DOTALL)[1]))
    scales, levels = np.frombuffer(raw[: 4 * about["rows"]], "<f4"), np.frombuffer(raw[4 * about["rows"] :], np.uint8)

    def values(record):
        rows, shape = record["heads"] * record["queries"], (record["heads"], record["queries"], record["keys"])
        own = levels[record["levels"] : record["levels"] + rows * record["keys"]].reshape(shape).astype(float) - record["zero"]
        return torch.from_numpy(own / record["most"] * scales[record["scales"] : record["scales"] + rows].reshape(*shape[:2], 1))

    return about, values


IMAGE = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", [None, "denoising", "differential", "external"])
def test_weights_are_the_models_to_the_error_that_is_stated(attention) -> None:
    model = vit()
    if attention:
        foveal.convert_(model, foveal.create_attention(attention, dim=64, num_heads=2).Config())
    page = show(model, IMAGE)
    about, values = read(page)
    assert page.error == about["error"]
    want = attention_maps(model, IMAGE[None])
    (shown,) = about["models"]
    assert [layer["name"] for layer in shown["layers"]] == list(want)
    worst = 0.0
    for layer in shown["layers"]:
        maps = {name: values(record) for name, record in layer["maps"].items()}
        for name, got in maps.items():
            exact = want[layer["name"]][name][0].double()
            assert got.shape == exact.shape
            row = exact.abs().amax(-1, keepdim=True)
            assert ((got - exact).abs() <= row / (2 * layer["maps"][name]["most"]) * (1 + 1e-5)).all()
            worst = max(worst, (got - exact).abs().max().item())
        if attention in ("denoising", "differential"):
            # the combination is not stored, for λ says it
            assert "combined" not in maps
            strength = torch.tensor(layer["lambdas"]).view(-1, 1, 1)
            exact = want[layer["name"]]
            torch.testing.assert_close(exact["positive"][0].double() - strength * exact["negative"][0], exact["combined"][0].double(), rtol=0, atol=1e-5)
    for name, record in (shown["rollout"] or {"maps": {}})["maps"].items():
        signed = "positive" if attention not in ("denoising", "differential") else name
        exact = rollout(model, IMAGE[None], signed=signed)[0].double()
        worst = max(worst, (values(record)[0] - exact).abs().max().item())
    assert page.error == pytest.approx(worst, rel=1e-4)


def test_a_signed_map_without_lambda_keeps_its_sign() -> None:
    store = Store(255)
    weights = torch.randn(2, 3, 5)
    record = store.add(weights)
    raw = zlib.decompress(base64.b64decode(store.packed()))
    levels, scales = np.frombuffer(raw[24:], np.uint8).reshape(2, 3, 5), np.frombuffer(raw[:24], "<f4").reshape(2, 3, 1)
    got = torch.from_numpy((levels.astype(float) - record["zero"]) / record["most"] * scales)
    assert (got - weights).abs().max() <= weights.abs().max() / 254 * 1.001
    assert (got.sign() * weights.sign()).min() >= 0
    assert store.error == pytest.approx((got - weights).abs().max().item(), rel=1e-4)


def test_maps_of_nothing_and_of_no_numbers() -> None:
    store = Store()
    store.add(torch.zeros(1, 2, 4))
    assert store.error == 0
    model = vit()
    model.blocks[1].attn.qkv.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"blocks\.1\.attn: an attention map holds NaN"):
        show(model, IMAGE)


def test_coarser_steps_where_the_page_would_be_too_large() -> None:
    model = vit()
    fine = show(model, IMAGE)
    size = len(fine.html.encode())
    coarse = show(model, IMAGE, limit=size - 1)
    assert fine.steps == 255 > coarse.steps
    assert len(coarse.html.encode()) < size
    assert fine.error < coarse.error < 0.5 / coarse.steps
    # nothing is left out where no steps are coarse enough
    assert show(model, IMAGE, limit=1).steps == 15


def test_who_is_named() -> None:
    def prefix(**options):
        viewed = view_model(vit(**options), IMAGE[None])
        return viewed.prefix, viewed.looks

    assert prefix() == (["class token"], "the class token")
    assert prefix(reg_tokens=2) == (["class token", "register 1", "register 2"], "the class token")
    assert prefix(reg_tokens=1, class_token=False, global_pool="avg") == (["register"], "the mean of all patches")
    assert prefix(class_token=False, global_pool="avg") == ([], "the mean of all patches")
    torch.manual_seed(0)
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=0)
    assert view_model(distilled, IMAGE[None]).prefix == ["class token", "distillation token"]


def test_answers_and_the_true_class() -> None:
    model = vit()
    chance = model(IMAGE[None]).softmax(-1)[0]
    order = chance.argsort(descending=True).tolist()
    labels = [f"kind {n}, also {n}" for n in range(7)]
    viewed = view_model(model, IMAGE[None], labels=labels, truth=f"also {order[5]}")
    assert [name for name, _ in viewed.answers] == [labels[n] for n in order[:5]]
    assert [share for _, share in viewed.answers] == pytest.approx(chance[order[:5]].tolist())
    assert viewed.truth == (labels[order[5]], pytest.approx(chance[order[5]].item()), 6)
    assert view_model(model, IMAGE[None], truth=order[0]).truth[0] == f"class {order[0]}"
    for truth, said in ((7, "has 7 classes"), (-1, "index from 0 to 6"), ("nobody", "no class")):
        with pytest.raises(InputError, match=said):
            view_model(model, IMAGE[None], labels=labels, truth=truth)
    untrained = view_model(model, IMAGE[None], trained=False)
    assert untrained.answers == []
    assert "drawn at random" in untrained.notes[0]
    # what gives no logits has no classes
    features = vit(global_pool="", class_token=True)
    features.num_classes, features.head = 0, nn.Identity()
    assert view_model(features, IMAGE[None]).answers == []
    with pytest.raises(InputError, match="no logits"):
        view_model(features, IMAGE[None], truth=1)


def test_an_answer_of_no_numbers_is_refused() -> None:
    model = vit()
    model.head.weight.data[2] = float("nan")
    with pytest.raises(InputError, match="answers NaN"):
        show(model, IMAGE)
    # a class that is ruled out is not
    model.head.weight.data[2] = 0
    model.head.bias.data[2] = -float("inf")
    assert show(model, IMAGE).html


def test_names_that_are_no_text_and_names_with_markup() -> None:
    """As of files and folders of other people, which hold whatever bytes they like."""
    odd = "</script><script>alert(1)</script>\"'`${1}\udcff\u2028{{style}}"
    page = show(vit(), IMAGE, title=odd, names=[odd], labels=[odd] * 7)
    assert page.html.encode()
    assert page.html.count("<script") == 3
    assert r"\udcff" in page.html.partition("</title>")[0]
    about, _ = read(page)
    assert (about["title"], about["models"][0]["name"], about["models"][0]["answers"][0][0]) == (odd, odd, odd)


def test_slots_lie_nowhere_and_summaries_are_shown_by_channel() -> None:
    model = vit()
    foveal.convert_(model, foveal.ExternalAttention.Config(slots=10), where="blocks.1.attn")
    layers = view_model(model, IMAGE[None]).layers
    assert set(layers[1].maps) == {"combined", "slots"}
    assert layers[1].maps["slots"].shape[-1] == 10

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, 16, 4, 4), foveal.EfficientAttention2d(16, key_channels=16, value_channels=16, num_heads=2)

        def forward(self, x):
            return self.mix(self.stem(x)).mean((-2, -1))

    net = Net().eval()
    (layer,) = view_model(net, IMAGE[None]).layers
    want = foveal.analysis.summary_maps(net, IMAGE[None])["mix"][0]
    assert (layer.queries, layer.keys.grid) == (None, (8, 8))
    assert layer.name == "mix, 12 of 16 summary maps"
    numbers = [int(name.removeprefix("map ")) for name in layer.heads]
    torch.testing.assert_close(layer.maps["combined"][:, 0].unflatten(-1, (8, 8)), want[numbers])
    with pytest.raises(InputError, match="no layer has maps"):
        view_model(net, IMAGE[None], where="nothing")


def test_pooling_heads_windows_and_large_maps(monkeypatch) -> None:
    pooled = vit(global_pool="map", class_token=False)
    viewed = view_model(pooled, IMAGE[None])
    assert [layer.queries is None for layer in viewed.layers] == [False] * (len(viewed.layers) - 1) + [True]
    windows = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(1, 1), embed_dim=12, num_heads=(1, 1)).eval()
    one = view_model(windows, torch.randn(1, 3, 56, 56))
    assert [layer.name for layer in one.layers] == ["layers.1.blocks.0.attn"]
    assert "layers.0.blocks.0.attn is not shown: it attends in 4 windows, and not over the image" in one.notes
    monkeypatch.setattr("foveal.analysis.viewer.viewed.LARGEST", 100)
    with pytest.raises(InputError, match="more than the 100 that a page takes"):
        view_model(vit(), IMAGE[None])


def test_two_models_of_one_photograph() -> None:
    model = vit()
    changed = vit(sharp=1.0)
    page = show(model, IMAGE, against=changed, names=["sharp", "flat"])
    about, values = read(page)
    for one, shown in zip((model, changed), about["models"], strict=True):
        want = attention_maps(one, IMAGE[None])["blocks.0.attn"]["combined"][0]
        assert (values(shown["layers"][0]["maps"]["combined"]) - want).abs().max() <= page.error * 1.001
    viewed = [view_model(model, IMAGE[None]), view_model(changed, IMAGE[None])]
    smooth = nn.functional.interpolate(torch.randn(1, 3, 4, 4), 32, mode="bilinear")[0]
    other = write_page(viewed, [smooth, smooth.flip(-1)], title="x")
    assert "another cut" in read(other)[0]["models"][1]["notes"][-1]
    same = write_page(viewed, [smooth, 2 * smooth + 1], title="x")
    assert read(same)[0]["models"][1]["notes"] == []
    with pytest.raises(InputError, match="one name a model"):
        show(model, IMAGE, against=changed, names=["one"])


def test_images_by_path_and_what_is_refused(tmp_path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    model = timm.create_model("test_vit").eval()
    by_path, by_image = show(model, tmp_path / "photo.png"), show(model, Image.open(tmp_path / "photo.png"))
    assert by_path.html == by_image.html
    (tmp_path / "broken.png").write_text("{")
    torch.manual_seed(0)
    ours = ViT(patch_size=8).build(img_size=32, in_chans=3, num_classes=3)
    for given, one, said in (
        (tmp_path / "broken.png", model, "cannot open the image"),
        (tmp_path / "photo.png", ours, "does not say how its images are made ready"),
        (3, model, "expected an image as a tensor"),
        (torch.randn(2, 3, 160, 160), model, "one image at a time"),
        (torch.randn(3, 160, 160), nn.Conv2d(3, 3, 1), "no attention whose maps could be seen"),
    ):
        with pytest.raises(InputError, match=said):
            show(one, given)
    with pytest.raises(InputError, match="is a folder"):
        by_path.save(tmp_path)


def test_the_model_is_left_as_it_was_and_the_page_needs_nothing_else(tmp_path) -> None:
    model = vit().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    page = foveal.show(model, IMAGE, title="</script><b>")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert page.save(tmp_path / "new" / "page.html").read_text(encoding="utf8") == page.html
    assert not re.findall(r"(?:src|href|@import|url\()\s*=?\s*[\"']?(?:https?:)?//", page.html)
    assert "<b>" not in page.html
    assert page.html.count("&lt;/script&gt;&lt;b&gt;") == 2
    assert page.html.count("</script>") == 3
    assert page._repr_html_().startswith("<iframe")
    assert "<script" not in page._repr_html_()
    assert repr(page) == f"AttentionPage(steps={page.steps}, error={page.error!r})"


@pytest.mark.parametrize("attention", ["softmax", "denoising"])
def test_videos_by_what_a_patch_looks_at(attention) -> None:
    clip = torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    sizes = {"num_frames": 4, "img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}

    def maps(kind):
        torch.manual_seed(0)
        model = TimeSformer(attention=attention, attention_type=kind, **sizes).eval()
        return view_model(model, clip), attention_maps(model, clip), model

    joint, want, model = maps("joint_space_time")
    which = "positive" if attention == "denoising" else "combined"
    assert [(layer.frames, layer.axis, layer.keys.grid) for layer in joint.layers] == [(4, "all", (2, 2))] * 2
    assert torch.equal(joint.layers[0].maps[which], want["blocks.0.attn"][which][0])
    assert joint.rollout.frames == 4
    about, _ = read(show(model, clip))
    assert len(about["photos"]) == 4
    assert len(set(about["photos"])) == 4
    divided, want, _ = maps("divided_space_time")
    # four frames of four patches: the name tells time from space
    assert [(layer.name, layer.axis, layer.frames) for layer in divided.layers[:2]] == [("blocks.0.temporal_attn", "time", 4), ("blocks.0.attn", "space", 4)]
    time, space = (want[layer.name][which] for layer in divided.layers[:2])
    for frame, patch, head in itertools.product(range(4), range(4), range(3)):
        assert torch.equal(divided.layers[0].maps[which][head, patch * 4 + frame], time[patch, head, frame])
        assert torch.equal(divided.layers[1].maps[which][frame * 3 + head, 1 + patch], space[frame, head, 1 + patch])
    if attention == "denoising":
        assert [len(layer.lambdas) for layer in divided.layers[:2]] == [3, 3]
    assert any("no rollout" in note for note in divided.notes)


def test_videos_of_transformers_come_frames_first() -> None:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    torch.manual_seed(0)
    config = VideoMAEConfig(image_size=32, patch_size=16, num_frames=8, tubelet_size=2, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = VideoMAEForVideoClassification(config).eval()
    clip = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(1, 8, 3, 32, 32).contiguous()
    about, _ = read(show(model, clip))
    layer = about["models"][0]["layers"][0]
    assert (layer["frames"], layer["axis"], layer["keys"]["prefix"], layer["keys"]["grid"]) == (4, "all", 0, [2, 2])
    # a frame of tokens is a tube of two, of which the later is shown
    shades = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).mean() for uri in about["photos"]]
    assert shades == pytest.approx([255 * n / 6 for n in (0, 2, 4, 6)], abs=1)
    assert len(about["models"][0]["answers"]) == 2


def test_features_of_a_model_without_a_head_are_no_answers() -> None:
    model = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=0).eval()
    assert model(IMAGE[None]).shape == (1, 64)
    assert view_model(model, IMAGE[None]).answers == []
    with pytest.raises(InputError, match="no logits"):
        view_model(model, IMAGE[None], truth=1)


def test_a_photograph_is_brought_to_the_size_that_a_model_was_built_for() -> None:
    """Which need not be that of its published weights, 160 pixels."""
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8))
    about, _ = read(show(vit(), photograph))
    assert about["grid"] == [4, 4]
    (photo,) = about["photos"]
    assert Image.open(io.BytesIO(base64.b64decode(photo.partition(",")[2]))).size == (32, 32)
