"""Networks of timm's registry as the model of a recipe."""

import pytest
import timm
import torch
from timm.layers import DropPath

import foveal
from foveal import InputError
from foveal.lab.training import model_from_dict, model_to_dict
from foveal.timm import TimmModel

SIZES = {"img_size": 32, "in_chans": 1, "num_classes": 7}


@pytest.mark.parametrize("name", ["test_fov_dna_vit", "test_fov_halonet", "test_fov_eamlp", "test_vit", "test_resnet"])
def test_it_is_what_timm_makes(name) -> None:
    config = TimmModel(name=name)
    assert model_from_dict(model_to_dict(config)) == config
    torch.manual_seed(0)
    model = config.build(**SIZES)
    cfg = timm.get_pretrained_cfg(name)
    torch.manual_seed(0)
    want = timm.create_model(name, in_chans=1, num_classes=7, drop_path_rate=0.0, **({"img_size": 32} if cfg.fixed_input_size else {}))
    assert model.state_dict().keys() == want.state_dict().keys()
    assert all(torch.equal(value, want.state_dict()[key]) for key, value in model.state_dict().items())
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_stochastic_depth_grows_or_is_the_same_in_every_block() -> None:
    def rates(**options: object) -> list[float]:
        model = TimmModel(name="test_fov_dna_vit", drop_path=0.2, **options).build(**SIZES)
        return [
            getattr(block, name).drop_prob if isinstance(getattr(block, name), DropPath) else 0.0
            for block in model.blocks
            for name in ("drop_path1", "drop_path2")
        ]

    grown = rates()
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (0.0, pytest.approx(0.2))
    assert set(rates(constant_drop_path=True)) == {0.2}
    with pytest.raises(InputError, match="transformer blocks; test_resnet has none"):
        TimmModel(name="test_resnet", drop_path=0.1, constant_drop_path=True).build(**SIZES)


def test_its_attention_gives_way_to_another() -> None:
    config = TimmModel(name="test_vit")
    arms = config.arms()
    assert arms[config.baseline].model == config
    assert set(config.default_arms) <= set(arms)
    model = arms["external"].model.build(**SIZES)
    assert sum(isinstance(module, foveal.ExternalAttention) for module in model.modules()) == len(model.blocks)
    # denoising attention begins close to what was there
    torch.manual_seed(0)
    own = config.build(**SIZES).eval()
    torch.manual_seed(0)
    denoising = arms["denoising"].model.build(**SIZES).eval()
    x = torch.randn(2, 1, 32, 32)
    assert torch.allclose(own(x), denoising(x), atol=1e-2)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (TimmModel(name="fov_dna_vit_bas_patch16_224"), "did you mean fov_dna_vit_base_patch16_224"),
        (TimmModel(name="test_vit", options={"embed_dimm": 3}), "embed_dimm"),
        (TimmModel(name="test_vit", attention="externl"), "did you mean external"),
        (TimmModel(name="test_resnet", attention="external"), "attention"),
    ],
)
def test_what_cannot_be_built_is_explained(config, says) -> None:
    with pytest.raises(InputError, match=says):
        config.build(**SIZES)


def test_the_miniature_is_named_and_untrained() -> None:
    config = TimmModel(name="fov_dna_vit_base_patch16_224", pretrained=True, drop_path=0.15, smoke_name="test_fov_dna_vit")
    assert config.smoke_model() == TimmModel(name="test_fov_dna_vit", drop_path=0.15, smoke_name="test_fov_dna_vit")
    assert not TimmModel(name="test_vit", pretrained=True).smoke_model().pretrained
