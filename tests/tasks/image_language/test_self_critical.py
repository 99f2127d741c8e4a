"""Self-critical training: the loss by hand, what it makes of a network that says something already, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch

from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.tasks import SelfCritical
from foveal.lab.training import Recipe, build_model, evaluate, fit, load_data, load_run
from foveal.models.image_language import greedy_search, sample_words
from tests.tasks.image_language.test_metrics import slow_cider

RECIPE = smoke(get_recipe("scene-captions"), steps=4, batch_size=8)


def plain(words: torch.Tensor) -> list[int]:
    return [word for word in words.tolist() if word != -100]


@pytest.fixture(scope="module")
def started():
    """A network that has read some captions."""
    bundle = load_data(RECIPE.data)
    model = build_model(replace(RECIPE, model=replace(RECIPE.model, dropout=0.0)), bundle)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    inputs, targets = RECIPE.task.collate([bundle.train[n] for n in range(16)])
    torch.manual_seed(0)
    for _ in range(40):
        loss, _ = RECIPE.task.step(model.train(), model, inputs, targets, bundle)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return bundle, model, inputs, targets


@pytest.mark.parametrize("critic", ["others", "greedy"])
def test_the_loss_is_the_formula(critic, started) -> None:
    bundle, model, inputs, targets = started
    task = SelfCritical(samples=3, critic=critic)
    torch.manual_seed(1)
    loss, reported = task.step(model.train(), model, inputs, targets, bundle)
    assert model.training
    torch.manual_seed(1)
    drawn = sample_words(model.eval(), inputs, length=model.length, times=3).words
    greedy = greedy_search(model, inputs, length=model.length).words
    # by the end, too, a caption is told from one that goes on
    every = [[plain(row) for row in bundle.train[n][1]["references"]] for n in range(len(bundle.train))]
    total, worth, better = 0.0, 0.0, 0
    for sample, target in enumerate(targets):
        references = [plain(row) for row in target["references"]]
        rewards = [slow_cider(plain(drawn[3 * sample + n]), references, every) for n in range(3)]
        one = {name: value[sample : sample + 1] for name, value in inputs.items()}
        for n, reward in enumerate(rewards):
            base = slow_cider(plain(greedy[sample]), references, every) if critic == "greedy" else (sum(rewards) - reward) / 2
            words = drawn[3 * sample + n][None]
            found = model(one, words).log_softmax(-1)[0]
            total -= (reward - base) * float(sum(found[place, word] for place, word in enumerate(plain(words[0]))).detach()) / 48
            worth += reward / 3
            better += reward > base
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)
    assert float(reported["reward"]) == pytest.approx(worth, rel=1e-4)
    assert float(reported["better"]) == pytest.approx(better / 3)
    assert float(reported["length"]) == pytest.approx(float((drawn != -100).sum()) / 3)
    loss.backward()
    model.zero_grad()


def test_rewards_grow(started) -> None:
    bundle, model, inputs, targets = started
    task, before = SelfCritical(), {name: value.clone() for name, value in model.state_dict().items()}
    optimizer, course = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    torch.manual_seed(0)
    for _ in range(25):
        loss, reported = task.step(model.train(), model, inputs, targets, bundle)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(float(reported["reward"]) / 16)
    model.load_state_dict(before)
    assert sum(course[-5:]) > 1.25 * sum(course[:5])


def test_a_run_begins_with_the_weights_of_another(tmp_path) -> None:
    words = replace(RECIPE, steps=1)
    fit(words, tmp_path / "words", quiet=True)
    model = replace(RECIPE.model, start=tmp_path / "words")
    recipe = replace(words, model=model, task=SelfCritical(samples=2, beams=1), optim=replace(RECIPE.optim, lr=1e-9, min_lr=1e-10))
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    metrics = fit(recipe, tmp_path / "rewarded", quiet=True)
    _, bundle, began = load_run(tmp_path / "words")
    assert metrics["cider"] == pytest.approx(evaluate(began, bundle.test, recipe, bundle)["cider"])
    assert {"train_reward", "train_length", "train_better"} <= set(json.loads((tmp_path / "rewarded" / "history.jsonl").read_text().splitlines()[0]))
    wider = replace(recipe, model=replace(model, width=16))
    with pytest.raises(ValueError, match=r"words.*another network"):
        fit(wider, tmp_path / "wider", quiet=True)
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        fit(replace(recipe, model=replace(model, start=tmp_path)), tmp_path / "none", quiet=True)


def test_bad_settings_are_explained() -> None:
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        SelfCritical(samples=1)
    assert SelfCritical(samples=1, critic="greedy").samples == 1
    with pytest.raises(ValueError, match="temperature"):
        SelfCritical(temperature=0.0)
