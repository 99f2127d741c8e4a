"""Old names of arguments: they warn and mean what they meant, files may hold them, and nobody gives both."""

import json

import pytest
import torch

import foveal
from foveal.attention import AttentionConfig, FeatureMapAttention, attention_class, config_from_dict, list_attentions
from foveal.functional import external_attention
from foveal.models import FeatureMapConfig, list_feature_mixers

OLD = [
    (foveal.EfficientAttention2d, {"head_count": 2}, {"num_heads": 2}),
    (foveal.LinearAttention2d, {"head_count": 2, "key_channels": 4}, {"num_heads": 2, "key_channels": 4}),
    (foveal.ExternalAttention2d, {"norm": "slot"}, {"normalization": "slot"}),
    (foveal.HaloAttention2d, {"r_v": 2.0, "num_heads": 2}, {"value_ratio": 2.0, "num_heads": 2}),
    (foveal.HaloAttention2d, {"dim_out": 16, "num_heads": 2}, {"out_channels": 16, "num_heads": 2}),
    (foveal.ExternalAttention, {"norm": "slot", "num_heads": 2}, {"normalization": "slot", "num_heads": 2}),
]


@pytest.mark.parametrize(("cls", "old", "new"), OLD)
def test_old_arguments_warn_and_build_the_same_module(cls, old, new) -> None:
    with pytest.warns(DeprecationWarning, match=r"the old name goes with the next minor version"):
        before = cls(8, **old)
    after = cls(8, **new)
    assert repr(before) == repr(after)
    after.load_state_dict(before.state_dict())
    x = torch.randn(2, 5, 8) if cls.form == "tokens" else torch.randn(2, 8, 5, 4)
    assert torch.equal(before.eval()(x), after.eval()(x))
    with pytest.raises(ValueError, match=r"which is its old name; give \w+ alone"):
        cls(8, **old | new)


@pytest.mark.parametrize(("cls", "old", "new"), OLD)
def test_configurations_on_disk_hold_old_names_without_a_warning(cls, old, new) -> None:
    options = set(cls.Config.__dataclass_fields__)
    old, new = ({key: value for key, value in given.items() if key in options | set(cls.old_names)} for given in (old, new))
    new = {key: value for key, value in new.items() if key in options}
    old = {key: value for key, value in old.items() if cls.old_names.get(key, key) in options}
    got = AttentionConfig.from_json(json.dumps({"attention": cls.name, **old}))
    assert got == cls.Config(**new)
    assert not set(cls.old_names) & set(got.to_dict())
    if renamed := set(old) - options:
        with pytest.warns(DeprecationWarning, match="Config: "):
            assert cls.Config(**old) == got
        with pytest.warns(DeprecationWarning, match="Config: "):
            assert getattr(got, next(iter(renamed))) == next(iter(old.values()))
        with pytest.raises(ValueError, match="old name"):
            config_from_dict({"attention": cls.name, **old, **new})


def test_positions_of_arguments_count_as_given() -> None:
    with pytest.raises(ValueError, match="got num_heads and head_count"):
        foveal.EfficientAttention2d(8, 2, head_count=2)
    with pytest.raises(ValueError, match="got channels and dim"):
        foveal.HaloAttention2d(8, dim=8)


def test_old_attributes_and_functions() -> None:
    assert foveal.EfficientAttention2d(8, 2).head_count == 2
    assert foveal.HaloAttention2d(8).dim == 8
    assert foveal.ExternalAttention2d(8, normalization="token").memory.norm == "token"
    q, memory = torch.randn(1, 1, 5, 4), torch.randn(3, 4)
    with pytest.warns(DeprecationWarning, match="normalization"):
        old = external_attention(q, memory, memory, norm="slot")
    assert torch.equal(old, external_attention(q, memory, memory, normalization="slot"))
    assert not torch.equal(old, external_attention(q, memory, memory))


def test_the_old_form_is_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match="2d"):
        assert list_attentions(form="maps") == list_attentions(form="2d")


def test_old_names_of_models() -> None:
    import foveal.models

    with pytest.warns(DeprecationWarning, match="FeatureMapConfig"):
        assert foveal.models.MappedConfig is FeatureMapConfig
    with pytest.warns(DeprecationWarning, match="list_feature_mixers"):
        assert foveal.models.list_mixers is list_feature_mixers
    with pytest.raises(AttributeError, match="list_mixer"):
        _ = foveal.models.list_mixer


@pytest.mark.parametrize("name", list_attentions(form="2d"))
def test_attentions_on_feature_maps_share_one_base(name) -> None:
    cls = attention_class(name)
    assert issubclass(cls, FeatureMapAttention)
    module = cls(16)
    assert (module.channels, module.out_channels) == (16, 16)
    assert module.num_heads == (8 if name == "halo_2d" else 1)
    assert module(torch.randn(1, 16, 4, 4)).shape[1] == module.out_channels
    with pytest.raises(ValueError, match="channels"):
        cls(0)


def test_of_four_cores_one_class_and_one_argument_keep_the_word() -> None:
    import foveal.attention
    import foveal.functional.softmax as functional

    with pytest.warns(DeprecationWarning, match="register_core"):
        assert foveal.attention.core is foveal.attention.register_core
    with pytest.warns(DeprecationWarning, match="AttentionFunction"):
        assert functional.Core is functional.AttentionFunction
