"""The loop against a training loop written out by hand, and what it does with input that it cannot use."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from foveal import InputError, fit_dictionaries_
from foveal.lab.data import ImageFolder, seed_of
from foveal.lab.tasks import Classification
from foveal.lab.training import (
    Interrupted,
    Optim,
    Recipe,
    build_model,
    evaluate,
    fit,
    latest_checkpoint,
    load_data,
    load_run,
    opening,
    optimizing,
    read_checkpoint,
)
from foveal.models import ViT
from tests.training.helpers import SCENES, assert_same_weights, everything, tiny, weights

PLAIN = tiny(model=ViT(attention="denoising"))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Linear maps decay; biases, norms, λ, positions and the class token do not."""
    free = {"cls_token", "pos_embed"}
    groups = {True: [], False: []}
    for name, value in model.named_parameters():
        groups[value.ndim > 1 and name not in free].append(value)
    return torch.optim.AdamW([{"params": groups[True], "weight_decay": 0.05}, {"params": groups[False], "weight_decay": 0.0}], lr=1.0)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Unlike AdamW it notices a gradient that is a multiple of what it should be."""
    return torch.optim.SGD(model.parameters(), lr=0.1)


def by_hand(recipe: Recipe, make_optimizer=adamw) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """Weights, their average, and the loss of each step."""
    bundle = load_data(recipe.data)
    model, length = build_model(recipe, bundle), len(bundle.train)
    optimizer, average, losses = make_optimizer(model), {}, []
    walk = torch.cat([torch.randperm(length, generator=torch.Generator().manual_seed(seed_of(recipe.seed, "order", epoch))) for epoch in range(9)])
    lr, low = recipe.optim.lr, recipe.optim.min_lr
    for step in range(recipe.steps):
        warm = round(recipe.optim.warmup * recipe.steps)
        now = low + (lr - low) * (step / warm if step < warm else (1 + math.cos(math.pi * step / recipe.steps)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = now
        chosen = walk[step * recipe.batch_size : (step + 1) * recipe.batch_size].tolist()
        images, labels = torch.stack([bundle.train[i][0] for i in chosen]), torch.tensor([bundle.train[i][1] for i in chosen])
        loss = F.cross_entropy(model.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if recipe.optim.clip_grad is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_grad)
        optimizer.step()
        losses.append(loss.item())
        # timm's average copies in its first two updates
        decay = 0 if step < 2 else recipe.optim.ema or 0
        average = {name: (1 - decay) * value.clone() + decay * average.get(name, 0) for name, value in model.state_dict().items()}
    return model.state_dict(), average, losses


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("plain") / "run"
    fit(PLAIN, run, quiet=True)
    return run


def test_the_loop_is_the_one_written_by_hand(plain) -> None:
    raw, average, losses = by_hand(PLAIN)
    assert_close(weights(plain), average, 1e-5)
    saved = read_checkpoint(latest_checkpoint(plain), PLAIN.to_dict())
    assert_close(saved["weights"], raw, 1e-5)
    assert_close(saved["ema"], average, 1e-5)
    assert (raw["head.weight"] - average["head.weight"]).abs().max() > 1e-4, "or the average would go untested"
    entries = history(plain)
    assert [entry["step"] for entry in entries] == [3, 6, 8]
    for entry, window in zip(entries, (losses[:3], losses[3:6], losses[6:]), strict=True):
        assert entry["train_loss"] == pytest.approx(sum(window) / len(window), rel=1e-5)


def test_metrics_are_those_of_the_averaged_weights_on_the_test_split(plain) -> None:
    recipe, bundle, model = load_run(plain)
    assert recipe == PLAIN
    assert not model.training
    images, labels = (torch.stack([torch.as_tensor(bundle.test[i][part]) for i in range(len(bundle.test))]) for part in (0, 1))
    with torch.no_grad():
        logits = model(images)
    right = logits.argmax(-1) == labels
    metrics = json.loads((plain / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(right.float().mean().item())
    assert metrics["class_accuracy"] == pytest.approx(torch.stack([right[labels == label].float().mean() for label in labels.unique()]).mean().item())
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert (metrics["split"], metrics["step"], metrics["parameters"]) == ("test", 8, sum(p.numel() for p in model.parameters()))
    assert evaluate(model, bundle.test, recipe, bundle) == {name: metrics[name] for name in ("accuracy", "class_accuracy", "loss")}


@pytest.mark.parametrize(
    ("optim", "want"),
    [
        (Optim(lr=1.0, min_lr=0.0, schedule="poly", power=0.9, warmup=0.0), [(1 - n / 8) ** 0.9 for n in range(8)]),
        (Optim(lr=1.0, min_lr=0.0, schedule="steps", milestones=(0.5, 0.75), warmup=0.0), [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Optim(lr=1.0, min_lr=0.0, schedule="steps", milestones=(0.5, 0.75), factor=0.2, warmup=0.0), [1, 1, 1, 1, 0.2, 0.2, 0.04, 0.04]),
        (Optim(lr=1.0, min_lr=0.0, schedule="steps", milestones=(0.5,), warmup=0.25), [0, 0.5, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        (
            Optim(lr=1.0, min_lr=0.1, warmup=0.25, warmup_lr=0.5, cooldown=0.25),
            [0.5, 0.75, *(0.1 + 0.9 * (1 + math.cos(math.pi * n / 6)) / 2 for n in range(2, 6)), 0.1, 0.1],
        ),
    ],
)
def test_learning_rates_are_what_the_schedule_says(optim, want) -> None:
    recipe = replace(PLAIN, optim=optim)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, got = optimizing.make_schedule(optimizer, recipe), []
    for step in range(recipe.steps):
        schedule.step_update(step)
        got.append(optimizer.param_groups[0]["lr"])
    assert got == pytest.approx(want)


def test_sgd_is_plain_momentum() -> None:
    model = nn.Linear(3, 2)
    optimizer = optimizing.make_optimizer(model, replace(PLAIN, optim=Optim(optimizer="sgd", momentum=0.8)))
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.8, False)


@pytest.mark.parametrize(
    ("optim", "kind", "settings"),
    [
        (Optim(optimizer="sgd", nesterov=True), "SGD", {"nesterov": True, "momentum": 0.9}),
        (Optim(optimizer="lamb", betas=(0.8, 0.99)), "Lamb", {"betas": (0.8, 0.99)}),
    ],
)
def test_other_optimizers(optim, kind, settings) -> None:
    optimizer = optimizing.make_optimizer(nn.Linear(3, 2), replace(PLAIN, optim=optim))
    assert type(optimizer).__name__ == kind
    assert settings.items() <= optimizer.defaults.items()


@pytest.mark.parametrize("decay_all", [False, True])
def test_what_decays(decay_all) -> None:
    model = ViT(attention="denoising").build(img_size=16, in_chans=1, num_classes=10)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = optimizing.make_optimizer(model, replace(PLAIN, optim=Optim(decay_all=decay_all)))
    spared = {names[id(parameter)] for group in optimizer.param_groups if group["weight_decay"] == 0 for parameter in group["params"]}
    if decay_all:
        assert not spared
    else:
        assert {"pos_embed", "cls_token", "blocks.0.attn.lambdas", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.bias"} <= spared
        assert "blocks.0.attn.qkv.weight" not in spared
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_accumulated_gradients_are_those_of_the_large_batch(accumulate, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(optimizing, "create_optimizer_v2", lambda groups, *a, **k: torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.1))
    recipe = replace(PLAIN, optim=Optim(lr=0.1, clip_grad=0.5, accumulate=accumulate), steps=4)
    fit(recipe, tmp_path / "run", quiet=True)
    assert_close(weights(tmp_path / "run"), by_hand(recipe, sgd)[0], 1e-5)


def test_training_learns(tmp_path) -> None:
    """Ten digits can be known by heart."""
    data = replace(SCENES, train_scenes=10, cells=1, distractors=0)
    model = ViT(attention="denoising", patch_size=2)
    recipe = replace(PLAIN, data=data, model=model, optim=Optim(lr=4e-3), steps=60, batch_size=10, eval_every=60, checkpoint_every=60)
    fit(recipe, tmp_path / "run", quiet=True)
    _, bundle, model = load_run(tmp_path / "run")
    assert evaluate(model, bundle.train, recipe, bundle)["accuracy"] >= 0.9


def test_dictionaries_of_clusters_are_fitted_before_the_first_step(tmp_path) -> None:
    """To the tokens of the whole training set, layer by layer. A run whose step is next to nothing shows what it began with."""
    model = ViT(attention="cross_sample", options={"dictionary_size": 7, "init": "kmeans"})
    recipe = tiny(model=model, steps=1, optim=Optim(lr=1e-12, min_lr=0.0, warmup=0.0))
    fit(recipe, tmp_path / "run", quiet=True)
    bundle = load_data(recipe.data)
    want = build_model(recipe, bundle)
    fit_dictionaries_(want, [torch.stack([image for image, _ in bundle.train])], seed=recipe.seed)
    assert_close(weights(tmp_path / "run"), want.state_dict(), 1e-5)
    _, _, loaded = load_run(tmp_path / "run")
    assert loaded(torch.stack([bundle.test[0][0]])).isfinite().all()


@pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 0.5}, {"mixup": 0.5, "cutmix": 0.5}])
def test_mixed_labels_say_what_is_in_the_mixed_images(mixing) -> None:
    """One image of ones among zeros: after mixing, how bright an image is must be how much of its label is of class 3."""
    task, seen = Classification(**mixing), set()
    for _ in range(20):
        images, labels = torch.zeros(6, 1, 16, 16), torch.zeros(6, dtype=torch.int64)
        images[2], labels[2] = 1, 3
        mixed, targets = task.mix(images, labels, 10)
        assert targets.shape == (6, 10)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets[:, 3], atol=1e-6, rtol=0)
        seen.add("cutmix" if mixed.unique().numel() <= 2 else "mixup")
    assert seen >= set(mixing), "each batch draws one of them"


def test_without_mixing_nothing_is_drawn() -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    state = torch.random.get_rng_state()
    mixed, targets = Classification().mix(images, labels, 10)
    assert mixed is images
    assert targets is labels
    assert torch.equal(torch.random.get_rng_state(), state)


def test_label_smoothing_and_overlap_are_in_the_loss() -> None:
    model = build_model(PLAIN, load_data(SCENES))
    logits, labels = torch.randn(5, 10, dtype=torch.float64).float(), torch.tensor([1, 2, 3, 4, 5])
    smooth = torch.full((5, 10), 0.02)
    smooth[torch.arange(5), labels] += 0.8
    want = -(smooth * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(Classification(label_smoothing=0.2).loss(model, logits, labels), want)
    from foveal.analysis import value_overlap

    torch.testing.assert_close(Classification(label_smoothing=0.2, overlap_weight=3.0).loss(model, logits, labels), want + 3 * value_overlap(model))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path) -> None:
    recipe = replace(PLAIN, optim=Optim(lr=1e25, clip_grad=None, warmup=0.0))
    with pytest.raises(InputError, match=r"the loss became nan by step 3; lower --optim\.lr"):
        fit(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_bf16_trains(tmp_path) -> None:
    recipe = replace(PLAIN, precision="bf16", steps=2)
    fit(recipe, tmp_path / "run", quiet=True)
    got, exact = weights(tmp_path / "run"), by_hand(recipe)[1]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in got.values())
    assert any(not torch.equal(got[name], exact[name]) for name in exact), "it would be float32 under another name"


def test_workers_change_nothing(tmp_path) -> None:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for n in range(5):
            pixels = torch.randint(0, 255, (20, 24, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(tmp_path / "data" / label / f"{n}.png")
    recipe = tiny(data=ImageFolder(root=tmp_path / "data", img_size=16), steps=3, batch_size=4)
    for workers in (0, 2):
        fit(replace(recipe, workers=workers), tmp_path / str(workers), quiet=True)
    assert_same_weights(weights(tmp_path / "2"), weights(tmp_path / "0"))


def test_tensorboard_is_written(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(replace(PLAIN, steps=2, eval_every=1, trackers=("tensorboard",)), tmp_path / "run", quiet=True)
    events = EventAccumulator(str(next((tmp_path / "run").rglob("events.out.*")).parent)).Reload()
    logged = {name: [event.value for event in events.Scalars(name)] for name in ("train_loss", "val_accuracy")}
    for name, values in logged.items():
        assert values == pytest.approx([entry[name] for entry in history(tmp_path / "run")])


def test_a_folder_with_a_run_is_refused(plain) -> None:
    with pytest.raises(InputError, match=r"holds a run already; continue it with --resume"):
        fit(PLAIN, plain, quiet=True)


def test_resuming_with_another_recipe_is_refused(plain) -> None:
    before = (plain / "recipe.json").read_bytes()
    with pytest.raises(InputError, match="another recipe"):
        fit(replace(PLAIN, seed=5), plain, resume=True, quiet=True)
    assert (plain / "recipe.json").read_bytes() == before


def _class(folder: Path, value: int) -> None:
    folder.mkdir(parents=True)
    for n in range(6):
        Image.new("RGB", (16, 16), (value + n,) * 3).save(folder / f"{n}.png")


@pytest.mark.parametrize("recorded", [True, False])
def test_data_that_got_other_classes_since_are_named(recorded, tmp_path) -> None:
    """By whatever reads what was trained: evaluation, and going on. As many classes of other names would pass for the old ones."""
    root = tmp_path / "images"
    _class(root / "dark", 20)
    _class(root / "light", 200)
    recipe = replace(tiny(), data=ImageFolder(root=str(root), img_size=16), steps=2, batch_size=4, eval_every=2, checkpoint_every=1)
    fit(recipe, tmp_path / "run", quiet=True)
    (tmp_path / "cut" / "checkpoints").mkdir(parents=True)
    for name in ("recipe.json", "classes.json"):
        shutil.copy(tmp_path / "run" / name, tmp_path / "cut")
        if not recorded and name == "classes.json":
            # a run of before classes were written down
            for run in ("run", "cut"):
                (tmp_path / run / name).unlink()
    last = latest_checkpoint(tmp_path / "run")
    assert last is not None
    shutil.copytree(last, tmp_path / "cut" / "checkpoints" / last.name)
    load_run(tmp_path / "run")

    _class(root / "middle", 100)
    load_data.cache_clear()
    said = "its data must have the classes that they had in training"
    with pytest.raises(
        InputError,
        match="3 now, number 2 being none then and 'middle' now" if recorded else rf"(?s)model\.safetensors holds weights of another network; {said}: .*head",
    ):
        load_run(tmp_path / "run")
    with pytest.raises(InputError, match=said if recorded else rf"(?s)step-00000002 holds weights of another network; {said}: .*head"):
        fit(recipe, tmp_path / "cut", resume=True, quiet=True)

    if recorded:
        shutil.rmtree(root / "light")
        load_data.cache_clear()
        with pytest.raises(InputError, match="2 classes and its data have 2 now, number 1 being 'light' then and 'middle' now"):
            load_run(tmp_path / "run")
        with pytest.raises(InputError, match=said):
            fit(recipe, tmp_path / "cut", resume=True, quiet=True)
        (tmp_path / "run" / "classes.json").write_text("3")
        with pytest.raises(InputError, match=r"classes\.json is damaged: expected a list"):
            load_run(tmp_path / "run")


def test_no_run_and_an_unfinished_run_are_named(tmp_path, plain) -> None:
    with pytest.raises(InputError, match=r"is no run: it has no recipe\.json"):
        load_run(tmp_path)
    (tmp_path / "recipe.json").write_bytes((plain / "recipe.json").read_bytes())
    with pytest.raises(InputError, match="has not finished; go on with: foveal train --resume"):
        load_run(tmp_path)


def test_an_interruption_travels_between_processes(tmp_path) -> None:
    import pickle

    back = pickle.loads(pickle.dumps(Interrupted(tmp_path, 7)))
    assert (back.run, back.step, str(back)) == (tmp_path, 7, str(Interrupted(tmp_path, 7)))


# -- many processes -------------------------------------------------------------------------------------------------------------------------------


def launch(processes: int, recipe: Recipe, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    recipe_file = run.with_suffix(".json")
    recipe_file.write_text(json.dumps(recipe.to_dict()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*launcher, "-m", "tests.training.many", str(recipe_file), str(run), *options],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_train_to_the_same_loss_as_one(tmp_path) -> None:
    """With plain gradient descent, whose steps show a gradient that is summed where it should be averaged."""
    recipe = replace(PLAIN, optim=Optim(lr=0.1, clip_grad=0.5, accumulate=2, ema=0.9), steps=5)
    done = launch(2, recipe, tmp_path / "two", "--sgd")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_close(weights(tmp_path / "two"), by_hand(recipe, sgd)[1], 1e-4)
    losses = by_hand(recipe, sgd)[2]
    entries = history(tmp_path / "two")
    assert [entry["step"] for entry in entries] == [3, 5], "one process writes"
    assert [entry["train_loss"] for entry in entries] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 2], rel=1e-4), "of all processes"
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle)
    model.load_state_dict(weights(tmp_path / "two"))
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert {name: metrics[name] for name in ("accuracy", "loss")} == pytest.approx(
        {name: value for name, value in evaluate(model.eval(), bundle.test, recipe, bundle).items() if name != "class_accuracy"}, rel=1e-5
    )


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(tmp_path) -> None:
    """One of them is told to stop; both save at the same step, the next at which they ask each other: the checkpoint's at the latest."""
    for run, options in (("whole", []), ("stopped", ["--stop-rank-1-at", "3"])):
        done = launch(2, everything(), tmp_path / run, *options)
        assert (done.returncode == 0) == (run == "whole"), done.stderr[-3000:]
    assert latest_checkpoint(tmp_path / "stopped") in [tmp_path / "stopped" / "checkpoints" / f"step-0000000{step}" for step in (3, 4)]
    done = launch(2, everything(), tmp_path / "stopped")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, monkeypatch) -> None:
    class Two(opening.Accelerator):
        num_processes = 5

    monkeypatch.setattr(opening, "Accelerator", Two)
    with pytest.raises(InputError, match="batch_size 12 cannot be shared by 5 processes"):
        fit(PLAIN, tmp_path / "run", quiet=True)
