"""CaaM through the loop, against a training written out by hand; stopped around a new partition; on two processes."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal import InputError
from foveal.lab.data import ContextedDigits, seed_of
from foveal.lab.tasks import CausalLearning, Classification, Partition, learn_partition, random_partition
from foveal.lab.tasks.causal_learning import EnvironmentWalk, names_of
from foveal.lab.tasks.environments import complement_logits
from foveal.lab.training import (
    Diverged,
    Interrupted,
    Optim,
    Recipe,
    build_model,
    fit,
    latest_checkpoint,
    load_data,
    load_run,
    loop,
    optimizing,
    read_checkpoint,
    reference_partition,
)
from foveal.models import ViT
from foveal.timm import TimmModel
from tests.training.helpers import assert_same_weights, weights
from tests.training.test_loop import launch

SCENES = ContextedDigits(source="digits", side=16, digit=8, train_scenes=60, val_scenes=10, test_scenes=30)
NET = TimmModel(name="fov_caam_resnet18", options={"widths": [4, 6], "depths": [1, 1], "stem": False, "split_stage": 1, "reduction": 2, "num_environments": 2})
RECIPE = Recipe(
    data=SCENES,
    model=NET,
    task=CausalLearning(environments=2, lam_rel=3.0, partition_at=(0.5,), partition_epochs=5),
    optim=Optim(optimizer="sgd", lr=0.05, min_lr=0.05, warmup=0.0, clip_grad=None),
    steps=6,
    batch_size=16,
    eval_every=6,
    checkpoint_every=6,
    trackers=(),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    fit(RECIPE, run, quiet=True)
    return run


# -- the order -----------------------------------------------------------------------------------------------------------------------------------


def test_each_environment_gives_as_many_samples_and_small_ones_repeat() -> None:
    environments = torch.tensor([0] * 21 + [1] * 3 + [2] * 8)
    walk = EnvironmentWalk(environments, 3, batch_size=24, seed=0)
    # the largest environment decides that an epoch has ⌈21 / 4⌉ steps
    epoch = [walk.batch(step) for step in range(6)]
    for batch in epoch:
        assert Counter(environment for *_, environment in batch) == {0: 4, 1: 4, 2: 4, -1: 12}
        assert all(environment in (-1, environments[index]) for _, index, environment in batch)
    drawn = {e: Counter(index for batch in epoch for _, index, own in batch if own == e) for e in (0, 1, 2, -1)}
    assert set(drawn[0]) == set(range(21))
    assert set(drawn[0].values()) == {1, 2}
    assert all(count == 8 for count in drawn[1].values())
    assert set(drawn[1]) == {21, 22, 23}
    assert set(drawn[-1]) == set(range(32)), "of all data, 72 draws go round 32 samples"
    assert max(drawn[-1].values()) - min(drawn[-1].values()) == 1
    draws = [(number, index) for batch in epoch for number, index, _ in batch]
    assert len(set(draws)) == len(draws), "a repeated sample is augmented anew"
    assert [walk.batch(step) for step in range(6, 12)] != epoch, "the next epoch is another"


def test_every_piece_of_a_batch_has_the_same_shares_and_any_step_can_be_first() -> None:
    environments = torch.arange(40) % 4
    batch = EnvironmentWalk(environments, 4, 32, seed=3).batch(17)
    for piece in (batch[:16], batch[16:], *(batch[n : n + 8] for n in (0, 8, 16, 24))):
        counts = Counter(environment for *_, environment in piece)
        assert counts[-1] == len(piece) // 2
        assert {counts[e] for e in range(4)} == {len(piece) // 8}


def test_an_environment_without_samples_is_left_out() -> None:
    walk = EnvironmentWalk(torch.tensor([0, 0, 2, 2, 2]), 3, batch_size=12, seed=0)
    assert Counter(environment for *_, environment in walk.batch(4)) == {0: 2, 2: 2, -1: 4}


def test_a_batch_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(InputError, match="expected batch_size a multiple of 8, got 12"):
        EnvironmentWalk(torch.arange(8) % 4, 4, 12, seed=0)


# -- the training --------------------------------------------------------------------------------------------------------------------------------


def gathered(bundle, indices: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    pairs = [bundle.train[i] for i in indices]
    return torch.stack([image for image, _ in pairs]).to(dtype), torch.tensor([label for _, label in pairs])


def loss_of(model: nn.Module, bundle, batch: list[tuple[int, ...]], lam_rel: float) -> Tensor:
    """Released form: mean_e CE(W_e c, y) + λ_rel K C mean_e (‖W_e − W̄‖ / ‖W_e‖₁)² + CE(W_x u + b, y), each part through the network by itself."""
    heads, risks = model.head, []
    dtype = heads.weight.dtype
    present = sorted({environment for *_, environment in batch} - {-1})
    for e in present:
        images, labels = gathered(bundle, [index for _, index, own in batch if own == e], dtype)
        risks.append(F.cross_entropy(model.streams(images).causal @ heads.weight[e].T, labels))
    images, labels = gathered(bundle, [index for _, index, own in batch if own == -1], dtype)
    mixed = F.cross_entropy(model.streams(images).mixture @ heads.mixture.weight.T + heads.mixture.bias, labels)
    apart = [((w - heads.weight.mean(0)).norm() / w.abs().sum()) ** 2 for w in heads.weight]
    return sum(risks) / len(risks) + lam_rel * heads.weight[0].numel() * sum(apart) / len(apart) + mixed


def by_hand(recipe: Recipe) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights, and the environments of both halves of the run. In float32: rounding can move a sample that two environments want equally."""
    bundle = load_data(recipe.data)
    model, names, halves = build_model(recipe, bundle), names_of(bundle.train), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    decayed = {id(p) for p in model.parameters() if p.ndim > 1}
    labels = torch.tensor([bundle.train[i][1] for i in range(len(names))])
    for step in range(recipe.steps):
        if step in (0, 3):
            seed = seed_of(recipe.seed, "renew", step)
            if step:
                torch.manual_seed(seed)
                with torch.no_grad():
                    complement = model.eval().streams(gathered(bundle, list(range(len(names))), torch.float32)[0]).complement
                logits = complement_logits(complement, labels, 10)
                partition, _ = learn_partition(logits, labels, names, 2, epochs=5, min_size=3, seed=seed)
            else:
                partition = random_partition(names, 2, seed=seed)
            halves.append(partition.of(names))
            walk = EnvironmentWalk(halves[-1], 2, recipe.batch_size, recipe.seed)
        loss = loss_of(model.train(), bundle, walk.batch(step), recipe.task.lam_rel)
        optimizer.zero_grad()
        loss.backward()
        for p in model.parameters():
            if id(p) in decayed:
                p.grad += recipe.optim.weight_decay * p.detach()
        optimizer.step()
    return model.state_dict(), halves[0], halves[1]


def test_the_loop_is_the_one_written_by_hand(whole) -> None:
    want, first, second = by_hand(RECIPE)
    assert not torch.equal(first, second), "or a partition that is never renewed would pass"
    bundle = load_data(RECIPE.data)
    written = Partition.load(whole / "environments.json").of(names_of(bundle.train))
    assert torch.equal(written, second)
    got = weights(whole)
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    begun = build_model(RECIPE, bundle).state_dict()
    assert (begun["head.weight"] - got["head.weight"]).abs().max() > 1e-2


def test_a_step_is_the_formula_in_float64() -> None:
    bundle = load_data(RECIPE.data)
    model = build_model(RECIPE, bundle).double().eval()
    task, batch = replace(RECIPE.task, lam_rel=7.0), EnvironmentWalk(torch.arange(60) % 2, 2, 16, seed=1).batch(5)
    inputs, targets = task.collate([(bundle.train[index][0].double(), bundle.train[index][1], environment) for _, index, environment in batch])
    loss, running = task.step(model, task.trained(model), inputs, targets, bundle)
    assert loss.item() == pytest.approx(loss_of(model, bundle, batch, 7.0).item(), rel=1e-10)
    images, labels = gathered(bundle, [index for _, index, _ in batch])
    assert running["accuracy"].item() == (model(images).argmax(-1) == labels).sum().item()


def test_each_environment_has_batch_statistics_of_its_own() -> None:
    bundle = load_data(RECIPE.data)
    model, seen = build_model(RECIPE, bundle).train(), []
    model.trunk.stem.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    batch = EnvironmentWalk(torch.arange(60) % 2, 2, 16, seed=1).batch(0)
    inputs, targets = RECIPE.task.collate([(*bundle.train[index], environment) for _, index, environment in batch])
    RECIPE.task.step(model, RECIPE.task.trained(model), inputs, targets, bundle)
    assert seen == [4, 4, 8]


def test_mixup_mixes_the_images_of_all_data_alone() -> None:
    bundle, fed = load_data(RECIPE.data), []
    model, task = build_model(RECIPE, bundle).double().eval(), replace(RECIPE.task, mixup=1.0)
    batch = EnvironmentWalk(torch.arange(60) % 2, 2, 16, seed=1).batch(0)
    inputs, targets = task.collate([(bundle.train[index][0].double(), bundle.train[index][1], environment) for _, index, environment in batch])

    def forward(groups: list[Tensor]) -> list:
        fed.extend(groups)
        return task.trained(model)(groups)

    torch.manual_seed(0)
    loss, _ = task.step(model, forward, inputs, targets, bundle)
    assert all(torch.equal(fed[e], inputs[targets[:, 1] == e]) for e in (0, 1))
    assert not torch.equal(fed[2], inputs[targets[:, 1] == -1])
    assert loss.item() != pytest.approx(loss_of(model, bundle, batch, 3.0).item(), rel=1e-6)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_stopped_around_a_new_partition_goes_on_as_if_it_had_not_been(stop, whole, tmp_path, monkeypatch) -> None:
    import os
    import signal

    real, seen = loop.Progress.advance, [0]

    def advance(self, *arguments) -> None:
        real(self, *arguments)
        seen[0] += 1
        if seen[0] == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Progress, "advance", advance)
    with pytest.raises(Interrupted):
        fit(RECIPE, tmp_path / "run", quiet=True)
    assert latest_checkpoint(tmp_path / "run").name == f"step-0000000{stop}"
    before = (tmp_path / "run" / "environments.json").read_bytes()
    assert (before == (whole / "environments.json").read_bytes()) == (stop > 3), "at step 3 the next is learned, by the run that goes on"
    fit(RECIPE, tmp_path / "run", resume=True, quiet=True)
    assert_same_weights(weights(tmp_path / "run"), weights(whole))
    assert (tmp_path / "run" / "environments.json").read_bytes() == (whole / "environments.json").read_bytes()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())


def test_parts_of_the_test_make_up_the_test(whole) -> None:
    metrics, bundle = json.loads((whole / "metrics.json").read_text()), load_data(RECIPE.data)
    parts = {name: len(split) for name, split in bundle.probes.items() if name != "iid"}
    assert sum(parts.values()) == len(bundle.test)
    assert sum(metrics[f"{name}_accuracy"] * count for name, count in parts.items()) / len(bundle.test) == pytest.approx(metrics["accuracy"], abs=1e-6)
    assert 0 <= metrics["iid_accuracy"] <= 1


def test_two_processes_have_one_partition_and_train_as_one(tmp_path, monkeypatch) -> None:
    """On a network without batch norm, whose statistics would be of half the images."""
    model = TimmModel(name="test_fov_caam_t2t_vit", options={"num_environments": 2})
    recipe = replace(RECIPE, model=model, steps=4, eval_every=2, checkpoint_every=4)
    done = launch(2, recipe, tmp_path / "two", "--sgd")
    assert done.returncode == 0, done.stderr[-3000:]
    saved = read_checkpoint(latest_checkpoint(tmp_path / "two"), recipe.to_dict())
    written = Partition.load(tmp_path / "two" / "environments.json")
    assert torch.equal(saved["state"]["task"]["environments"], written.of(names_of(load_data(recipe.data).train)))
    monkeypatch.setattr(optimizing, "create_optimizer_v2", lambda groups, *a, **k: torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.1))
    fit(recipe, tmp_path / "one", quiet=True)
    losses = [[json.loads(line)["train_loss"] for line in (tmp_path / run / "history.jsonl").read_text().splitlines()] for run in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert written == Partition.load(tmp_path / "one" / "environments.json")
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-5)


def test_a_file_gives_the_first_environments(tmp_path) -> None:
    names = names_of(load_data(RECIPE.data).train)
    # the third environment has nothing, which must not stop anybody
    partition = Partition({name: (0, 1, 3)[n % 3] for n, name in enumerate(names)})
    partition.save(tmp_path / "first.json")
    task = CausalLearning(environments=4, first=str(tmp_path / "first.json"))
    model = replace(NET, options=NET.options | {"num_environments": 4})
    fit(replace(RECIPE, task=task, model=model, steps=2), tmp_path / "run", quiet=True)
    assert Partition.load(tmp_path / "run" / "environments.json") == partition
    with pytest.raises(InputError, match=r"has environments up to 3; give --task\.environments 4"):
        fit(replace(RECIPE, task=replace(task, environments=2)), tmp_path / "few", quiet=True)
    with pytest.raises(InputError, match=r"cannot read a partition from .*absent\.json"):
        fit(replace(RECIPE, task=replace(RECIPE.task, first=str(tmp_path / "absent.json"))), tmp_path / "absent", quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ViT()}, "trains networks with causal streams, such as fov_caam_resnet18, got VisionTransformer"),
        ({"model": replace(NET, options=NET.options | {"num_environments": 3})}, "heads for 3 environments, the task has 2"),
        ({"batch_size": 18}, "batch_size a multiple of 4, got 18"),
        ({"repeats": 2}, "leave repeats at 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        fit(replace(RECIPE, **changes), tmp_path / "run", quiet=True)


def test_micro_batches_that_break_the_shares_are_refused(tmp_path) -> None:
    optim = replace(RECIPE.optim, accumulate=8)
    with pytest.raises(InputError, match="equally many images of each environment"):
        fit(replace(RECIPE, optim=optim), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    "settings", [{"environments": 0}, {"lam_rel": -1.0}, {"partition_at": (1.0,)}, {"environments": 1, "partition_at": (0.5,)}, {"min_share": 1.5}]
)
def test_settings_that_make_no_training_are_refused(settings) -> None:
    with pytest.raises(InputError):
        CausalLearning(**settings)


# -- environments of a reference -----------------------------------------------------------------------------------------------------------------


def test_an_ordinary_run_gives_the_first_environments(tmp_path, capsys) -> None:
    """Those that its logits on the training set make, by name."""
    erm = replace(RECIPE, task=Classification(), steps=2)
    fit(erm, tmp_path / "erm", quiet=True)
    reference_partition(tmp_path / "erm", 2).save(tmp_path / "first.json")
    _, bundle, model = load_run(tmp_path / "erm")
    images, labels = gathered(bundle, list(range(60)), torch.float32)
    with torch.no_grad():
        want, _ = learn_partition(model(images), labels, names_of(bundle.train), 2, min_size=3)
    written = Partition.load(tmp_path / "first.json")
    assert written == want
    fit(replace(RECIPE, task=CausalLearning(environments=2, first=str(tmp_path / "first.json")), steps=1), tmp_path / "run", quiet=True)
    assert Partition.load(tmp_path / "run" / "environments.json") == want
    with pytest.raises(InputError, match="is no run"):
        reference_partition(tmp_path / "none")


@pytest.mark.parametrize("lr", [1e30, 1e12])
def test_no_partition_is_learned_of_spoilt_weights(lr, tmp_path) -> None:
    """With the step and the rate, as of any run; and before the partition asks for logits."""
    recipe = replace(RECIPE, optim=replace(RECIPE.optim, lr=lr, min_lr=lr), eval_every=6, checkpoint_every=6)
    with pytest.raises(Diverged, match=r"by step 3; lower --optim\.lr|after step 3; lower --optim\.lr"):
        fit(recipe, tmp_path, quiet=True)
    assert not (tmp_path / "metrics.json").exists()
