"""Registration with timm: ours are there, and nothing of timm's is another than before."""

import json
import subprocess
import sys

import pytest
import timm

import foveal.timm
from foveal.timm import PUBLISHED, Published
from foveal.timm.__main__ import main
from foveal.timm._register import enter

ONLY_ADDS = """
import json, warnings
warnings.simplefilter("error")
import timm
from timm.models import _registry
def state():
    return dict(_registry._model_entrypoints), {k: set(v) for k, v in _registry._module_to_models.items()}, dict(_registry._model_pretrained_cfgs)
before = state()
import foveal.timm
after = state()
kept = all(after[0][name] is entry for name, entry in before[0].items())
modules = all(after[1][name] == models for name, models in before[1].items())
cfgs = all(after[2][name] is cfg for name, cfg in before[2].items())
print(json.dumps([kept, modules, cfgs, sorted(set(after[0]) - set(before[0]))]))
"""


def test_importing_only_adds() -> None:
    done = subprocess.run([sys.executable, "-c", ONLY_ADDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept, modules, cfgs, added = json.loads(done.stdout)
    assert (kept, modules, cfgs) == (True, True, True)
    assert added == sorted(timm.list_models("*fov_*"))
    assert all(name.startswith(("fov_", "test_fov_")) for name in added)


def test_every_published_network_is_registered_and_says_where_it_is_from() -> None:
    assert sorted(PUBLISHED) == sorted(timm.list_models("fov_*"))
    for name, published in PUBLISHED.items():
        assert "arXiv" in published.source, name
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.paper_ids, name
        assert cfg.origin_url, name
        assert not cfg.has_weights or cfg.hf_hub_id.startswith(f"timm/{name.removeprefix('fov_')}."), "we have no weights to offer, but timm's fit some"


def test_every_family_has_its_miniature() -> None:
    families = {timm.models._registry._model_to_module[name] for name in PUBLISHED}
    assert families == {timm.models._registry._model_to_module[name] for name in timm.list_models("test_fov_*")}


def test_names_off_our_prefix_are_ours_to_notice() -> None:
    with pytest.raises(AssertionError, match="must begin with fov_"):
        enter("halonet_h1", dict, module=__name__, published=Published("arXiv"))
    with pytest.raises(AssertionError, match="say what is published"):
        enter("fov_something", dict, module=__name__)


def test_the_table_of_counts(capsys) -> None:
    assert main(["fov_dna_vit_base_patch16_224"]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line.startswith("| `fov_dna_vit_base_patch16_224` | 100,741,240 | 100,741,240 | 21.07 G | +0.8 top-1 over ViT-B on ImageNet-1K | Campos et al.")
    assert main(["fov_dna_vit_bas_patch16_224"]) == 2
    said = capsys.readouterr()
    assert "did you mean fov_dna_vit_base_patch16_224" in said.err
    assert not said.out


def test_the_names_that_modules_hold_are_the_entrypoints() -> None:
    name = "fov_dna_vit_tiny_patch16_224"
    assert timm.model_entrypoint(name) is getattr(foveal.timm.dna_vit, name)
    assert name in foveal.timm.dna_vit.__all__


def test_an_option_of_the_attention_leaves_the_others_as_they_are() -> None:
    shared = timm.create_model("test_fov_dna_shared_vit", options={"lambda_init": 0.25})
    assert shared.blocks[0].attn.shared_values
    assert shared.blocks[0].attn.lambdas.tolist() == [0.25] * 3
    apart = timm.create_model("test_fov_dna_shared_vit", options={"shared_values": False})
    assert not apart.blocks[0].attn.shared_values
    mlp = timm.create_model("test_fov_eamlp", options={"slots": 8})
    assert (mlp.blocks[0].attn.memory.memory_k.shape[0], mlp.blocks[0].attn.num_heads) == (8, 8)
    # options of one attention are none of another's
    other = timm.create_model("test_fov_eamlp", attention="softmax", token_attention="denoising", token_options={"shared_values": True})
    assert other.blocks[0].attn.name == "softmax"
    assert other.patch_embed.attention1.attn.shared_values
