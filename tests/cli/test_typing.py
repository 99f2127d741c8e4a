"""Users with a type checker get types: what is built by name gives a tensor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import foveal
import torch
from foveal.attention import AttentionModule
from torch import Tensor, nn
from typing_extensions import assert_type


class Block(nn.Module):
    def __init__(self, name: str, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn: AttentionModule = foveal.create_attention(name, dim=dim, num_heads=2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm(x))


x = torch.randn(1, 5, 16)
attn = foveal.create_attention("denoising", dim=16, num_heads=2)
assert_type(attn(x), Tensor)
assert_type(attn.attention_map(x), dict[str, Tensor])
macs: int = attn.cost(5).macs
assert_type(foveal.DenoisingAttention(dim=16, num_heads=2)(x), Tensor)
assert_type(foveal.ExternalAttention2d(16)(torch.randn(1, 16, 4, 4)), Tensor)
assert_type(foveal.HaloAttention2d(16, block_size=2, halo_size=1)(torch.randn(1, 16, 4, 4)), Tensor)
config = foveal.SoftmaxAttention.Config()
assert_type(config.build(16, num_heads=2)(x), Tensor)
model = nn.Sequential(Block("softmax", 16), Block("external", 16))
report = foveal.convert_(nn.TransformerEncoderLayer(16, 2, 8, batch_first=True), config)
name: str = report.swaps[0].name
maps: dict[str, dict[str, Tensor]] = foveal.attention_maps(nn.Sequential(attn), x)
print(name, len(maps), macs, foveal.list_attentions()[0], model(x).shape)
"""


WORK = (Path(__file__).parent / "user_script.py").read_text("utf8")
"""Options, conversion, the way back, maps and training: forty lines."""


@pytest.mark.case("N5")
@pytest.mark.slow
@pytest.mark.parametrize("script", [SCRIPT, WORK], ids=["layers", "work"])
def test_a_script_of_a_user_is_strict(script, tmp_path) -> None:
    (tmp_path / "user.py").write_text(script)
    # as where it is installed: its own sources are not theirs to check
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-foveal.*]\nfollow_imports = silent\n[mypy-timm.*,torchvision.*]\nfollow_imports = silent\n"
    )
    env = os.environ | {"MYPYPATH": str(Path(__file__).parents[2] / "src"), "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    checked = subprocess.run([sys.executable, "-m", "mypy", "user.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    # and what the types say is so
    ran = subprocess.run([sys.executable, "user.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.case("N5")
@pytest.mark.parametrize(
    "wrong", ["y: int = attn(x)", "attn.attention_map(x).shape", "foveal.create_atention('softmax')", "foveal.DenoisingAttention.Config(shared=True)"]
)
@pytest.mark.slow
def test_a_mistake_would_be_seen(wrong, tmp_path) -> None:
    (tmp_path / "user.py").write_text(SCRIPT + wrong + "\n")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-foveal.*]\nfollow_imports = silent\n[mypy-timm.*,torchvision.*]\nfollow_imports = silent\n"
    )
    env = os.environ | {"MYPYPATH": str(Path(__file__).parents[2] / "src")}
    checked = subprocess.run([sys.executable, "-m", "mypy", "user.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert len([line for line in checked.stdout.splitlines() if "error:" in line]) == 1
