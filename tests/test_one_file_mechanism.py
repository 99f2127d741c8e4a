"""One file outside the package, one decorator: that attention is converted to, looked at, compared, saved, exported and named on the command line.

The file, and the tests that it inherits, are those of the page "Write your own attention".
"""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import foveal
from foveal import InputError, _extensions
from foveal._extensions import import_extension
from foveal.attention import _core, _registry
from foveal.attention._registry import attention_class, config_from_dict, derive_config
from foveal.cli import main
from foveal.lab.compare import make_plan, run_plan, write_results
from foveal.lab.training import Optim, fit, load_run, read_json, write_json
from foveal.models import ViT
from tests.training.helpers import tiny

ROOT = Path(__file__).parent.parent
OWN, OWN_TESTS, PIXELS = ROOT / "docs/own/cosine_attention.py", ROOT / "docs/own/test_cosine_attention.py", ROOT / "tests/own/pixel_mean.py"


def _read() -> tuple[dict[str, Any], dict[str, Any], type]:
    """What the files register, and the page's tests; other tests are not to see them."""
    registry, cores, environment = dict(_registry._REGISTRY), dict(_core.CORES), os.environ.get(_extensions.VARIABLE)
    try:
        for path in (OWN, PIXELS, OWN_TESTS):
            import_extension(str(path))
        made = {name: cls for name, cls in _registry._REGISTRY.items() if name not in registry}
        made_cores = {name: cls for name, cls in _core.CORES.items() if name not in cores}
        return made, made_cores, sys.modules["test_cosine_attention"].TestCosineAttention
    finally:
        for known, before in ((_registry._REGISTRY, registry), (_core.CORES, cores)):
            for name in known.keys() - before.keys():
                known.remove(name)
        os.environ.pop(_extensions.VARIABLE, None)
        if environment is not None:
            os.environ[_extensions.VARIABLE] = environment


NEW, NEW_CORES, _Contract = _read()


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in NEW.items():
        monkeypatch.setitem(_registry._REGISTRY._entries, name, cls)
    for name, cls in NEW_CORES.items():
        monkeypatch.setitem(_core.CORES._entries, name, cls)
    monkeypatch.setenv(_extensions.VARIABLE, str(OWN))


class TestThePagesContract(_Contract):
    """Of the page, as it stands there."""


@pytest.fixture
def vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("test_vit", img_size=32, num_classes=5).eval()


def test_conversion_maps_and_back(vit) -> None:
    x = torch.randn(2, 3, 32, 32)
    host = vit.blocks[0].attn
    qkv, proj, before = host.qkv, host.proj, vit(x)
    report = foveal.convert_(vit, NEW["cosine"].Config(temperature=0.2))
    ours = vit.blocks[0].attn
    assert type(ours) is NEW["cosine"]
    assert (ours.qkv, ours.proj) == (qkv, proj)
    assert report.swaps[0].new == ["core.log_scale"]
    assert ours.core.log_scale.item() == pytest.approx(torch.tensor(5.0).log().item())
    assert (vit(x) - before).abs().max() > 1e-4
    maps = next(iter(foveal.attention_maps(vit, x).values()))["combined"]
    torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))
    torch.testing.assert_close(maps, ours.attention_map(vit.blocks[0].norm1(vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))))["combined"])
    with pytest.raises(InputError, match=r"warm_start=0\.5 has no effect for cosine attention"):
        foveal.convert_(vit, NEW["cosine"].Config(), warm_start=0.5)
    foveal.revert_(vit)
    torch.testing.assert_close(vit(x), before)


def test_its_core_serves_denoising_attention() -> None:
    attention, x = foveal.create_attention("denoising", 24, 4, core="cosine", core_options={"temperature": 0.5}), torch.randn(1, 5, 24)
    assert attention(x).shape == x.shape


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_insertion_of_one_on_maps(start) -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 4, 1)).double().eval()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    stage, before = net[0](x), net(x)
    report = foveal.insert_(net, NEW["pixel_mean_2d"].Config(bias=False), after="0", start=start)
    block = net[0].foveal_attention
    if start == "identity":
        assert report.swaps[0].output == "identical"
        assert torch.equal(net(x), before)
        block.gamma.data.fill_(1.0)
        assert "gamma" in block.no_weight_decay()
    mixed = block.attn if start == "identity" else block
    want = net[1](torch.einsum("oc,bchw->bo", mixed.conv.weight[..., 0, 0], stage)[..., None, None].expand_as(stage) / 49)
    torch.testing.assert_close(net(x), want)
    foveal.revert_(net)
    torch.testing.assert_close(net(x), before)


def test_saved_and_exported(vit, tmp_path, monkeypatch) -> None:
    pytest.importorskip("safetensors")
    x = torch.randn(2, 3, 32, 32)
    foveal.convert_(vit, NEW["cosine"].Config(temperature=0.2))
    foveal.save_pretrained(vit, tmp_path / "saved")
    assert torch.equal(foveal.from_pretrained(tmp_path / "saved").eval()(x), vit(x))
    # it compares what it wrote with the model
    assert foveal.export_model(vit, tmp_path / "vit.pt2", x).error < 1e-4
    monkeypatch.delitem(_registry._REGISTRY._entries, "cosine")
    with pytest.raises(InputError, match=r"unknown attention 'cosine'.*import"):
        foveal.from_pretrained(tmp_path / "saved")


def test_a_recipe_trains_it(tmp_path) -> None:
    recipe = tiny(model=ViT(attention="cosine"), steps=1, eval_every=1, checkpoint_every=1)
    assert fit(recipe, tmp_path, quiet=True)["loss"] > 0
    model = load_run(tmp_path)[2]
    assert {type(block.attn) for block in model.blocks} == {NEW["cosine"]}


@pytest.mark.slow
def test_a_comparison(tmp_path) -> None:
    plan = make_plan(tiny(model=ViT(), optim=Optim(lr=2e-2), steps=2, eval_every=2, checkpoint_every=2), ("cosine",), seeds=1)
    for name in ("softmax", "cosine"):
        # measuring memory costs a process each
        write_json(tmp_path / name / "memory.json", {"bytes": 1})
    # by processes of its own, which know the name from the environment alone
    run_plan(plan, tmp_path, jobs=1, quiet=True)
    write_results(tmp_path)
    assert [arm["name"] for arm in read_json(tmp_path / "results.json")["arms"]] == ["softmax", "cosine"]


def test_the_command_line_knows_it(capsys) -> None:
    environment = {name: value for name, value in os.environ.items() if name != _extensions.VARIABLE} | {"COLUMNS": "200"}
    words = [sys.executable, "-m", "foveal.cli", "list", "--import", str(OWN)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cosine" in done.stdout
    assert main(["list", f"--import={OWN}"]) == 0
    assert "cosine" in capsys.readouterr().out
    assert main(["--import", str(OWN), "list"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["list", "--import", "no_such_module_anywhere"], "no_such_module_anywhere cannot be imported: ModuleNotFoundError"),
        (["list", "--import", "nowhere/mine.py"], "there is no such file"),
        (["list", "--import"], "--import needs a module"),
        (["--import", str(OWN)], "without a command"),
    ],
)
def test_what_cannot_be_imported_is_one_line(words, says, capsys) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_file_that_fails_is_one_line_and_leaves_nothing(tmp_path, capsys) -> None:
    (tmp_path / "half_made.py").write_text("x = 1 / 0\n", encoding="utf8")
    assert main(["list", "--import", str(tmp_path / "half_made.py")]) == 2
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert "half_made" not in sys.modules
    (tmp_path / "json.py").write_text("", encoding="utf8")
    with pytest.raises(InputError, match="another module is called json"):
        import_extension(str(tmp_path / "json.py"))


def test_entry_points_are_loaded_when_a_name_is_looked_up_and_a_broken_one_is_told(monkeypatch) -> None:
    loaded = []

    def broken() -> None:
        raise RuntimeError("no luck")

    points = [
        SimpleNamespace(value="bad.module", dist=SimpleNamespace(name="bad-package"), load=broken),
        SimpleNamespace(value="good.module", dist=None, load=lambda: loaded.append("good")),
    ]
    monkeypatch.setattr(_extensions, "entry_points", lambda *, group: points if group == "foveal.attentions" else [])
    monkeypatch.setattr(_extensions, "_loaded", False)
    assert attention_class("softmax").name == "softmax"
    assert loaded == []
    with pytest.warns(UserWarning, match="package bad-package are left out: bad.module cannot be imported: RuntimeError: no luck"):
        foveal.list_attentions()
    foveal.list_attentions()
    assert loaded == ["good"]


def test_config_is_the_keyword_only_half_of_the_constructor() -> None:
    config = NEW["cosine"].Config(temperature=0.2)
    assert config.to_dict() == {"attention": "cosine", "attn_head_dim": None, "temperature": 0.2}
    assert config_from_dict(config.to_dict()) == pickle.loads(pickle.dumps(config)) == config == replace(NEW["cosine"].Config(), temperature=0.2)
    with pytest.raises(InputError, match="temperature of cosine must be float, got 'hot'"):
        config_from_dict({"attention": "cosine", "temperature": "hot"})


@pytest.mark.parametrize("name", [name for name in foveal.list_attentions(form="tokens") if attention_class(name).__module__.startswith("foveal.")])
def test_nested_configs_are_what_would_be_derived(name) -> None:
    """They are written out for type checkers, and cannot drift from the constructors."""
    cls = attention_class(name)
    derived, nested = ({key: (item.default, item.type) for key, item in one.__dataclass_fields__.items()} for one in (derive_config(cls), cls.Config))
    if name == "denoising":
        # a function is a core, and no JSON
        derived["core"] = ("softmax", str)
    assert derived == nested


def test_options_that_cannot_be_read_are_refused() -> None:
    class NoDefault(nn.Module):
        def __init__(self, dim: int, *, wanted: int) -> None: ...

    with pytest.raises(InputError, match=r"option wanted of .* has no default"):
        derive_config(NoDefault)
