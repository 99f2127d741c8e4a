"""Fitting to what was replaced: against least squares by another hand, and never to the worse."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foveal import (
    CalibrationReport,
    DenoisingAttention,
    EfficientAttention,
    ExternalAttention,
    InputError,
    SoftmaxAttention,
    calibrate_,
    convert,
    convert_,
    load_delta,
    revert_,
    save_delta,
)
from foveal.attention import attention_class, list_attentions
from foveal.convert._record import record_of
from tests.convert.hosts import CASES
from tests.convert.test_hosts import SIDE, run, stirred, timm_vit, torchvision_vit, transformers_tower

EXTERNAL = ExternalAttention.Config(slots=8)


def images(batches: int = 4, size: int = 8) -> list[Tensor]:
    return list(torch.randn(batches, size, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)))


def external(make=timm_vit, config=EXTERNAL, **options: object) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    return convert(stirred(make(**options)), config)


def inputs_of(model: nn.Module, name: str, batch: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    run(model, batch)
    handle.remove()
    return seen[0]


def test_least_squares_are_those_of_numpy() -> None:
    """The first layer, whose input no fit changes: features by hand, the ridge written as further equations of an ordinary problem."""
    model, report = external()
    start, ridge, batches = copy.deepcopy(model), 0.01, images()
    calibrate_(model, report, batches, steps=0, ridges=(ridge,))
    x = torch.cat([inputs_of(start, "blocks.0.attn", batch) for batch in batches[:3]]).double()
    attn = copy.deepcopy(start.blocks[0].attn).double()
    original = copy.deepcopy(record_of(start).parts[0].original).double()
    z = attn.memory(attn._queries(x)).transpose(1, 2).flatten(2).reshape(-1, 24).detach().numpy()
    y = original(x).reshape(-1, 24).detach().numpy()
    weight, bias = (value.detach().numpy() for value in (attn.proj.weight, attn.proj.bias))
    pull = np.sqrt(len(z) * ridge * np.square(z).mean())
    rows = np.block([[z, np.ones((len(z), 1))], [pull * np.eye(24), np.zeros((24, 1))]])
    wanted = np.concatenate([y - z @ weight.T - bias, np.zeros((24, 24))])
    change = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(model.blocks[0].attn.proj.weight.detach().numpy(), weight + change[:24].T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.blocks[0].attn.proj.bias.detach().numpy(), bias + change[24], rtol=1e-3, atol=1e-4)


def test_errors_are_those_of_held_out_batches_behind_fitted_layers() -> None:
    model, report = external()
    start, batches = copy.deepcopy(model), images()
    fits = calibrate_(model, report, batches, steps=10)
    assert fits.batches == (3, 1)
    assert [fit.name for fit in fits.layers] == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]
    assert all(fit.after < fit.before for fit in fits.layers)
    for n, fit in enumerate(fits.layers):
        x = inputs_of(model, fit.name, batches[3])
        want = record_of(start).parts[n].original(x)
        for module, error in ((start.blocks[n].attn, fit.before), (model.blocks[n].attn, fit.after)):
            assert ((module(x) - want).norm() / want.norm()).item() == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("make", [torchvision_vit, lambda: transformers_tower("ViT"), lambda: nn.TransformerEncoderLayer(24, 4, 48)])
def test_hosts_with_calls_of_their_own(make) -> None:
    """Pairs that come back, and tokens before the batch; every attention."""
    torch.manual_seed(0)
    base = stirred(make())
    batches = list(torch.randn(4, 6, 5, 24)) if isinstance(base, nn.TransformerEncoderLayer) else images(size=4)
    for name in ("external", "causal", "differential", "efficient"):
        model, report = convert(base, attention_class(name).Config())
        fits = calibrate_(model, report, batches, steps=5)
        assert all("least squares" not in fit.note for fit in fits.layers)
        assert sum(fit.after for fit in fits.layers) < sum(fit.before for fit in fits.layers), name


def test_what_needs_no_fit_is_left() -> None:
    for name in list_attentions(form="tokens"):
        model, report = external(config=attention_class(name).Config())
        state = copy.deepcopy(model.state_dict())
        fits = calibrate_(model, report, images(2, 2), steps=0)
        if report.swaps[0].output != "changed":
            assert {fit.by for fit in fits.layers} == {"unchanged"}, name
            assert all(torch.equal(state[key], value) for key, value in model.state_dict().items()), name


def test_a_fit_that_is_worse_is_not_taken() -> None:
    """Fitted to one image, judged on others."""
    model, report = external(config=SoftmaxAttention.Config(attn_head_dim=3))
    state = copy.deepcopy(model.state_dict())
    fits = calibrate_(model, report, [images()[0][:1] * 100, *images(1)], steps=30, lr=3.0, ridges=(0.0,))
    assert {fit.by for fit in fits.layers} == {"unchanged"}
    assert all("no fit was better" in fit.note and fit.after == fit.before > 0.001 for fit in fits.layers)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert "0 of 3 modules fitted" in fits.table()
    assert "note: blocks.0.attn: no fit was better" in str(fits)


def test_memory_changes_nothing_but_time() -> None:
    results = []
    for memory in (0, 2**30):
        model, report = external()
        results.append((calibrate_(model, report, images(), steps=7, memory=memory), model.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())
    other, report = external()
    assert calibrate_(other, report, images(), steps=7, seed=1) != results[0][0]


def test_everything_else_stays() -> None:
    model, report = external()
    model.double().train()
    model.blocks[1].eval()
    model.blocks[0].attn.proj.requires_grad_(False)
    model.blocks[2].attn.requires_grad_(False)
    names = {id(p): name for name, p in model.named_parameters()}
    flags = {name: (p.requires_grad, p.dtype) for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    state, called = copy.deepcopy(model.state_dict()), []
    model.blocks[0].attn.register_forward_hook(lambda *_: called.append(1))
    fits = calibrate_(model, report, images(), steps=5)
    assert [fit.by for fit in fits.layers][2] == "unchanged"
    assert "none of its parameters requires gradients" in fits.layers[2].note
    assert "no least squares" in fits.layers[0].note
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    assert {"blocks.0.attn.memory.memory_k", "blocks.1.attn.proj.weight"} <= changed
    assert all(name.startswith(("blocks.0.attn.", "blocks.1.attn.")) and not name.startswith("blocks.0.attn.proj") for name in changed)
    assert {name: (p.requires_grad, p.dtype) for name, p in model.named_parameters()} == flags
    assert {id(p): name for name, p in model.named_parameters()} == names, "optimizers hold the very parameters"
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(p.grad is None for p in model.parameters())
    assert not model.blocks[0].attn._forward_pre_hooks


def test_half_precision_is_fitted_in_single() -> None:
    model, report = external()
    model.to(torch.bfloat16)
    fits = calibrate_(model, report, images(), steps=20)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(fit.after < 0.9 * fit.before for fit in fits.layers)


def test_batches_of_every_kind() -> None:
    plain, report = external()
    want = calibrate_(plain, report, images(), steps=3)
    labeled, report = external()
    assert calibrate_(labeled, report, ((batch, torch.zeros(8)) for batch in images()), steps=3) == want
    tower, report = external(lambda: transformers_tower("ViT"))
    named = [{"pixel_values": batch, "labels": torch.zeros(8), "output_attentions": False} for batch in images()]
    assert calibrate_(tower, report, named, steps=3).layers[0].by != "unchanged"


def test_only_what_the_report_names() -> None:
    model, report = external(config={"blocks.0.attn": EXTERNAL, "blocks.2.attn": EfficientAttention.Config()})
    further = convert_(model, DenoisingAttention.Config(attn_head_dim=3), where="blocks.1.attn")
    assert [fit.name for fit in calibrate_(model, further, images(2), steps=1).layers] == ["blocks.1.attn"]
    assert [fit.name for fit in calibrate_(model, report, images(2), steps=1).layers] == ["blocks.0.attn", "blocks.2.attn"]
    assert [fit.attention for fit in calibrate_(model, None, images(2), steps=1).layers] == ["external", "denoising", "efficient"]


def test_shared_modules_are_fitted_to_all_their_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.MultiheadAttention(24, 4, batch_first=True)
            self.again = self.first

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.first(x, x, x, need_weights=False)[0]
            return x + self.again(x, x, x, need_weights=False)[0]

    model, report = external(Twice)
    batches = list(torch.randn(4, 6, 5, 24))
    start = copy.deepcopy(model)
    fit = calibrate_(model, report, batches, steps=0).layers[0]
    x = batches[3]
    original, new = (module.first for module in (copy.deepcopy(stirred(Twice())), start))
    original = record_of(start).parts[0].original
    calls = [x, x + new(x, x, x)[0]]
    want, got = (torch.cat([module(call, call, call)[0] for call in calls]) for module in (original, new))
    assert fit.before == pytest.approx(((got - want).norm() / want.norm()).item(), rel=1e-4)


def test_deltas_and_reports_hold_the_fit(tmp_path) -> None:
    model, report = external()
    fits = calibrate_(model, report, images(), steps=3)
    assert CalibrationReport.from_json(fits.to_json()) == fits
    assert json.loads(fits.to_json())["layers"][0]["attention"] == "external"
    save_delta(model, tmp_path / "delta.safetensors")
    torch.manual_seed(0)
    other = stirred(timm_vit())
    load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(run(other, images()[0]), run(model, images()[0]))
    assert len(revert_(model)) == 3


def test_a_model_that_was_not_converted_or_a_report_of_another_is_refused() -> None:
    model, report = external()
    with pytest.raises(InputError, match="was not converted"):
        calibrate_(timm_vit(), report, images())
    _, wider = external(embed_dim=48)
    _, longer = external(depth=4)
    for other in (wider, longer, external(config=EfficientAttention.Config())[1]):
        with pytest.raises(InputError, match="the report is of another model"):
            calibrate_(model, other, images())
    with pytest.raises(InputError, match="names no module"):
        calibrate_(model, convert_(model, EXTERNAL), images())
    with pytest.raises(InputError, match="got a str"):
        calibrate_(model, "report", images())


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "at least two batches.*got 0"),
        ([torch.randn(2, 3, SIDE, SIDE)], "at least two batches.*got 1"),
        ([torch.randn(2, 3, SIDE, SIDE), torch.randn(0, 3, SIDE, SIDE)], "batch 1 is empty"),
        (torch.randn(8, 3, SIDE, SIDE), r"try images\.split"),
        (["a.jpg", "b.jpg"], "batch 0 holds no tensor"),
        ([{}, {}], "batch 0 holds no tensor"),
    ],
)
def test_what_is_no_batch_is_refused(batches, says) -> None:
    model, report = external()
    with pytest.raises(InputError, match=says):
        calibrate_(model, report, batches)


def test_an_error_leaves_the_model_as_it_was() -> None:
    model, report = external()
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    model.train()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"blocks\.2\.attn: what goes in holds NaN or infinity for batch"):
        calibrate_(model, report, images(), steps=2)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items() if key != "blocks.1.mlp.fc1.weight")
    assert model.training
    with pytest.raises(InputError, match=r"blocks\.0\.attn: what goes in holds NaN"):
        calibrate_(external()[0], None, [batch * float("inf") for batch in images()])


def test_layers_that_are_not_reached_are_named() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = (nn.MultiheadAttention(24, 4, batch_first=True) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x, x, x)[0]

    model, report = external(Unused)
    with pytest.raises(InputError, match="idle: not called for these batches"):
        calibrate_(model, report, list(torch.randn(2, 2, 5, 24)))


@pytest.mark.parametrize("options", [{"steps": -1}, {"lr": 0.0}, {"ridges": (-1.0,)}, {"ridges": ()}, {"held_out": 1.0}, {"memory": -1}])
def test_settings_that_make_no_sense_are_refused(options) -> None:
    model, report = external()
    with pytest.raises(InputError, match="expected steps"):
        calibrate_(model, report, images(), **options)


def test_compiled_models_are_refused() -> None:
    model, report = external()
    model.compile()
    with pytest.raises(InputError, match="compiled"):
        calibrate_(model, report, itertools.islice(images(), 2))


@pytest.mark.parametrize("name", list(CASES))
def test_hosts_with_positions_windows_and_masks(name) -> None:
    """Causal attention can stand in all their places, and is another function everywhere."""
    case = CASES[name]
    torch.manual_seed(0)
    model, report = convert(case.model(), attention_class("causal").Config())
    batches = [case.images() + 0.1 * n for n in range(3)]
    fits = calibrate_(model, report, batches, steps=3)
    # in the order of the calls, which need not be that of the names
    assert {fit.name for fit in fits.layers} == {swap.name for swap in report.swaps}
    assert all(fit.after < fit.before for fit in fits.layers), fits
