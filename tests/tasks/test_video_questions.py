"""Questions about clips: what a clip shows, what the tower made of it, answers by greedy words, controls, and runs from data to pictures."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from foveal.lab.compare import make_plan
from foveal.lab.data import ClipQuestions
from foveal.lab.data.video_language.clip_questions import KINDS
from foveal.lab.recipes import get_recipe
from foveal.lab.training import build_model, evaluate, fit, load_data, load_run
from foveal.models import VideoLanguage
from foveal.models.video_language import read_tower
from tests.attention.contract import assert_close

pytest.importorskip("transformers")
DATA = ClipQuestions(train_clips=24, val_clips=6, test_clips=12, tower_steps=2, kinds=("dim", "bright", "direction", "dim direction"))
RECIPE = replace(get_recipe("clip-questions"), data=DATA, steps=4, batch_size=8, eval_every=2, checkpoint_every=4, trackers=())


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def digits() -> tuple[np.ndarray, np.ndarray]:
    """A digit is a plain square of its own brightness, which tells it."""
    return np.stack([np.full((8, 8), 255 - 10 * n, np.uint8) for n in range(10)]), np.arange(10)


def test_a_clip_shows_what_its_answer_says() -> None:
    """Read off the pixels: which square is which digit at which level, and where it goes."""
    data, seen = replace(DATA, noise=0.0), []
    ring = [(0, 0), (0, 1), (1, 1), (1, 0)]
    for index in range(400):
        frames, kind, answer = data.compose("train", index, *digits())
        cells = [[int(frame[8 * row, 8 * column]) for row, column in ring] for frame in frames]
        assert all(sum(value > 0 for value in frame) == 2 for frame in cells), "the two never stand in one cell"
        bright, dim = sorted({value for frame in cells for value in frame if value}, reverse=True)
        ways = {}
        for name, value in (("bright", bright), ("dim", dim)):
            steps = {(b.index(value) - a.index(value)) % 4 for a, b in itertools.pairwise(cells)}
            assert len(steps) == 1
            ways[name] = {1: 0, 3: 1}[steps.pop()]
        named = {"bright": round((255 - bright) / 10), "dim": round((255 - dim / 0.6) / 10)}
        want = {"dim": named["dim"], "bright": named["bright"], "direction": ways["bright"], "dim direction": ways["dim"]}[data.kinds[kind]]
        assert answer == want
        seen.append((data.kinds[kind], answer))
    for kind, (_, answers) in KINDS.items():
        own = [answer for name, answer in seen if name == kind]
        assert len(own) == 100
        most = max(own.count(answer) for answer in range(len(answers)))
        chance = 1 / len(answers)
        assert most / 100 < chance + 4 * (chance * (1 - chance) / 100) ** 0.5, "a question alone says nothing"


def test_features_are_what_the_tower_makes_and_are_made_once(monkeypatch) -> None:
    bundle = DATA.load()
    inputs, _ = bundle.test[3]
    want = torch.stack(read_tower(bundle.tower, inputs["clip"]).layers)
    assert_close(inputs["layers"], want, 1e-5, "features")
    assert not any(value.requires_grad for value in bundle.tower.parameters())
    monkeypatch.setattr("foveal.lab.data.video_language._tower._train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("foveal.lab.data.video_language._tower.read_tower", lambda *_: pytest.fail("run again"))
    again = DATA.load()
    assert torch.equal(again.test[3][0]["layers"], inputs["layers"])
    with pytest.raises(pytest.fail.Exception, match="run again"):
        replace(DATA, train_clips=25).load()


def test_a_damaged_cache_is_explained() -> None:
    from foveal.lab.data import cache_folder

    data = replace(DATA, test_clips=13)
    before = set((cache_folder() / "clip-questions").glob("features-test-*.npy"))
    data.load()
    (path,) = set((cache_folder() / "clip-questions").glob("features-test-*.npy")) - before
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{path.name}.*remove it"):
        data.load()
    path.unlink()


def network(**settings: object) -> tuple:
    bundle = load_data(DATA)
    recipe = replace(RECIPE, model=VideoLanguage(**settings))
    return bundle, build_model(recipe, bundle).eval(), recipe.task.collate([bundle.test[n] for n in range(12)])


ARMS = sorted(VideoLanguage().arms())


@pytest.mark.parametrize("name", ARMS)
def test_greedy_words_are_those_that_the_loss_looks_at(name) -> None:
    """Word for word with the answer in front of it, by the likeliest of each place: right are the same samples."""
    bundle = load_data(DATA)
    model = build_model(replace(RECIPE, model=VideoLanguage().arms()[name].model), bundle).eval()
    inputs, targets = RECIPE.task.collate([bundle.test[n] for n in range(12)])
    said = model.answer(inputs)
    forced = ((model(inputs, targets[:, 1:]).argmax(-1) == targets[:, 1:]) | (targets[:, 1:] == -100)).all(1)
    assert torch.equal(forced, (said == targets[:, 1:]).all(1))
    # untrained, it says words that stand for vectors, which nobody can put in front of it again
    plain = ~torch.isin(said, torch.tensor([bundle.words.index("<video>"), bundle.words.index("<probe>")])).any(1)
    said, inputs = said[plain], {key: value[plain] for key, value in inputs.items()}
    if len(said):
        logits = model(inputs, said.clamp_min(0))
        assert torch.equal(logits.argmax(-1)[said != -100], said[said != -100])


def test_probes_without_time_are_blind_to_the_order_and_with_it_not() -> None:
    changes = []
    for time in (False, True):
        _, model, (inputs, targets) = network(time=time)
        turned = inputs | {"layers": inputs["layers"].flip(2)}
        changes.append((model(turned, targets[:, 1:]) - model(inputs, targets[:, 1:])).abs().max())
    assert changes[0] < 1e-5
    assert changes[1] > 50 * changes[0]


def test_controls_reorder_frames_and_nothing_else() -> None:
    bundle = load_data(DATA)
    assert set(bundle.probes) == {"shuffled", "reversed"}
    changed = 0
    for index in range(12):
        (plain, target), (turned, same) = bundle.test[index], bundle.probes["reversed"][index]
        assert torch.equal(turned["clip"], plain["clip"].flip(0))
        assert torch.equal(turned["layers"], plain["layers"].flip(1))
        assert torch.equal(same, target)
        mixed, _ = bundle.probes["shuffled"][index]
        assert sorted(frame.sum().item() for frame in mixed["clip"]) == sorted(frame.sum().item() for frame in plain["clip"])
        changed += not torch.equal(mixed["clip"], plain["clip"])
    assert changed > 5


def test_shares_are_counted_by_kind() -> None:
    bundle = load_data(DATA)
    task, targets = RECIPE.task, torch.stack([bundle.test[n][1] for n in range(12)])
    said = targets[:, 1:].clone()
    said[targets[:, 0] == 1] = -100
    said[0] = -100
    metrics = task.metrics(bundle)
    for part in (slice(0, 5), slice(5, 12)):
        task.update(metrics, (said[part], torch.tensor(0.5 if part.start else 0.0)), targets[part])
    found = task.summarize(metrics, bundle)
    assert (found["dim"], found["bright"], found["direction"]) == pytest.approx((2 / 3, 0, 1))
    assert found["exact_match"] == pytest.approx((2 / 3 + 0 + 1 + 1) / 4)
    assert found["similarity"] == pytest.approx(0.5 * 7 / 12)
    assert task.chance(bundle) == pytest.approx((0.1 + 0.1 + 0.5 + 0.5) / 4)


@pytest.mark.parametrize(("settings", "trained"), [({}, True), ({"train_probes": False}, False)])
def test_every_trainable_parameter_moves_and_the_omission_can_be_had(settings, trained) -> None:
    bundle, model, (inputs, targets) = network(**settings)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0)
    loss, _ = RECIPE.task.step(model.train(), model, inputs, targets, bundle)
    loss.backward()
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    # a bias of keys is the same for all tokens, and softmax does not see it; it moves with those of queries and values in one parameter
    assert moved == {name for name, value in model.named_parameters() if value.requires_grad}
    assert ("video.probes.probes" in moved) == trained
    assert not any(name.startswith("video.tower.") for name in moved)


@pytest.mark.parametrize("name", ["denoising", "question-only", "softmax-published"])
def test_a_run_from_data_to_pictures(name, tmp_path) -> None:
    recipe = replace(RECIPE, model=VideoLanguage().arms()[name].model)
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    shown = {"answers.png", "probes.png"} if name != "question-only" else {"answers.png"}
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == shown
    assert {"exact_match", "dim", "shuffled_exact_match", "reversed_dim_direction"} <= set(metrics)
    assert ("similarity" in metrics) == (name != "question-only")
    _, bundle, model = load_run(tmp_path / "run")
    assert evaluate(model, bundle.test, recipe, bundle)["exact_match"] == metrics["exact_match"]
    truth, said = RECIPE.task.draw_truth([bundle.test[0]], bundle), RECIPE.task.shown(model, [bundle.test[0]], bundle)
    assert truth[0].cells[0].caption.startswith("dim: ")
    assert said[0].cells[0].wrong == (said[0].cells[0].caption != truth[0].cells[0].caption.partition(": ")[2])


def test_arms_differ_by_what_they_say() -> None:
    arms, bundle = VideoLanguage().arms(), load_data(DATA)
    count = {name: sum(value.numel() for value in build_model(replace(RECIPE, model=arm.model), bundle).parameters()) for name, arm in arms.items()}
    # 4 λ a module and nothing more
    assert count["denoising"] - count["softmax-wide"] == pytest.approx(0, abs=3 * 300)
    plan = make_plan(RECIPE)
    shared = build_model(plan.run_recipe(next(arm for arm in plan.arms if arm.name == "softmax-published"), 0), bundle)
    assert shared.video.probes.probes.std() < 0.1, "lent by a baseline of its own form"
    assert RECIPE.task.primary_metric.name == "exact_match"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kinds": ("dmi",)}, "did you mean dim"),
        ({"kinds": ()}, "expected kinds of questions"),
        ({"kinds": ("dim", "dim")}, "each once"),
        ({"dim_level": 1.0}, "dim_level"),
        ({"num_frames": 0}, "num_frames"),
        ({"cell": 2}, "cell"),
    ],
)
def test_bad_sets_are_explained(change, says) -> None:
    with pytest.raises(ValueError, match=says):
        replace(DATA, **change)


def test_bad_networks_are_explained() -> None:
    with pytest.raises(ValueError, match="num_probes is 0"):
        network(num_probes=0, time=True)
    bundle, model, (inputs, targets) = network()
    outside = targets[:, 1:].clone()
    outside[0, 0] = len(bundle.words)
    with pytest.raises(ValueError, match=rf"answers have the word {len(bundle.words)}.*{len(bundle.words)} words"):
        model(inputs, outside)
    with pytest.raises(ValueError, match="without frames"):
        model(inputs | {"layers": inputs["layers"][:, :, :0]}, targets[:, 1:])
