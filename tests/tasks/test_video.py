"""Video classification: views against a loop, the number runs are judged by, and runs from data to pictures."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from foveal import InputError
from foveal.cli import main
from foveal.lab.compare import make_plan
from foveal.lab.compare.look import drawn_truth, look
from foveal.lab.data import MovingDigits, VideoBundle, VideoFolder
from foveal.lab.tasks import Classification, VideoClassification
from foveal.lab.training import Optim, Recipe, build_model, evaluate, fit, load_data, load_run, read_json
from foveal.models import ViT
from foveal.timm import VideoTransformer
from tests.tasks.contract import RunContract

DATA = MovingDigits(source="digits", side=24, digit=8, num_frames=3, step=(2, 4), train_clips=40, val_clips=9, test_clips=11)
RECIPE = Recipe(
    data=DATA,
    model=VideoTransformer(attention="denoising", embed_dim=24, depth=2, num_heads=2, patch_size=8),
    task=VideoClassification(),
    optim=Optim(lr=2e-3, ema=0.9),
    steps=6,
    batch_size=8,
    eval_every=3,
    checkpoint_every=3,
    trackers=(),
)


class Fixed(nn.Module):
    """Logits that are a fixed function of each clip."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * 3 * 4 * 4, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.ndim == 5
        return 3 * x.flatten(1) @ self.weight


def test_views_are_averaged_as_probabilities() -> None:
    model, task = Fixed().eval(), VideoClassification()
    clips = torch.randn(6, 3, 2, 3, 4, 4)
    got = task.predict(model, clips)
    for video, logits in zip(clips, got, strict=True):
        mean = sum(model(view[None])[0].softmax(-1) for view in video) / 3
        torch.testing.assert_close(logits.softmax(-1), mean)
        torch.testing.assert_close(logits.exp(), mean)
    assert torch.equal(task.predict(model, clips[:, 0]), model(clips[:, 0]))
    # which is not what averaged logits say
    assert not torch.allclose(got.softmax(-1), model(clips.flatten(0, 1)).unflatten(0, (6, 3)).mean(1).softmax(-1))


def test_metrics_count_videos_and_not_views() -> None:
    task, bundle = VideoClassification(), DATA.load()
    metrics = task.metrics(bundle)
    logits = torch.randn(2, 8).log_softmax(-1)
    task.update(metrics, logits, torch.tensor([int(logits[0].argmax()), int(logits[1].argmin())]))
    got = task.summarize(metrics, bundle)
    assert got["accuracy"] == 0.5
    assert got["loss"] == pytest.approx(-(logits[0].max() + logits[1].min()).item() / 2)


def test_a_run_is_judged_by_what_the_task_says() -> None:
    assert VideoClassification().primary_metric.name == "accuracy"
    judged = VideoClassification(judged_by="class_accuracy")
    assert (judged.primary_metric.name, judged.primary_metric.label) == ("class_accuracy", "mean accuracy of classes")
    bundle = DATA.load()
    metrics = judged.metrics(bundle)
    # three videos of one class are right, the one of another is wrong
    judged.update(metrics, torch.eye(8)[[0, 0, 0, 0]], torch.tensor([0, 0, 0, 1]))
    got = judged.summarize(metrics, bundle)
    assert (got["accuracy"], got["class_accuracy"]) == (0.75, 0.5)
    recipe = replace(RECIPE, task=judged)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("task", [VideoClassification(mixup=0.4), VideoClassification(cutmix=1.0)])
def test_frames_are_mixed_alike(task) -> None:
    torch.manual_seed(1)
    clips = torch.stack([torch.full((1, 4, 8, 8), float(n)) for n in range(4)])
    mixed, labels = task.mix(clips, torch.arange(4), 4)
    assert type(mixed) is torch.Tensor
    assert mixed.shape == clips.shape
    assert not torch.equal(mixed, clips)
    assert torch.equal(mixed, mixed[:, :, :1].expand_as(mixed)), "every frame as the first"
    torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), labels @ torch.arange(4.0))


def test_videos_and_images_do_not_meet() -> None:
    for change in ({"model": ViT()}, {"task": Classification()}):
        with pytest.raises(InputError, match="must be made for the same targets, but MovingDigits has actions"):
            replace(RECIPE, **change)


def test_three_views_of_real_files_are_evaluated(tmp_path) -> None:
    data = VideoFolder(root=tmp_path).smoke_data()
    recipe = replace(RECIPE, data=data, model=replace(RECIPE.model, patch_size=16), steps=2, eval_every=2, checkpoint_every=2)
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    recipe, bundle, model = load_run(tmp_path / "run")
    right = 0
    with torch.no_grad():
        for index in range(len(bundle.test)):
            views, label = bundle.test[index]
            right += int(sum(model(view[None]).softmax(-1) for view in views).argmax()) == label
    assert metrics["accuracy"] == pytest.approx(right / len(bundle.test))


def test_cost_is_of_all_frames() -> None:
    bundle, task = DATA.load(), VideoClassification()
    model = RECIPE.model.build(**task.model_kwargs(bundle))
    longer = replace(DATA, num_frames=6).load()
    twice = RECIPE.model.build(**task.model_kwargs(longer))
    assert 1.9 < task.cost(twice, longer).macs / task.cost(model, bundle).macs < 2.1
    assert task.chance(bundle) == 1 / 8


def test_a_comparison_shows_frames_and_predictions() -> None:
    plan = make_plan(RECIPE, ("denoising", "denoising-time"), seeds=1)
    assert [arm.name for arm in plan.arms] == ["softmax", "denoising", "denoising-time"]
    bundle = load_data(DATA)
    assert [len(row["cells"]) for row in drawn_truth(RECIPE, bundle)] == [3] * 6
    for arm in plan.arms:
        recipe = plan.run_recipe(arm, 0)
        model = build_model(recipe, bundle).eval()
        seen = look(recipe, model, model, bundle)
        (row,) = seen["drawn"]
        for index, cell in enumerate(row["cells"]):
            clip, label = bundle.test[index]
            best = int(model(clip[None]).argmax())
            assert (cell["caption"], cell["wrong"]) == (bundle.classes[best], best != label)
        assert bool(seen["lambdas"]) == ("denoising" in arm.name)
        assert not seen["pictures"], "maps of many frames are not shown as one"


# -- a run ----------------------------------------------------------------------------------------------------------------------------------------


class TestVideoRun(RunContract):
    recipe = RECIPE

    def test_metrics_are_those_of_the_test_split(self, run) -> None:
        metrics = read_json(run / "metrics.json")
        assert metrics["split"] == "test"
        recipe, bundle, model = load_run(run)
        assert isinstance(bundle, VideoBundle)
        assert evaluate(model, bundle.test, recipe, bundle)["accuracy"] == pytest.approx(metrics["accuracy"])
        hits = sum(int(model(clip[None]).argmax()) == label for clip, label in (bundle.test[n] for n in range(len(bundle.test))))
        assert metrics["accuracy"] == pytest.approx(hits / len(bundle.test))

    def test_a_single_image_is_refused_on_the_command_line(self, run, tmp_path, capsys) -> None:
        Image.new("RGB", (24, 24)).save(tmp_path / "image.png")
        assert main(["inspect", str(run), str(tmp_path / "image.png")]) == 2
        assert "is a picture, and run takes videos" in capsys.readouterr().err
        assert main(["eval", str(run)]) == 0


# -- that time is learned -------------------------------------------------------------------------------------------------------------------------


def learn(data: MovingDigits, steps: int, *, attention_type: str = "divided_space_time", shuffled: bool = False) -> tuple[float, float]:
    """Accuracy on training and test clips after some steps, with their frames in order, or in an order drawn anew for each clip and step."""
    torch.manual_seed(0)
    bundle = data.load()
    train, test = (
        tuple(torch.stack([torch.as_tensor(part) for part in parts]) for parts in zip(*(split[n] for n in range(len(split))), strict=True))
        for split in (bundle.train, bundle.test)
    )
    task = VideoClassification()
    settings = VideoTransformer(embed_dim=48, depth=2, num_heads=4, patch_size=data.digit // 2, attention_type=attention_type, time_std=0.5)
    net = settings.build(**task.model_kwargs(bundle))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)

    def seen(clips: torch.Tensor) -> torch.Tensor:
        if not shuffled:
            return clips
        orders = torch.rand(len(clips), clips.shape[2]).argsort(1)
        return torch.stack([clip[:, order] for clip, order in zip(clips, orders, strict=True)])

    for _ in range(steps):
        chosen = torch.randperm(len(train[0]))[:64]
        loss, _ = task.step(net, net, seen(train[0][chosen]), train[1][chosen], bundle)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        accuracies = [float((task.predict(net, seen(clips)).argmax(-1) == labels).float().mean()) for clips, labels in (train, test)]
    return accuracies[0], accuracies[1]


SIMPLE = MovingDigits(source="digits", side=16, digit=8, num_frames=4, step=(1, 2), distractors=0, noise=0.05, train_clips=8000, val_clips=1, test_clips=400)


def test_a_small_timesformer_learns_clips_by_heart() -> None:
    few = replace(DATA, digit=16, step=(3, 4), distractors=0, noise=0.0, train_clips=32, test_clips=1)
    assert learn(few, 130)[0] >= 0.95


@pytest.mark.slow
def test_a_direction_is_learned_from_the_order_of_frames_alone() -> None:
    assert learn(SIMPLE, 800)[1] > 0.65
    # frames without their order leave a direction and its opposite alike
    assert learn(SIMPLE, 800, shuffled=True)[1] < 0.55
    # frames that do not meet before they are averaged leave chance, 12.5 %
    assert learn(SIMPLE, 800, attention_type="space_only")[1] < 0.25
