"""Living with a converted model: adapters, checkpointing, several processes, compilation and export, for every attention."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from foveal import CausalAttention, DenoisingAttention, SoftmaxAttention, convert, convert_
from foveal.attention import _linear, attention_class, list_attentions
from tests.convert.test_hosts import SIDE, run, stirred, timm_vit, torchvision_vit, transformers_tower

NAMES = list_attentions(form="tokens")
IMAGES = torch.randn(3, 3, SIDE, SIDE)
HOSTS = {"timm": lambda depth=2: timm_vit(depth=depth), "torchvision": torchvision_vit, "transformers": lambda: transformers_tower("ViT")}
OTHERS = ("torchvision", "transformers")
EVERY_PROJECTION = r".*\.attn\.(qkv|q|proj|q_neg|v_neg|fuse)"


def converted(name: str, host: str = "timm", **options: object) -> nn.Module:
    """The same model each time it is asked for."""
    torch.manual_seed(0)
    model = stirred(HOSTS[host](**options))
    convert_(model, attention_class(name).Config())
    return stirred(model)


# -- LoRA ----------------------------------------------------------------------------------------------------------------------------------------------


def adapted(model: nn.Module, target: str = EVERY_PROJECTION) -> nn.Module:
    peft = pytest.importorskip("peft")
    # not at zero, where an adapter that is gone around would not be missed
    return peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=8, target_modules=target, init_lora_weights=False)).eval()


# peft 0.21 asks transformers 5.24 by a name of old
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "host"), [*((name, "timm") for name in NAMES), *((name, host) for name in ("denoising", "external") for host in OTHERS)])
def test_lora_trains_alone_merges_and_comes_back(name, host, tmp_path, monkeypatch) -> None:
    peft = pytest.importorskip("peft")
    # small models go the way of large ones
    monkeypatch.setattr(_linear, "_CONVOLUTION_PAYS", 1)
    plain = run(converted(name, host), IMAGES)
    model = adapted(converted(name, host))
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all(".lora_" in key for key in trained)
    out = run(model, IMAGES)
    assert (out - plain).abs().max() > 1e-3
    out.square().sum().backward()
    idle = [key for key, value in trained.items() if value.grad is None or not value.grad.any()]
    assert not idle, "an adapter without a gradient was gone around"
    assert all(value.grad is None for key, value in model.named_parameters() if key not in trained)
    with torch.no_grad():
        torch.testing.assert_close(run(model, IMAGES), out, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(converted(name, host), tmp_path).eval()
    assert torch.equal(run(again, IMAGES), run(model, IMAGES))
    merged = model.merge_and_unload()
    assert not any("lora" in key for key in merged.state_dict())
    torch.testing.assert_close(run(merged, IMAGES), out, rtol=1e-4, atol=1e-4)


def test_the_usual_target_finds_all_blocks() -> None:
    model = adapted(converted("denoising"), r".*\.attn\.(qkv|proj)")
    layers = {key.partition(".lora_")[0] for key, _ in model.named_parameters() if ".lora_" in key}
    assert layers == {f"base_model.model.blocks.{n}.attn.{part}" for n in range(2) for part in ("qkv", "proj")}


def test_lora_counts_where_only_some_rows_of_a_projection_are_asked_for() -> None:
    """Queries of one input, keys and values of another."""
    host = nn.ModuleDict({"self": nn.MultiheadAttention(16, 4, batch_first=True)})
    x, context = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    for config in (SoftmaxAttention.Config(), DenoisingAttention.Config(), CausalAttention.Config()):
        model, _ = convert(host, config)
        adapted_model = adapted(nn.ModuleDict({"m": model}), r".*\.attn\.(qkv|proj)")
        attention = adapted_model.base_model.model["m"]["self"]
        got = attention(x, context, context)[0]
        got.sum().backward()
        assert all(value.grad is not None and value.grad.any() for key, value in adapted_model.named_parameters() if ".lora_" in key)
        merged = adapted_model.merge_and_unload()["m"]["self"]
        torch.testing.assert_close(merged(x, context, context)[0], got, rtol=1e-4, atol=1e-5)


def test_a_model_with_adapters_can_be_converted() -> None:
    """The adapters go on where the host's own layers do."""
    torch.manual_seed(0)
    host = stirred(timm_vit(depth=2))
    model = adapted(host, r".*\.attn\.(qkv|proj)")
    want = run(model, IMAGES)
    convert_(model, DenoisingAttention.Config(), warm_start="exact")
    torch.testing.assert_close(run(model, IMAGES), want, rtol=1e-4, atol=1e-5)


# -- training ------------------------------------------------------------------------------------------------------------------------------------------


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    run(model, IMAGES).square().sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_gives_the_same_gradients(name) -> None:
    timm, transformers = converted(name).train(), converted(name, "transformers").train()
    for model, switch in ((timm, timm.set_grad_checkpointing), (transformers, transformers.activation_checkpointing_enable)):
        want = gradients(model)
        calls = []
        attention = next(module for module in model.modules() if type(module) is attention_class(name))
        attention.register_forward_hook(lambda module, args, out, calls=calls: calls.append(1))
        switch()
        got = gradients(model)
        assert len(calls) == 2, "forward, and again on the way back"
        assert got.keys() == want.keys()
        for key in want:
            torch.testing.assert_close(got[key], want[key], rtol=1e-5, atol=1e-6)


def test_two_processes_find_every_parameter_used_and_average_gradients() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.convert.two_processes"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == NAMES


# -- compilation and export ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole_forward_and_backward(name) -> None:
    model = converted(name, depth=1)
    want = gradients(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled.zero_grad()
    compiled(IMAGES).square().sum().backward()
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.grad, want[key], rtol=1e-4, atol=1e-4)


def test_an_adapted_model_compiles_whole() -> None:
    model = adapted(converted("denoising"))
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "host"), [*((name, host) for name in NAMES for host in ("timm", "transformers")), ("denoising", "torchvision")])
def test_exports_with_any_number_of_images(name, host) -> None:
    model = converted(name, host)
    with torch.no_grad():
        program = torch.export.export(model, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for count in (1, 7):
            images = torch.randn(count, 3, SIDE, SIDE)
            torch.testing.assert_close(run(program.module(), images), run(model, images), rtol=1e-5, atol=1e-5)
