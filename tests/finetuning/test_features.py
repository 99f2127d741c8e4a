"""Features of a frozen backbone: where a network is cut, that what is kept is what comes there, and that runs are what they are without."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import default_collate

from foveal._errors import InputError
from foveal.lab.finetuning import fine_tune
from foveal.lab.networks import Pretrained
from foveal.lab.networks.frozen import attach_, features_of, find_cut
from foveal.lab.tasks import Classification
from foveal.lab.training import Interrupted, Recipe, build_model, fit, load_data
from foveal.lab.training.batches import BatchStream
from foveal.lab.training.early import Early
from foveal.lab.training.features import FeatureSplit, kept_features
from foveal.lab.training.order import Order
from foveal.lab.training.reading import read_history

VIT = Pretrained(library="timm", name="test_vit", weights="random")
NET = Pretrained(library="timm", name="test_resnet", weights="random")


def frozen(photographs: Path, **options: object) -> Recipe:
    given = {"weights": "random", "img_size": 160, "batch_size": 4, "epochs": 1.0, "augment": "none", "freeze": "all-but-attention"} | options
    recipe = fine_tune("test_vit", photographs, **({"attention": "denoising", "where": "last_stage"} | given))  # type: ignore[arg-type]
    return replace(recipe, trackers=(), steps=4, eval_every=2, checkpoint_every=2)


@pytest.mark.parametrize(
    ("model", "side", "name", "alone"),
    [
        (replace(VIT, freeze="all-but-head"), 160, "head", True),
        (replace(VIT, freeze="all-but-attention", attention="denoising", where="last_stage"), 160, "blocks.4", False),
        (replace(VIT, freeze="all-but-new", attention="external", where="blocks.2.attn"), 160, "blocks.2", False),
        (replace(VIT, lora=2), 160, "blocks.0", False),
        # the sum around the attention goes by it, however large what learns becomes
        (replace(VIT, freeze="all-but-attention", attention="softmax", where="blocks.0.attn"), 160, "blocks.0", False),
        # its factor is 0, which hides the block from whoever does not look behind it
        (replace(NET, freeze="all-but-new", attention="linear_2d", insert_after=("layer3",)), 64, "layer3.foveal_attention", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_network_is_cut_below_what_learns_and_goes_on_from_there(model: Pretrained, side: int, name: str, alone: bool) -> None:
    torch.manual_seed(0)
    built, images = model.build(img_size=side, num_classes=3), torch.randn(3, 3, side, side)
    before = {key: value.clone() for key, value in built.state_dict().items()}
    cut, _ = find_cut(built, images)
    assert cut is not None
    assert (cut.name, cut.alone) == (name, alone)
    assert built.training, "left as it was"
    assert all(torch.equal(value, before[key]) for key, value in built.state_dict().items())
    other = torch.randn(5, 3, side, side)
    wanted = built.eval()(other)
    kept = features_of(built, cut, other)
    attach_(built, cut)
    ran: list[str] = []
    inside = [key for key, _ in built.named_modules() if any(key.startswith(f"{skipped}.") for skipped in cut.skipped)]
    handles = [built.get_submodule(key).register_forward_pre_hook(lambda module, args, key=key: ran.append(key)) for key in inside]
    assert torch.allclose(built(kept), wanted, atol=1e-5)
    assert inside
    assert not ran, "nothing below runs"
    for handle in handles:
        handle.remove()
    assert torch.allclose(built(other), wanted), "images are taken as before"
    assert list(built.state_dict()) == list(before)
    # what learns gets the gradients that it gets of images
    gradients = []
    for given in (other, kept):
        built.zero_grad()
        built.train()(given).square().sum().backward()
        gradients.append({key: value.grad.clone() for key, value in built.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() != set()
    assert all(torch.allclose(gradients[0][key], gradients[1][key], rtol=1e-3, atol=1e-4 * gradients[0][key].abs().max().item()) for key in gradients[0])


def test_what_varies_in_training_is_not_below_a_cut() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.first, self.drop, self.head = nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.drop(self.first(self.flat(x))))  # type: ignore[no-any-return]

    class Around(nn.Module):
        """Something goes by the module that learns."""

        def __init__(self) -> None:
            super().__init__()
            self.flat, self.first, self.head = nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(self.flat(x))
            return x + self.head(x)  # type: ignore[no-any-return]

    for model in (Dropped(), Around()):
        model.requires_grad_(False)
        model.head.requires_grad_(True)  # type: ignore[union-attr]
        cut, why = find_cut(model, torch.randn(3, 3, 2, 2))
        assert cut is None
        assert "head learns first" in why


def test_what_begins_at_zero_hides_nothing_from_a_cut() -> None:
    """Behind the cut something of below comes in again, through weights that learn and are zero at first: the same function until they have learned."""

    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.first, self.aside, self.head, self.gate = nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 4), nn.Linear(8, 2), nn.Linear(4, 2)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(self.flat(x))
            aside = self.aside(x)
            return self.head(x) + self.gate(aside)  # type: ignore[no-any-return]

    model, images = Aside(), torch.randn(3, 3, 2, 2)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    assert find_cut(model, images)[0] is not None, "the gate is frozen too, so nothing ever comes through it"
    model.gate.requires_grad_(True)
    cut, why = find_cut(model, images)
    assert cut is None
    assert "head learns first" in why
    assert not model.gate.weight.any(), "left as it was"


class Steps(nn.Module):
    """Layers by name, gone through as a function says; the head alone learns."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.walk = forward
        self.requires_grad_(False)
        self.head.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.walk(self, x)


@pytest.mark.parametrize(
    "walk",
    [
        pytest.param(lambda own, x: own.head(own.head(own.first(x.flatten(1)))), id="what learns is called twice"),
        pytest.param(lambda own, x: own.mid(own.head(own.mid(own.first(x.flatten(1))))), id="what is skipped is called again behind the cut"),
    ],
)
def test_modules_that_are_called_again_are_cut_at_their_first_call(walk: Callable[[Any, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, images = Steps(walk, first=nn.Linear(12, 8), mid=nn.Linear(8, 8), head=nn.Linear(8, 8)).eval(), torch.randn(4, 3, 2, 2)
    cut, why = find_cut(model, images)
    assert cut is not None, why
    assert (cut.name, cut.alone) == ("head", False)
    kept, wanted = features_of(model, cut, images), model(images)
    attach_(model, cut)
    assert torch.allclose(model(kept), wanted, atol=1e-6)


def test_features_of_the_shape_of_images_are_not_kept() -> None:
    """They would be taken for images."""
    same = nn.Conv2d(3, 3, 3, padding=1)
    model = Steps(lambda own, x: own.head(own.first(x)).mean((2, 3)), first=same, head=nn.Conv2d(3, 5, 1)).eval()
    cut, why = find_cut(model, torch.randn(3, 3, 4, 4))
    assert cut is None
    assert "head learns first" in why


def test_small_answers_are_no_excuse() -> None:
    """Answers differ by their own size, however small that is: something goes by what learns."""

    def walk(own: Any, x: Tensor) -> Tensor:
        x = own.first(x.flatten(1))
        return 1e-6 * (x + own.head(x))

    cut, why = find_cut(Steps(walk, first=nn.Linear(12, 8), head=nn.Linear(8, 8)).eval(), torch.randn(3, 3, 2, 2))
    assert cut is None
    assert "head learns first" in why


def test_statistics_that_a_try_moved_are_put_back() -> None:
    model = Steps(lambda own, x: own.head(own.norm(own.first(x.flatten(1)))), first=nn.Linear(12, 8), norm=nn.BatchNorm1d(8), head=nn.Linear(8, 2)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    cut, _ = find_cut(model, torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert cut is None, "statistics of a batch are others in training"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_weight_of_no_module_that_learns_is_named() -> None:
    model = Steps(lambda own, x: own.scale * own.head(own.first(x.flatten(1))), first=nn.Linear(12, 8), head=nn.Linear(8, 2)).eval()
    model.scale = nn.Parameter(torch.ones(()))
    cut, why = find_cut(model, torch.randn(3, 3, 2, 2))
    assert cut is None
    assert why == "a weight that the network uses by itself learns, outside of its modules"


def test_what_learns_does_not_drown_what_goes_by_it() -> None:
    """With other weights of what learns, however small, nothing is seen of the way around it; with its own, which are zero, all is."""

    class Drowned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.first, self.mix, self.norm = nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 8, bias=False), nn.LayerNorm(8)
            nn.init.zeros_(self.mix.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(self.flat(x))
            return self.norm(x + 1e8 * self.mix(x))  # type: ignore[no-any-return]

    model = Drowned().requires_grad_(False)
    model.mix.requires_grad_(True)
    cut, why = find_cut(model, torch.randn(3, 3, 2, 2))
    assert cut is None
    assert "mix learns first" in why


def test_what_is_kept_is_what_comes_to_the_cut(photographs: Path, tmp_path: Path) -> None:
    recipe = frozen(photographs)
    fit(recipe, tmp_path / "run", quiet=True, features=tmp_path / "kept")
    (file,) = (tmp_path / "kept").glob("*.npy")
    kept, about = np.load(file), json.loads(file.with_suffix(".json").read_text())
    assert about["below"] == "blocks.4"
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle).eval()
    for split in (bundle.train, bundle.val):
        for index, (path, _) in enumerate(split.files):  # type: ignore[attr-defined]
            row = about["images"][hashlib.sha256(path.read_bytes()).hexdigest()]
            with torch.no_grad():
                # by hand, as timm's forward_features goes
                x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(split[index][0][None]))))
                x = model.blocks[:4](x)
            assert torch.allclose(torch.from_numpy(kept[row]), x[0], atol=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_a_batch_at_once_is_the_batch_of_its_samples(own: bool, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a task that collates in a way of its own is asked."""
    recipe = frozen(photographs)
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle)
    kept, _ = kept_features(model, bundle, recipe, tmp_path)

    class Own(Classification):
        def collate(self, samples: Any) -> tuple[Any, Any]:
            assert isinstance(samples, list)
            return super().collate(samples)

    recipe = replace(recipe, task=Own() if own else Classification())
    stream = BatchStream(recipe, kept, model, Accelerator(cpu=True), tmp_path, {})
    order = Order(len(kept.train), recipe.batch_size, recipe.seed)
    calls, real = [], FeatureSplit.batch

    def counted(self: FeatureSplit, indices: list[int]) -> tuple[Tensor, Tensor]:
        calls.append(indices)
        return real(self, indices)

    monkeypatch.setattr(FeatureSplit, "batch", counted)
    batches = stream.batches(0)
    for step in range(3):
        inputs, targets = next(batches)
        want = default_collate([kept.train[index] for _, index in order.batch(step)])
        assert torch.equal(inputs, want[0])
        assert torch.equal(targets, want[1])
    assert bool(calls) is not own


def test_a_run_is_what_it_is_without(photographs: Path, tmp_path: Path) -> None:
    recipe = frozen(photographs, ema=0.5)
    plain = fit(recipe, tmp_path / "plain", quiet=True)
    kept = fit(recipe, tmp_path / "kept", quiet=True, features=tmp_path / "features")
    assert kept["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    losses = [[entry["train_loss"] for entry in read_history(tmp_path / run / "history.jsonl")] for run in ("plain", "kept")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    from safetensors.torch import load_file

    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("plain", "kept"))
    assert list(one) == list(other)
    assert all(torch.allclose(value, other[name], atol=1e-4) for name, value in one.items())


def test_seeds_share_a_file_and_other_images_or_weights_do_not(photographs: Path, tmp_path: Path) -> None:
    def files() -> int:
        return len(list((tmp_path / "kept").glob("*.npy")))

    recipe = replace(frozen(photographs, attention=None, where="*", freeze="all-but-head"), steps=1)
    same = replace(recipe, data=replace(recipe.data, seed=1))  # type: ignore[type-var]
    counts = []
    for number, one in enumerate((recipe, same, replace(recipe, seed=1), replace(recipe, data=replace(recipe.data, crop_pct=0.5)))):  # type: ignore[type-var]
        fit(one, tmp_path / str(number), quiet=True, features=tmp_path / "kept")
        counts.append(files())
    # another seed makes other random weights, which stand for pretrained ones here
    assert counts == [1, 1, 2, 3]


def test_it_is_said_where_the_backbone_runs_at_every_step(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(replace(frozen(photographs, augment="light"), steps=1), tmp_path / "run", features=tmp_path / "kept")
    assert "runs at every step: training images vary" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("kept/*.npy"))


def test_a_run_that_was_stopped_ends_as_if_it_had_not(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = frozen(photographs)
    whole = fit(recipe, tmp_path / "whole", quiet=True, features=tmp_path / "kept")
    saw: Callable[..., None] = Early.saw

    def stop(self: Early, *args: object) -> None:
        saw(self, *args)
        if args[0]["step"] == 2:  # type: ignore[index]
            raise KeyboardInterrupt

    recipe = replace(recipe, checkpoint_every=1)
    monkeypatch.setattr(Early, "saw", stop)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        fit(recipe, tmp_path / "parts", quiet=True, features=tmp_path / "kept")
    monkeypatch.setattr(Early, "saw", saw)
    assert fit(recipe, tmp_path / "parts", resume=True, quiet=True, features=tmp_path / "kept") == whole
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_damaged_file_is_named(photographs: Path, tmp_path: Path) -> None:
    recipe = replace(frozen(photographs), steps=1)
    fit(recipe, tmp_path / "one", quiet=True, features=tmp_path / "kept")
    (file,) = (tmp_path / "kept").glob("*.npy")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{file.name} is damaged.*it is made again"):
        fit(recipe, tmp_path / "two", quiet=True, features=tmp_path / "kept")
