"""Every module is asked what should not decay, wherever it stands."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import foveal
from foveal.lab.training import Optim, Recipe
from foveal.lab.training.checkpoint import fingerprint
from foveal.lab.training.optimizing import make_optimizer, make_schedule
from foveal.models import SmallFCN, ViT
from foveal.timm import TimmModel
from tests.training.helpers import tiny

pytestmark = pytest.mark.case("R6")


def decays(model: nn.Module, **options) -> dict[str, float]:
    """The decay of every trainable parameter by name; each must be in one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], group["weight_decay"]) for group in foveal.param_groups(model, **options) for p in group["params"]]
    assert len(found) == len({name for name, _ in found}), "a parameter is there twice"
    assert {name for name, _ in found} == {name for name, p in model.named_parameters() if p.requires_grad}
    return dict(found)


OWN = {
    "external": {"memory.memory_k", "memory.memory_v"},
    "halo": {"core.pos_embed.height_rel", "core.pos_embed.width_rel"},
    "cross_sample": {"dictionary.entries"},
    "denoising": {"lambdas"},
    "differential": {"lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"},
    "softmax": set(),
}
"""What attentions hold besides linear maps, by hand."""


def expected(model: nn.Module, own: set[str], host: set[str] = frozenset()) -> set[str]:
    """What should decay: weights of linear maps and convolutions, and what is neither theirs, a norm's, nor told apart by hand."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))}
    rest = {name for name, _ in model.named_parameters() if not any(name == part or name.endswith(f".{part}") for part in own)} - linear
    return linear | {name for name in rest - host if dict(model.named_parameters())[name].ndim > 1}


@pytest.mark.parametrize("attention", OWN)
def test_every_host_treats_an_attention_alike(attention) -> None:
    hosts = [
        TimmModel(name="test_vit", attention=attention).build(img_size=160, in_chans=3, num_classes=5),
        ViT(attention=attention).build(img_size=32, in_chans=3, num_classes=4),
    ]
    for model in hosts:
        free = {name for name, decay in decays(model).items() if decay == 0}
        layers = [name for name, module in model.named_modules() if name.endswith(".attn")]
        assert layers
        for layer in layers:
            assert {f"{layer}.{name}" for name in OWN[attention]} <= free
            assert f"{layer}.proj.weight" not in free
        assert {"pos_embed", "cls_token"} <= free
        assert {name for name, decay in decays(model).items() if decay} == expected(model, OWN[attention], {"pos_embed", "cls_token"})


def test_the_outermost_model_need_not_know() -> None:
    """A network of maps, a torchvision and a transformers host after conversion, an inserted block, wrappers."""
    net = SmallFCN(attention="external_2d").build(img_size=16, in_chans=1, num_classes=2)
    assert not hasattr(net, "no_weight_decay")
    assert {name.rpartition(".")[2] for name, decay in decays(net).items() if decay == 0} >= {"memory_k", "memory_v"}

    torchvision = pytest.importorskip("torchvision")
    vit = torchvision.models.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=3)
    foveal.convert_(vit, foveal.ExternalAttention.Config(slots=4))
    wrapped = nn.Sequential(torch.compile(vit, backend="eager"))
    for model in (vit, wrapped):
        free = {name for name, decay in decays(model).items() if decay == 0}
        assert sum(name.endswith(("memory_k", "memory_v")) for name in free) == 4

    resnet = torchvision.models.resnet18(num_classes=3)
    foveal.insert_(resnet, foveal.ExternalAttention2d.Config(slots=4), after="layer4")
    free = {name for name, decay in decays(resnet).items() if decay == 0}
    assert sum(name.endswith(("memory_k", "memory_v")) for name in free) >= 2


def test_a_transformers_host() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    model = transformers.ViTModel(config)
    foveal.convert_(model, foveal.HaloAttention.Config(block_size=2, halo_size=1))
    free = {name for name, decay in decays(model).items() if decay == 0}
    assert sum(name.endswith(("height_rel", "width_rel")) for name in free) == 4
    assert not any(name.endswith("dense.weight") for name in free)


def test_tied_frozen_and_parametrized_parameters() -> None:
    first, second = (foveal.ExternalAttention(16, 2, slots=4) for _ in range(2))
    # a plain module that knows nothing lists the shared memory first
    plain = nn.Module()
    plain.weight = first.memory.memory_k
    model = nn.ModuleDict({"a": plain, "b": first, "c": second})
    second.memory.memory_v.requires_grad_(False)
    nn.utils.parametrizations.weight_norm(second.memory, "memory_k")
    got = decays(model)
    assert got["a.weight"] == 0
    assert "b.memory.memory_k" not in got
    assert "c.memory.memory_v" not in got
    assert got["c.memory.parametrizations.memory_k.original1"] == 0
    assert got["c.proj.weight"] == 0.05
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        foveal.param_groups(model)


def _pruned(attention: nn.Module) -> None:
    nn.utils.prune.random_unstructured(attention.memory, "memory_k", 0.5)


def _weight_normed(attention: nn.Module) -> None:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(attention.memory, "memory_k")


def _compiled(attention: nn.Module) -> None:
    attention.memory = torch.compile(attention.memory, backend="eager")


def _checkpointed(attention: nn.Module) -> None:
    attention.memory = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper").checkpoint_wrapper(attention.memory)


def _trained_beside_adapters(attention: nn.Module) -> None:
    peft = pytest.importorskip("peft")
    peft.get_peft_model(attention, peft.LoraConfig(r=2, target_modules=["qkv", "q", "proj"], modules_to_save=["memory"]))


@pytest.mark.parametrize("change", [_pruned, _weight_normed, _compiled, _checkpointed, _trained_beside_adapters])
def test_names_that_others_change_mean_the_same(change) -> None:
    attention = foveal.ExternalAttention(16, 2, slots=4)
    change(attention)
    found = decays(attention)
    memories = [name for name in found if "memory_" in name]
    assert len(memories) >= 2
    assert all(found[name] == 0 for name in memories)
    assert any(found.values()), "something decays"


def test_norms_and_sets_instead_of_functions() -> None:
    class Told(nn.Module):
        no_weight_decay = ["special.*"]

        def __init__(self) -> None:
            super().__init__()
            self.special, self.norm, self.linear = nn.Linear(2, 2), nn.LayerNorm((2, 2)), nn.Linear(2, 2)

    assert {name for name, decay in decays(Told(), weight_decay=0.1).items() if decay} == {"linear.weight"}
    assert set(decays(Told(), weight_decay=0.0).values()) == {0.0}


def test_rates() -> None:
    model = nn.Sequential(foveal.ExternalAttention(16, 2, slots=4), nn.Linear(16, 2))
    groups = foveal.param_groups(model, 1e-4, 0.05, new=["*.memory_?"], new_lr=1e-2)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert {name for name, rate in rates.items() if rate == 1e-2} == {"0.memory.memory_k", "0.memory.memory_v"}
    assert set(rates.values()) == {1e-4, 1e-2}
    torch.optim.AdamW(groups)
    for bad, says in [({"new": ["x"]}, "both or neither"), ({"new_lr": 1.0}, "both or neither"), ({"new": ["x"], "new_lr": 1.0}, "'x'")]:
        with pytest.raises(ValueError, match=says):
            foveal.param_groups(model, **bad)
    with pytest.raises(ValueError, match="weight_decay"):
        foveal.param_groups(model, weight_decay=-1.0)


def test_where_the_model_knew_all_the_groups_are_timms() -> None:
    """Runs on disk go on: same groups, same order."""
    create = pytest.importorskip("timm.optim").create_optimizer_v2
    model = ViT(attention="external").build(img_size=32, in_chans=3, num_classes=4)
    ours = make_optimizer(model, tiny(optim=Optim(lr=2e-3, weight_decay=0.07)))
    theirs = create(model, "adamw", lr=2e-3, weight_decay=0.07, betas=(0.9, 0.999))
    assert ours.state_dict() == theirs.state_dict()
    for one, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert all(a is b for a, b in zip(one["params"], other["params"], strict=True))


def test_training_asks_every_module() -> None:
    model = TimmModel(name="test_vit", attention="external").build(img_size=160, in_chans=3, num_classes=5)
    optimizer = make_optimizer(model, tiny(optim=Optim(weight_decay=0.07)))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert not any(id(p) in decayed for name, p in model.named_parameters() if "memory" in name)
    assert any(id(p) in decayed for p in model.parameters())


# -- rates by name ------------------------------------------------------------------------------------------------------------------------------------


def rates_of(model: nn.Module, **optim: object) -> dict[str, float]:
    recipe = replace(tiny(), optim=Optim(lr=1e-3, **optim))
    names, found = {id(value): name for name, value in model.named_parameters()}, {}
    for group in make_optimizer(model, recipe).param_groups:
        for value in group["params"]:
            assert names[id(value)] not in found, "a parameter is in two groups"
            found[names[id(value)]] = group.get("lr_scale", 1.0) * 1e-3
    assert set(found) == {name for name, value in model.named_parameters() if value.requires_grad}
    return found


@pytest.mark.parametrize("decay_all", [False, True])
def test_the_first_pattern_that_fits_gives_the_rate(decay_all) -> None:
    model = ViT().build(img_size=16, in_chans=1, num_classes=3)
    model.blocks[0].requires_grad_(False)
    found = rates_of(model, lr_of={"head.*": 5e-3, "blocks.*.attn.*": 2e-6, "blocks.*": 1e-4}, decay_all=decay_all)
    for name, rate in found.items():
        want = 5e-3 if name.startswith("head.") else 2e-6 if ".attn." in name else 1e-4 if name.startswith("blocks.") else 1e-3
        assert rate == pytest.approx(want), name
    assert rates_of(model, lr_of={}) == dict.fromkeys(found, 1e-3)


def test_rates_by_name_are_those_of_the_steps() -> None:
    """One step of SGD without momentum: each parameter moves by its own rate times its gradient, whatever the schedule says of all."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    recipe = replace(tiny(), optim=Optim(lr=1e-2, optimizer="sgd", momentum=0.0, weight_decay=0.0, warmup=0.0, lr_of={"0.*": 1e-3, "*.bias": 1.0}))
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe)
    schedule.step_update(0)
    model(torch.ones(1, 2)).sum().backward()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer.step()
    for name, value in model.named_parameters():
        rate = 1e-3 if name.startswith("0.") else 1.0 if name.endswith("bias") else 1e-2
        torch.testing.assert_close(value.detach(), before[name] - rate * value.grad)
        assert not torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        ({"haed.*": 1e-3}, "'haed.*', and no parameter that is trained is named so; names are as"),
        ({"head.*": 1e-3, "head.weight": 1e-4}, "'head.weight', and an earlier pattern fits all"),
        ({"head.*": 0.0}, "each of lr_of of Optim must be above 0"),
        ({"head.*": float("nan")}, "lr_of"),
    ],
)
def test_rates_that_reach_nothing_are_refused(rates, says) -> None:
    with pytest.raises(ValueError, match=says):
        rates_of(ViT().build(img_size=16, in_chans=1, num_classes=3), lr_of=rates)


def test_a_recipe_of_before_rates_had_names_is_the_same_run() -> None:
    recipe = tiny()
    old = recipe.to_dict()
    old["optim"].pop("lr_of")
    assert fingerprint(old) == fingerprint(recipe.to_dict())
    named = replace(recipe, optim=Optim(lr_of={"z*": 1.0, "a*": 2.0}))
    assert list(Recipe.from_dict(json.loads(json.dumps(named.to_dict()))).optim.lr_of) == ["z*", "a*"], "the first that fits counts"
    assert fingerprint(named.to_dict()) != fingerprint(recipe.to_dict())
