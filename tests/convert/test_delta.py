"""A delta on its base gives the model back; on anything else it is refused and nothing happens."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from foveal import CrossSampleAttention, DenoisingAttention, ExternalAttention, InputError, convert_, load_delta, revert_, save_delta
from foveal.convert._digest import digests, fingerprint
from tests.convert.test_hosts import SIDE, run, stirred, timm_vit, torchvision_vit, transformers_tower

IMAGES = torch.randn(2, 3, SIDE, SIDE)


def base(make=timm_vit) -> nn.Module:
    torch.manual_seed(0)
    return stirred(make())


def train(model: nn.Module, *parts: str) -> None:
    """Some steps on the parameters whose names contain one of these."""
    chosen = [p for name, p in model.named_parameters() if any(part in name for part in parts)]
    optimizer = torch.optim.SGD(chosen, lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        run(model, IMAGES).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, lambda: transformers_tower("ViT")], ids=["timm", "torchvision", "transformers"])
@pytest.mark.parametrize("config", [DenoisingAttention.Config(), ExternalAttention.Config(), CrossSampleAttention.Config(dictionary_size=3)])
def test_a_delta_on_its_base_is_the_model(make, config, tmp_path) -> None:
    model = base(make)
    convert_(model, config)
    train(model, "q_neg", "memory", "fuse", "lambdas")
    names = save_delta(model, tmp_path / "delta.safetensors")
    other = base(make)
    report = load_delta(other, tmp_path / "delta.safetensors")
    assert {swap.to["attention"] for swap in report.swaps} == {config.attention}
    assert torch.equal(run(other, IMAGES), run(model, IMAGES))
    kept = [name for name in model.state_dict() if "mlp" in name or "norm" in name or name.endswith("proj.weight")]
    assert kept
    assert not set(names) & set(kept), "what the base has is not written again"


def test_different_places_and_several_conversions(tmp_path) -> None:
    model = base()
    convert_(model, {"blocks.0.attn": DenoisingAttention.Config(), "blocks.1.attn": ExternalAttention.Config(slots=3)}, warm_start="exact")
    convert_(model, DenoisingAttention.Config(shared_values=True), where="blocks.2.attn", warm_start=0.1)
    train(model, "blocks.1.mlp", "blocks.2.attn")
    names = save_delta(model, tmp_path / "delta.safetensors")
    assert {name for name in names if "mlp" in name} == {f"blocks.1.mlp.{layer}.{field}" for layer in ("fc1", "fc2") for field in ("weight", "bias")}
    other = base()
    load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(run(other, IMAGES), run(model, IMAGES))
    assert [type(block.attn).__name__ for block in other.blocks] == ["DenoisingAttention", "ExternalAttention", "DenoisingAttention"]
    again = save_delta(other, tmp_path / "again.safetensors")
    assert set(again) == set(names), "a model that was loaded can be saved"


def test_an_untouched_exact_warm_start_is_next_to_nothing(tmp_path) -> None:
    model = base()
    convert_(model, DenoisingAttention.Config(), warm_start="exact")
    assert save_delta(model, tmp_path / "delta.safetensors") == [f"blocks.{n}.attn.lambdas" for n in range(3)]


def test_another_base_is_refused_and_left_alone(tmp_path) -> None:
    model = base()
    convert_(model, DenoisingAttention.Config())
    save_delta(model, tmp_path / "delta.safetensors")
    other = base()
    with torch.no_grad():
        other.blocks[1].mlp.fc1.weight[3, 4] += 1e-6
    state, classes = copy.deepcopy(other.state_dict()), [type(module) for module in other.modules()]
    with pytest.raises(ValueError, match="belongs to another base"):
        load_delta(other, tmp_path / "delta.safetensors")
    assert [type(module) for module in other.modules()] == classes
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), state.values(), strict=True))


def test_files_that_are_no_delta_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file"):
        load_delta(base(), tmp_path / "missing.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(ValueError, match="damaged"):
        load_delta(base(), tmp_path / "damaged.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no delta of a conversion"):
        load_delta(base(), tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"config"', '"cnnfig"', 1),
        lambda text: text.replace('"names"', '"namet"', 1),
        lambda text: text.replace('"warm_start"', '"warm_ttart"', 1),
        lambda text: text[:-3],
        lambda text: "[" * 100_000,
        lambda text: "9" * 6000,
        lambda text: "{}",
        lambda text: "[3]",
        lambda text: '[{"names": [], "config": {}, "warm_start": null}]',
        lambda text: '[{"after": 3, "config": {}, "channels": 1, "start": 0}]',
        None,
    ],
)
def test_a_conversion_that_cannot_be_read_names_the_file_and_leaves_the_model(tmp_path, change) -> None:
    """As one flipped bit of the text makes it, which no hash covers."""
    model = base()
    convert_(model, DenoisingAttention.Config())
    path = tmp_path / "delta.safetensors"
    save_delta(model, path)
    with safe_open(str(path), "pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    steps = metadata.pop("steps")
    save_file(tensors, path, metadata=metadata if change is None else metadata | {"steps": change(steps)})
    fresh = base()
    before, classes = fingerprint(digests(fresh.state_dict())), [type(module) for module in fresh.modules()]
    with pytest.raises(InputError, match=r"delta\.safetensors"):
        load_delta(fresh, path)
    assert fingerprint(digests(fresh.state_dict())) == before
    assert [type(module) for module in fresh.modules()] == classes


def test_a_model_that_was_not_converted_has_no_delta(tmp_path) -> None:
    model = base()
    with pytest.raises(ValueError, match="not converted"):
        save_delta(model, tmp_path / "delta.safetensors")
    convert_(model, DenoisingAttention.Config())
    revert_(model)
    with pytest.raises(ValueError, match="not converted"):
        save_delta(model, tmp_path / "delta.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_file_holds_the_configuration_and_no_code(tmp_path) -> None:
    model = base()
    convert_(model, DenoisingAttention.Config(lambda_init=0.3))
    save_delta(model, tmp_path / "delta.safetensors")
    with safe_open(tmp_path / "delta.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["base"] == fingerprint(digests(base().state_dict()))
    assert '"lambda_init": 0.3' in metadata["steps"]


def test_digests_see_every_bit() -> None:
    value = torch.randn(3, 5)
    seen = {tuple(digests({"x": value}).values())}
    changed = value.clone()
    changed[2, 1] = torch.nextafter(changed[2, 1], torch.tensor(9.0))
    for other in (changed, value.T.contiguous(), value.flatten(), value.double(), -value, value.flip(0), torch.cat([value, value[:1]])):
        seen.add(tuple(digests({"x": other}).values()))
    assert len(seen) == 8
    assert digests({"x": value.clone()}) == digests({"x": value})
    large = torch.zeros(2**22 + 3)
    moved = large.clone()
    moved[-1] = 1
    assert digests({"x": large}) != digests({"x": moved}), "the second piece counts"
    for dtype in (torch.bool, torch.bfloat16, torch.int64):
        assert digests({"x": torch.ones(4, dtype=dtype)}) != digests({"x": torch.zeros(4, dtype=dtype)})
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": 2, "b": 1})
