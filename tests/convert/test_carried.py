"""Whatever hangs on a host's layers goes on after conversion and comes back with the host, or the conversion is refused and nothing has changed.

The oracle is the host itself: its output, its hooks' calls and its gradients before the conversion.
"""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention, convert_, revert_
from foveal.convert import find_host
from tests.convert.layers import HOOKS, MAIN, MAKE, THINGS, Seen, exchange, hook
from tests.convert.test_hosts import run, stirred

SOFTMAX = SoftmaxAttention.Config()
CALLS_ITS_LAYERS = ("timm ViT", "timm EVA02", "timm Swin", "transformers ViT", "transformers CLIP", "transformers VideoMAE", "transformers TimeSformer")


def built(name: str) -> tuple[nn.Module, str, torch.Tensor]:
    """A model, the name of its second attention, and images."""
    torch.manual_seed(0)
    make, shape = MAKE[name]
    model = stirred(make())
    attentions = [name for name, module in model.named_modules() if find_host(module) is not None]
    return model, attentions[-1], torch.randn(shape)


def linear_maps(module: nn.Module) -> list[str]:
    """Queries, keys, values and the way back, as the host has them; no network of positions, no mixing of heads."""
    return [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and not any(word in name for word in ("mlp", "proj_l", "proj_w"))]


def everything(model: nn.Module) -> list[Any]:
    """All that a refusal has to leave as it was."""
    hooks = [key for key in vars(nn.Module()) if key.endswith("hooks")]
    modules = [
        (name, id(module), type(module), module.training, *(list(getattr(module, key).values()) for key in hooks)) for name, module in model.named_modules()
    ]
    tensors = [(name, id(value), value.requires_grad, value.detach().clone()) for name, value in (*model.named_parameters(), *model.named_buffers())]
    return [modules, [part[:3] for part in tensors], [part[3] for part in tensors], [sorted(vars(module)) for module in model.modules()]]


def assert_same(before: list[Any], after: list[Any]) -> None:
    assert before[:2] == after[:2]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    assert before[3] == after[3]


def refused(model: nn.Module, where: str = "*") -> str:
    """What a conversion says that is refused, and then nothing has changed; empty where it is done."""
    before = everything(model)
    try:
        convert_(model, SOFTMAX, where)
    except InputError as error:
        assert_same(before, everything(model))
        return str(error)
    return ""


def parts(model: nn.Module) -> list[nn.Module]:
    return [
        part for part in model.modules() if parametrize.is_parametrized(part) or "peft" in type(part).__module__ or type(part).__name__ in ("Doubled", "Around")
    ]


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
@pytest.mark.case("C1", "C10")
@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("host", MAIN)
def test_what_hangs_on_a_linear_map_goes_on_or_is_refused(host, thing) -> None:
    model, name, images = built(host)
    for child in linear_maps(model.get_submodule(name)):
        model, name, images = built(host)
        THINGS[thing](model.get_submodule(name), child)
        model.eval()
        before, own = everything(model), [id(part) for part in parts(model)]
        # two passes: spectral norm moves in each that is in training mode, and none is
        want = run(model, images)
        before = everything(model)
        if says := refused(model, name):
            assert host not in CALLS_ITS_LAYERS, "what the host calls can be called in its new place"
            assert f"{name}." in says or f"{name} " in says, "the layer is named"
            continue
        torch.testing.assert_close(run(model, images), want, rtol=1e-5, atol=1e-5)
        assert [id(part) for part in parts(model)] == own
        revert_(model)
        after = everything(model)
        assert before[1] == after[1], "the same parameters, frozen or not"
        assert torch.equal(run(model, images), want)


@pytest.mark.case("C10")
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("host", MAKE)
def test_a_hook_on_any_part_goes_on_or_is_refused(host, kind) -> None:
    model, name, images = built(host)
    # the networks of positions of Swin V2 write in place, which hooks on the way back cannot have in the host itself
    children = [child for child, _ in model.get_submodule(name).named_modules() if child and not ("cpb_mlp" in child and "backward" in kind)]
    for child in children:
        model, name, images = built(host)
        seen = Seen()
        hook(kind)(model.get_submodule(name), child, seen)

        def used(model: nn.Module = model, images: torch.Tensor = images, seen: Seen = seen) -> tuple[torch.Tensor, int]:
            seen.calls.clear()
            out = run(model, images)
            out.square().sum().backward()
            model.load_state_dict(model.state_dict())
            return out.detach(), len(seen.calls)

        want, calls = used()
        if says := refused(model, name):
            assert f"{name}.{child}" in says
            continue
        out, now = used()
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
        assert now == calls, child
        revert_(model)
        out, now = used()
        assert torch.equal(out, want)
        assert now == calls
        assert seen.remove is not None
        seen.remove()
        assert used()[1] == 0


@pytest.mark.case("C10")
@pytest.mark.parametrize("host", ["timm ViT", "transformers ViT"])
def test_a_pruned_weight_stays_pruned_in_training(host) -> None:
    model, name, images = built(host)
    child = linear_maps(model.get_submodule(name))[0]
    THINGS["pruning"](model.get_submodule(name), child)
    layer: Any = model.get_submodule(f"{name}.{child}")
    convert_(model, DenoisingAttention.Config())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run(model, images).square().sum().backward()
    optimizer.step()
    run(model, images)
    assert layer.weight_orig.grad is not None
    assert (layer.weight == 0).float().mean() > 0.65


@pytest.mark.case("C11")
@pytest.mark.parametrize("host", MAKE)
def test_frozen_parameters_stay_frozen_one_by_one(host) -> None:
    """Each parameter of the attention alone is trained, then each alone is frozen: so it is after conversion and back, or that is refused."""
    model, name, _ = built(host)
    for lone in [key for key, _ in model.get_submodule(name).named_parameters()]:
        for trained in (True, False):
            model, name, images = built(host)
            model.requires_grad_(not trained)
            model.get_submodule(name).get_parameter(lone).requires_grad_(trained)
            before = everything(model)
            want = run(model, images)
            model_before = copy.deepcopy(model)
            if says := refused(model):
                assert f"{name}." in says
                continue
            report = convert_(model_before, SOFTMAX)
            odd = [key for key, value in model.named_parameters() if value.requires_grad == trained]
            lost = any(lone in swap.dropped for swap in report.swaps)
            assert len(odd) == (0 if lost else 1), (lone, odd)
            revert_(model)
            assert_same(before[:2] + before[2:], everything(model))
            assert torch.equal(run(model, images), want)


@pytest.mark.case("C11")
def test_a_frozen_weight_beside_a_trained_bias() -> None:
    for host in ("timm ViT", "transformers ViT", "torchvision ViT"):
        model, name, images = built(host)
        for key, value in model.named_parameters():
            value.requires_grad_(key.endswith("bias"))
        convert_(model, SOFTMAX)
        assert {key.rpartition(".")[2] for key, value in model.named_parameters() if value.requires_grad} <= {"bias", "in_proj_bias"}
        run(model, images).sum().backward()
        assert all((value.grad is None) == (not key.endswith("bias")) for key, value in model.get_submodule(name).named_parameters())


def shared(model: nn.Module) -> int:
    return len(list(model.named_parameters(remove_duplicate=False))) - len(list(model.parameters()))


@pytest.mark.case("C10")
@pytest.mark.parametrize("host", ["timm ViT", "transformers ViT", "transformers CLIP", "torchvision ViT", "timm EVA02", "timm Swin V2"])
@pytest.mark.parametrize("how", ["parameter", "module"])
def test_tied_layers_stay_tied_or_are_refused(host, how) -> None:
    """Two layers with one Parameter, or one Module: a change of one changes the other."""
    model, _, images = built(host)
    if "Swin" in host:
        # all at one width
        first, second = "layers.0.blocks.0.attn", "layers.0.blocks.1.attn"
    else:
        first, second = (key for key, module in model.named_modules() if find_host(module) is not None and key[-6:] != "2.attn")
    for child in linear_maps(model.get_submodule(first)):
        model, _, images = built(host)
        a, b = (model.get_submodule(place) for place in (first, second))
        if how == "module":
            exchange(b, child, a.get_submodule(child))
        else:
            layer: Any = b.get_submodule(child)
            layer.weight = a.get_submodule(child).weight
        before, want, ties = everything(model), run(model, images), shared(model)
        if says := refused(model):
            assert "a tie" in says
            continue
        torch.testing.assert_close(run(model, images), want, rtol=1e-5, atol=1e-5)
        assert shared(model) == ties, "as many parameters have two names as before"
        revert_(model)
        assert_same(before, everything(model))


@pytest.mark.case("C10")
@pytest.mark.parametrize("host", MAKE)
def test_a_parameter_or_module_that_somebody_added_is_not_lost_silently(host) -> None:
    for add in (lambda attn: attn.register_parameter("gain", nn.Parameter(torch.ones(1))), lambda attn: attn.add_module("adapter", nn.Linear(3, 3))):
        model, name, _ = built(host)
        add(model.get_submodule(name))
        before = everything(model)
        with pytest.raises(InputError, match=r"is a parameter that no attention here has a place for"):
            convert_(model, SOFTMAX)
        assert_same(before, everything(model))


def test_modes_of_parts_stay() -> None:
    """Also where the conversion is refused at a later place."""
    model, _, _ = built("timm ViT, normed, registers")
    model.train()
    model.blocks[0].attn.q_norm.eval()
    before = everything(model)
    model.blocks[2].attn.gate = nn.Linear(24, 24)
    with pytest.raises(InputError, match="gates its output"):
        convert_(model, SOFTMAX, where="blocks.*")
    del model.blocks[2].attn.gate
    model.blocks[2].attn.gate = None
    assert [part.training for part in model.modules()] == [entry[3] for entry in before[0]]
    convert_(model, SOFTMAX)
    assert [model.blocks[0].attn.q_norm.training, model.blocks[0].attn.k_norm.training, model.blocks[0].attn.attn_drop.training] == [False, True, True]


def test_projections_of_several_dtypes_are_refused() -> None:
    model, name, _ = built("transformers ViT")
    model.get_submodule(name).k_proj.half()
    with pytest.raises(InputError, match=r"in more than one dtype .*keys in torch.float16"):
        convert_(model, SOFTMAX)


@pytest.mark.case("C1")
def test_an_adapter_that_would_have_no_place_is_refused() -> None:
    """External attention has no keys and values: adapters of theirs would be gone."""
    model, name, _ = built("transformers ViT")
    THINGS["LoRA"](model.get_submodule(name), "v_proj")
    before = everything(model)
    with pytest.raises(InputError, match=r"v_proj carries .*merge_and_unload"):
        convert_(model, ExternalAttention.Config(slots=3))
    assert_same(before, everything(model))


@pytest.mark.case("C1")
def test_an_adapter_around_the_attention_itself_is_refused() -> None:
    peft = pytest.importorskip("peft")
    model, _, _ = built("nn.MultiheadAttention")
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["attn"]))
    with pytest.raises(InputError, match="an adapter that reads its weights"):
        convert_(model, SOFTMAX)


@pytest.mark.case("C26")
def test_the_report_names_parameters_that_an_optimizer_does_not_hold() -> None:
    for host in ("transformers ViT", "timm ViT", "torchvision ViT"):
        for config in (SOFTMAX, DenoisingAttention.Config(), ExternalAttention.Config(slots=3)):
            model, _, _ = built(host)
            held = {id(value) for group in torch.optim.SGD(model.parameters()).param_groups for value in group["params"]}
            report = convert_(model, config)
            assert sorted(report.new_objects) == sorted(name for name, value in model.named_parameters() if id(value) not in held)
            for swap in report.swaps:
                here = {name for name, value in model.get_submodule(swap.name).named_parameters() if id(value) in held}
                assert len(swap.kept) == len(here), "kept are the host's own objects"
            assert ("new objects" in report.table()) == bool(report.new_objects)


@pytest.mark.case("C11")
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_one_of_three_layers_that_is_trained_alone(part) -> None:
    model, _, _ = built("transformers ViT")
    model.requires_grad_(False)
    model.layers[0].attention.get_submodule(f"{part}_proj").requires_grad_(True)
    report = convert_(model, SOFTMAX)
    at = f"layers.0.attention.attn.qkv.{part}"
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [f"{at}.weight", f"{at}.bias"]
    assert "stay three layers" in report.swaps[0].notes[0]
    assert not report.swaps[1].notes
