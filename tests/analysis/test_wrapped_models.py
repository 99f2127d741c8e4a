"""Models as people run them: with activation checkpoints, under inference mode, compiled, wrapped for several devices."""

import copy
import warnings

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import foveal
from foveal import InputError
from foveal.analysis import attention_maps, gradient_rollout, rollout, target_layers_for
from tests.convert.test_hosts import SIDE, stirred, timm_vit

timm = pytest.importorskip("timm")
IMAGES = (2, 3, SIDE, SIDE)


class Checkpointed(nn.Module):
    """Blocks of a vision transformer, each computed again in backward; the second with what lies around it."""

    def __init__(self, model: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, images):
        model = self.model
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        for number, block in enumerate(model.blocks):
            x = checkpoint(block if number != 1 else lambda y, block=block: block(y) * 1.0, x, use_reentrant=self.reentrant)
        return model.forward_head(model.norm(x))


class ByHand(nn.Module):
    """Softmax in the open, as in older models; the first map depends on nothing that wants a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.heads, self.head = nn.Embedding(30, 24), nn.ModuleList(nn.Linear(24, 72) for _ in range(2)), 4, nn.Linear(24, 3)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.qkv:
            q, k, v = layer(x).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4)
            x = x + ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


def converted(attention: foveal.AttentionConfig | None) -> nn.Module:
    torch.manual_seed(0)
    model = stirred(timm_vit())
    if attention is not None:
        foveal.convert_(model, attention, warm_start=0.5) if isinstance(attention, foveal.DenoisingAttention.Config) else foveal.convert_(model, attention)
    return model.eval()


@pytest.mark.case("C15")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False, None], ids=["reentrant", "not reentrant", "timm's own"])
@pytest.mark.parametrize("attention", [None, foveal.SoftmaxAttention.Config(), foveal.DenoisingAttention.Config()], ids=["plain", "softmax", "denoising"])
def test_gradients_under_checkpoints_are_those_without(attention, reentrant) -> None:
    model, images = converted(attention), torch.randn(IMAGES)
    want = gradient_rollout(model, images, target=1)
    assert (want - torch.eye(17)).abs().max() > 1e-4
    if reentrant is None:
        model.set_grad_checkpointing(True)
        wrapped: nn.Module = model
    else:
        wrapped = Checkpointed(model, reentrant)
    torch.testing.assert_close(gradient_rollout(wrapped, images, target=1), want)
    torch.testing.assert_close(list(attention_maps(wrapped, images).values())[1]["combined"], attention_maps(model, images)["blocks.1.attn"]["combined"])
    # what a checkpoint does else is as before
    x = torch.randn(3, requires_grad=True)
    ran = []
    checkpoint(lambda y: (ran.append(torch.is_grad_enabled()), y.exp())[1], x, use_reentrant=True).sum().backward()
    assert ran == [False, True]


@pytest.mark.case("C15")
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradients_under_the_checkpoints_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=SIDE, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, num_labels=3
    )
    model, images = stirred(transformers.ViTForImageClassification(config)).eval(), torch.randn(IMAGES)
    want = gradient_rollout(model, images, target=1)
    for reentrant in (True, False):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.testing.assert_close(gradient_rollout(model.train(), images, target=1), want)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(gradient_rollout(model, images, target=1), want, rtol=1e-4, atol=1e-6)


@pytest.mark.case("C24")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_had_whatever_mode_the_caller_is_in(mode) -> None:
    model, images = converted(None), torch.randn(IMAGES)
    want, maps = gradient_rollout(model, images, target=1), attention_maps(model, images)
    flow = rollout(model, images)
    with mode():
        same = images * 1
        torch.testing.assert_close(gradient_rollout(model, same, target=1), want)
        torch.testing.assert_close(gradient_rollout(model, same, target=lambda logits: logits[:, 1]), want)
        torch.testing.assert_close(rollout(model, same), flow)
        got = attention_maps(model, same)
    for layer, named in maps.items():
        assert torch.equal(named["combined"], got[layer]["combined"])


@pytest.mark.case("C24", "H6")
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_gradients_of_maps_by_hand_over_numbers_that_have_none(mode) -> None:
    """Chefer et al., eq. 5 and 6, with the gradient by each map found by nudging it."""
    torch.manual_seed(0)
    model, ids = ByHand().double().eval(), torch.randint(0, 30, (1, 4))
    with mode():
        got = gradient_rollout(model, ids, target=2)
    maps = attention_maps(model, ids)
    assert list(maps) == ["", ":2"]

    @torch.no_grad()
    def answer(nudges: dict[int, torch.Tensor]) -> torch.Tensor:
        x = model.embed(ids)
        for number, layer in enumerate(model.qkv):
            q, k, v = layer(x).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4)
            x = x + (((q @ k.mT).softmax(-1) + nudges.get(number, 0)) @ v).transpose(1, 2).flatten(2)
        return model.head(x.mean(1))[0, 2]

    want = torch.eye(4, dtype=torch.float64)
    for number, named in enumerate(maps.values()):
        weights = named["combined"]
        slope = torch.zeros_like(weights)
        for place in torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(4)).tolist():
            nudge = torch.zeros_like(weights)
            nudge[(0, *place)] = 1e-5
            slope[(0, *place)] = (answer({number: nudge}) - answer({number: -nudge})) / 2e-5
        want = want + (slope * weights).clamp_min(0).mean(1)[0] @ want
    torch.testing.assert_close(got[0], want, rtol=1e-6, atol=1e-8)


@pytest.mark.case("C15")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_grad_cam_under_checkpoints(reentrant) -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = converted(None), torch.randn(IMAGES)

    def heat(of: nn.Module):
        transform = foveal.analysis.reshape_transform_for(model, (SIDE, SIDE))
        with grad_cam.GradCAM(model=of, target_layers=target_layers_for(of), reshape_transform=transform) as cam:
            return torch.as_tensor(cam(input_tensor=images, targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(3)]))

    torch.testing.assert_close(heat(Checkpointed(model, reentrant)), heat(model))


# -- names ------------------------------------------------------------------------------------------------------------------------------------------


def wrappers() -> dict[str, object]:
    return {
        "compiled": lambda model: torch.compile(model, backend="eager"),
        "compiled in place": lambda model: (model.compile(backend="eager"), model)[1],
        "compiled blocks": blocks_compiled,
        "DataParallel": nn.DataParallel,
        "compiled DataParallel": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
        "AveragedModel": torch.optim.swa_utils.AveragedModel,
    }


def blocks_compiled(model: nn.Module) -> nn.Module:
    for number, block in enumerate(model.blocks):
        model.blocks[number] = torch.compile(block, backend="eager")
    return model


@pytest.mark.case("C27")
@pytest.mark.parametrize("attention", [None, foveal.DenoisingAttention.Config()], ids=["plain", "denoising"])
@pytest.mark.parametrize("name", wrappers())
def test_names_are_those_that_people_know(name, attention) -> None:
    torch._dynamo.reset()
    model, images = converted(attention), torch.randn(IMAGES)
    want, speaks = attention_maps(model, images), gradient_rollout(model, images, target=1, where="blocks.1.attn")
    wrapped = wrappers()[name](model)
    got = attention_maps(wrapped, images)
    assert list(got) == list(want) == [f"blocks.{n}.attn" for n in range(3)]
    for layer, named in want.items():
        for key, value in named.items():
            torch.testing.assert_close(got[layer][key], value)
    assert list(attention_maps(wrapped, images, where="blocks.0.attn")) == ["blocks.0.attn"]
    # the names that the wrapper gives are understood as well
    own = next(given for given, module in wrapped.named_modules() if given.endswith("0.attn") or given.endswith("0._orig_mod.attn"))
    assert list(attention_maps(wrapped, images, where=own)) == ["blocks.0.attn"]
    torch.testing.assert_close(gradient_rollout(wrapped, images, target=1, where="blocks.1.attn"), speaks)
    with pytest.raises(InputError, match="no attention that ran is chosen by"):
        attention_maps(wrapped, images, where="blocks.7.attn")


@pytest.mark.case("C27")
def test_one_process_of_several_looks_by_itself(tmp_path) -> None:
    """The module in DistributedDataParallel runs, and waits for nobody."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        model, images = converted(None), torch.randn(IMAGES)
        want = attention_maps(copy.deepcopy(model), images)
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped.forward = None  # type: ignore[assignment]
        got = attention_maps(wrapped, images, where="blocks.*.attn")
    finally:
        torch.distributed.destroy_process_group()
    assert list(got) == list(want)
    for layer, named in want.items():
        assert torch.equal(got[layer]["combined"], named["combined"])


@pytest.mark.case("C27")
def test_a_module_that_stands_in_two_places_is_known_by_both_names() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.MultiheadAttention(8, 2, batch_first=True)
            self.second, self.module = self.first, nn.Linear(8, 8)

        def forward(self, x):
            x = self.module(self.first(x, x, x)[0])
            return self.second(x, x, x)[0]

    model, x = Shared().eval(), torch.randn(1, 4, 8)
    assert list(attention_maps(model, x)) == ["first", "first:2"]
    assert list(attention_maps(model, x, where="second")) == ["first", "first:2"]


@pytest.mark.case("C27")
def test_the_words_for_places_are_those_of_conversion() -> None:
    model, images = converted(None), torch.randn(IMAGES)
    assert len(attention_maps(model, images, where="all")) == 3
    assert list(attention_maps(model, images, where="last_stage")) == ["blocks.2.attn"]
    assert list(attention_maps(model, images, where=foveal.every_nth(2))) == ["blocks.0.attn", "blocks.2.attn"]


def test_a_model_in_half_precision_runs_as_it_is() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model, images = converted(None).to(dtype), torch.randn(IMAGES, dtype=dtype)
        outputs = []
        handle = model.register_forward_hook(lambda _, args, output, outputs=outputs: outputs.append(output))
        maps = attention_maps(model, images)
        handle.remove()
        with torch.no_grad():
            assert torch.equal(outputs[0], model(images))
        wide = attention_maps(copy.deepcopy(model).double(), images.double())
        for layer, named in maps.items():
            assert named["combined"].dtype == dtype
            torch.testing.assert_close(named["combined"].double(), wide[layer]["combined"], rtol=0.1, atol=0.02)


def test_what_the_model_warns_of_is_not_held_back() -> None:
    class Warns(nn.Module):
        def forward(self, x):
            warnings.warn("from the model", stacklevel=1)
            return F.scaled_dot_product_attention(x, x, x)

    with pytest.warns(UserWarning, match="from the model"):
        attention_maps(Warns(), torch.randn(1, 2, 3, 4))


class Open(nn.Module):
    """Attention that TorchScript takes."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(24, 72)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class OpenAttention(Open):
    pass


@pytest.mark.case("C27", "C12")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("made", [torch.jit.script, lambda part: torch.jit.trace(part, torch.randn(2, 5, 24))], ids=["scripted", "traced"])
def test_attention_in_torchscript_is_said_to_be_missing(made) -> None:
    torch.manual_seed(0)
    # the head is called by nobody
    model = nn.Sequential(made(nn.Sequential(nn.Linear(24, 24), OpenAttention())), OpenAttention(), nn.Identity()).eval()
    model[2].head = made(OpenAttention())
    x = torch.randn(2, 5, 24)
    forward = model[0].__dict__.get("forward")
    with torch.no_grad():
        want = model(x)
    with pytest.warns(UserWarning, match=r"the maps of 1 attentions that ran are missing: 0\.1: it is TorchScript"):
        maps = attention_maps(model, x)
    assert list(maps) == ["1"]
    assert list(maps.missing) == ["0.1"]
    with torch.no_grad():
        assert torch.equal(model(x), want)
    assert model[0].__dict__.get("forward") is forward
    for ask in (rollout, lambda *given: gradient_rollout(*given, target=lambda output: output.sum((1, 2)))):
        with pytest.raises(InputError, match=r"0\.1: it is TorchScript"):
            ask(model, x)
    with pytest.raises(InputError, match=r"those that ran: 1: it is TorchScript"):
        attention_maps(model[0], x)


@pytest.mark.case("C24")
def test_a_model_made_in_inference_mode_is_refused_whole() -> None:
    with torch.inference_mode():
        model = timm_vit()
    with pytest.raises(InputError, match=r"made under torch\.inference_mode\(\)"):
        gradient_rollout(model, torch.randn(IMAGES), target=1)
    assert all(value.requires_grad for value in model.parameters())


class Merging(nn.Linear):
    """As loralib: weights are merged for evaluation, and taken apart for training, by whoever calls train() and eval()."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        self.merged = not mode
        return super().train(mode)


@pytest.mark.case("C12")
def test_layers_that_merge_for_evaluation_are_taken_apart_again() -> None:
    model = nn.Sequential(Merging(24, 24), nn.Dropout(), nn.Sequential(Merging(24, 24), OpenAttention())).train()
    model[1].eval()
    model[2].eval()
    model[2][0].train()
    before = {name: (part.training, getattr(part, "merged", None)) for name, part in model.named_modules()}
    attention_maps(model, torch.randn(2, 5, 24))
    assert {name: (part.training, getattr(part, "merged", None)) for name, part in model.named_modules()} == before
