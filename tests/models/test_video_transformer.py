"""The model of video recipes is the published TimeSformer, begins from images and from videos, and has arms in space and in time."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import foveal.timm  # noqa: F401 (registers the networks)
from foveal import DenoisingAttention, HaloAttention, InputError, SoftmaxAttention
from foveal.lab.training import model_from_dict, model_to_dict
from foveal.models import TimeSformer, VisionTransformer
from foveal.timm import VideoTransformer

SMALL = VideoTransformer(embed_dim=24, depth=2, num_heads=2, patch_size=8)
NEEDS = {"img_size": 16, "in_chans": 3, "num_classes": 5, "num_frames": 3}


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("attention", "name"), [("softmax", "fov_timesformer_base_patch16_224"), ("denoising", "fov_dna_timesformer_base_patch16_224")])
def test_the_defaults_are_the_published_network(attention, name) -> None:
    with torch.device("meta"):
        ours = VideoTransformer(attention=attention).build(img_size=224, in_chans=3, num_classes=400, num_frames=8)
    assert shapes(ours) == shapes(timm.create_model(name, device="meta"))


def test_a_miniature_is_the_registered_one() -> None:
    ours = VideoTransformer(attention="denoising", start="none").smoke_model().build(img_size=32, in_chans=3, num_classes=10, num_frames=3)
    assert shapes(ours) == shapes(timm.create_model("test_fov_dna_timesformer"))


def test_frames_of_model_and_data_agree() -> None:
    assert SMALL.build(**NEEDS).num_frames == 3
    assert replace(SMALL, num_frames=3).build(**NEEDS).time_embed.shape == (1, 3, 24)
    with pytest.raises(InputError, match="the model is for 4 frames, the data have clips of 3"):
        replace(SMALL, num_frames=4).build(**NEEDS)
    with pytest.raises(InputError, match="patches of 16 do not tile frames of side 24"):
        replace(SMALL, patch_size=16).build(**NEEDS | {"img_size": 24})
    with pytest.raises(InputError, match="depth"):
        replace(SMALL, depth=0).build(**NEEDS)


def test_stochastic_depth_grows_to_what_was_asked_for() -> None:
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in replace(SMALL, depth=3, drop_path=0.1).build(**NEEDS).blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1])


def test_positions_in_time_start_as_published_or_as_asked_for() -> None:
    assert not SMALL.build(**NEEDS).time_embed.any()
    spread = replace(SMALL, embed_dim=240, time_std=0.5).build(**NEEDS).time_embed
    assert spread.std().item() == pytest.approx(0.5, rel=0.1)
    assert replace(SMALL, time_std=0.5, attention_type="space_only").build(**NEEDS).time_embed is None
    with pytest.raises(InputError, match="time_std"):
        replace(SMALL, time_std=-1.0).build(**NEEDS)


# -- where it starts ------------------------------------------------------------------------------------------------------------------------------


def image_model(attention: str) -> VisionTransformer:
    model = VisionTransformer(attention=attention, img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=7, qkv_bias=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("space", ["softmax", "denoising"])
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_run_on_images_is_inflated(space, ending, tmp_path) -> None:
    images, path = image_model(space), tmp_path / f"model.{ending}"
    if ending == "pt":
        torch.save({"model": images.state_dict()}, path)
    else:
        save_file(images.state_dict(), path)
    video = replace(SMALL, attention=space, start=path).build(**NEEDS).eval()
    picture = torch.randn(2, 3, 16, 16)
    still = picture.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    # a video that stands still is its image, but for the classifier, which is new
    torch.testing.assert_close(video.forward_features(still)[:, 0], images.forward_features(picture)[:, 0], rtol=1e-4, atol=1e-5)
    assert video.head.weight.shape == (5, 24)


def test_a_run_on_videos_is_taken_over_but_for_its_classes_and_frames(tmp_path) -> None:
    before = replace(SMALL, attention="denoising").build(**NEEDS | {"num_classes": 9})
    torch.nn.init.normal_(before.time_embed)
    torch.nn.init.normal_(before.blocks[1].temporal_fc.weight)
    save_file(before.state_dict(), tmp_path / "model.safetensors")
    settings = replace(SMALL, attention="denoising", start=tmp_path / "model.safetensors")
    torch.manual_seed(7)
    after = settings.build(**NEEDS)
    torch.manual_seed(7)
    fresh = replace(settings, start=None).build(**NEEDS)
    for name, value in after.state_dict().items():
        want = fresh if name.startswith("head.") else before
        assert torch.equal(value, want.state_dict()[name]), name
    longer = settings.build(**NEEDS | {"num_frames": 5})
    clip = torch.randn(1, 3, 5, 16, 16)
    torch.testing.assert_close(longer.eval().forward_features(clip), before.eval().forward_features(clip))
    assert longer.time_embed.shape[1] == 5


def test_weights_that_do_not_fit_are_refused(tmp_path) -> None:
    save_file(SMALL.build(**NEEDS).state_dict(), tmp_path / "softmax.safetensors")
    with pytest.raises(InputError, match="weights of another network"):
        replace(SMALL, attention="denoising", start=tmp_path / "softmax.safetensors").build(**NEEDS)
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, says in (
        ("text.safetensors", "cannot read"),
        ("text.pt", "cannot read"),
        ("list.pt", "holds a list"),
        ("none.pt", "cannot read"),
        ("none.safetensors", "cannot read"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            replace(SMALL, start=tmp_path / name).build(**NEEDS)
        assert name in str(caught.value)


# -- arms -----------------------------------------------------------------------------------------------------------------------------------------


def attentions(model: TimeSformer) -> tuple[type, type]:
    return type(model.blocks[0].attn), type(model.blocks[0].temporal_attn)


def test_arms_say_what_stands_in_space_and_in_time() -> None:
    arms = replace(SMALL, attention="denoising", options={"lambda_init": 0.1}).arms()
    want = {
        "softmax": (SoftmaxAttention, SoftmaxAttention),
        "softmax-wide": (SoftmaxAttention, SoftmaxAttention),
        "denoising": (DenoisingAttention, DenoisingAttention),
        "denoising-space": (DenoisingAttention, SoftmaxAttention),
        "denoising-time": (SoftmaxAttention, DenoisingAttention),
        "halo-space": (HaloAttention, SoftmaxAttention),
    }
    for name, kinds in want.items():
        assert attentions(arms[name].model.build(**NEEDS)) == kinds, name
    assert not {"halo", "halo-time"} & set(arms)
    assert arms["space-only"].model.build(**NEEDS).time_embed is None
    assert set(VideoTransformer.default_arms) <= set(arms)
    assert SMALL.plain() == arms["softmax"].model


def test_the_wide_arm_has_the_weights_of_denoising() -> None:
    def count(name: str) -> int:
        model = VideoTransformer(embed_dim=48, depth=2, num_heads=6, patch_size=8).arms()[name].model.build(**NEEDS)
        return sum(value.numel() for key, value in model.named_parameters() if ".weight" in key)

    assert count("softmax-wide") == count("denoising") > count("softmax")


def test_every_arm_computes_and_goes_to_json() -> None:
    for name, arm in SMALL.arms().items():
        assert model_from_dict(model_to_dict(arm.model)) == arm.model
        if "cross_sample" in name:
            # its dictionaries are fitted to the training set first
            continue
        assert arm.model.build(**NEEDS).eval()(torch.randn(1, 3, 3, 16, 16)).shape == (1, 5), name


def test_a_file_to_start_from_goes_to_json_and_back(tmp_path) -> None:
    import json

    model = replace(SMALL, start=tmp_path / "model.safetensors")
    assert model_from_dict(json.loads(json.dumps(model_to_dict(model), default=str))) == model
