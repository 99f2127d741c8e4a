"""Scores of parts against a double loop; the two recipes in miniature; what no network without mixing can learn."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal import InputError
from foveal.lab.data import SolidPairs, Solids
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import PartSegmentation, PointClassification
from foveal.lab.tasks.points import PartScores
from foveal.lab.training import build_model, evaluate, fit, load_data, load_run, read_json
from foveal.models import PartTransformer, PointTransformer, PointwiseParts
from tests.tasks.contract import RunContract


def scores_by_loops(logits: torch.Tensor, shapes: torch.Tensor, truth: torch.Tensor, parts_of: list[list[int]], restrict: bool) -> tuple[float, float, float]:
    by_class: dict[int, list[float]] = {}
    right = []
    for cloud, shape, parts in zip(logits.tolist(), shapes.tolist(), truth.tolist(), strict=True):
        among = parts_of[shape] if restrict else range(len(cloud[0]))
        found = [max(among, key=lambda k: (point[k], -k)) for point in cloud]
        ious = []
        for part in parts_of[shape]:
            both = sum(f == part and t == part for f, t in zip(found, parts, strict=True))
            either = sum(f == part or t == part for f, t in zip(found, parts, strict=True))
            ious.append(both / either if either else 1.0)
        by_class.setdefault(shape, []).append(sum(ious) / len(ious))
        right.append(sum(f == t for f, t in zip(found, parts, strict=True)) / len(parts))
    every = [iou for ious in by_class.values() for iou in ious]
    classes = [sum(ious) / len(ious) for ious in by_class.values()]
    return sum(every) / len(every), sum(classes) / len(classes), sum(right) / len(right)


@pytest.mark.parametrize("restrict", [True, False])
def test_scores_are_those_of_loops(restrict) -> None:
    parts_of = [[0, 1], [2, 3, 4], [5]]
    allowed = torch.zeros(4, 6, dtype=torch.bool)  # a fourth class that never comes
    for shape, parts in enumerate([*parts_of, [0]]):
        allowed[shape, parts] = True
    generator = torch.Generator().manual_seed(0)
    metric, batches = PartScores(allowed, restrict=restrict), []
    for size in (3, 5, 1):
        logits, shapes = torch.randn(size, 11, 6, generator=generator), torch.randint(3, (size,), generator=generator)
        truth = torch.stack([torch.tensor(parts_of[s])[torch.randint(len(parts_of[s]), (11,), generator=generator)] for s in shapes.tolist()])
        truth[0] = parts_of[shapes[0]][0]  # some parts are absent
        metric.update(logits, shapes, truth)
        batches.append((logits, shapes, truth))
    want = scores_by_loops(*(torch.cat(column) for column in zip(*batches, strict=True)), parts_of, restrict)
    got = metric.compute()
    assert (got["instance_miou"].item(), got["class_miou"].item(), got["accuracy"].item()) == pytest.approx(want)


def test_a_part_that_is_neither_there_nor_predicted_counts_one() -> None:
    metric = PartScores(torch.tensor([[True, True, False]]), restrict=True)
    logits = torch.tensor([[[5.0, 0.0, 9.0]] * 4])
    metric.update(logits, torch.tensor([0]), torch.zeros(1, 4, dtype=torch.long))
    assert metric.compute()["instance_miou"].item() == 1.0
    free = PartScores(torch.tensor([[True, True, False]]), restrict=False)
    free.update(logits, torch.tensor([0]), torch.zeros(1, 4, dtype=torch.long))
    assert free.compute()["instance_miou"].item() == pytest.approx(0.5), "all points went to another class's part; the absent one still counts one"


class TestRuns(RunContract):
    recipe = replace(
        get_recipe("solid-pairs"),
        data=SolidPairs(train_clouds=12, val_clouds=4, test_clouds=5, num_points=32),
        model=PointwiseParts(width=8, attention="external"),
        steps=4,
        eval_every=2,
        checkpoint_every=2,
        batch_size=4,
    )


SMALL = {"train_clouds": 12, "val_clouds": 4, "test_clouds": 5, "num_points": 32}


@pytest.mark.parametrize(
    ("name", "data", "model"),
    [
        ("solids", Solids(**SMALL), PointTransformer(width=4, npoints=(16, 8), neighbors=4)),
        ("solids", Solids(**SMALL, normals=False), PointTransformer(width=4, grouping=False, attention="denoising")),
        ("solid-pairs", SolidPairs(**SMALL), PointwiseParts(width=8, attention="external")),
        ("solid-pairs", SolidPairs(**SMALL), PartTransformer(width=4, attention="softmax")),
    ],
)
def test_a_run_from_data_to_metrics(name, data, model, tmp_path: Path) -> None:
    recipe = replace(get_recipe(name), data=data, model=model, steps=3, eval_every=3, checkpoint_every=3, batch_size=4)
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert metrics[recipe.task.primary_metric.name] == read_json(tmp_path / "run" / "metrics.json")[recipe.task.primary_metric.name]
    recipe, bundle, network = load_run(tmp_path / "run")
    again = evaluate(network, bundle.test, recipe, bundle)
    assert again[recipe.task.primary_metric.name] == pytest.approx(metrics[recipe.task.primary_metric.name])
    samples = [bundle.test[n] for n in range(2)]
    rows = recipe.task.draw_truth(samples, bundle) + recipe.task.shown(network, samples, bundle)
    assert all(cell.picture.shape[-1] == 3 and cell.picture.std() > 1 for row in rows for cell in row.cells)
    cost = recipe.task.cost(network, bundle)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.macs > 0


def test_multiply_adds_of_a_layer_by_hand() -> None:
    """Three layers without mixing at 8 channels: an embedding, one map each, a fusion of 24 to 16, a head."""
    recipe = replace(get_recipe("solid-pairs"), data=SolidPairs(**SMALL), model=PointwiseParts(width=8, attention="none"))
    bundle = load_data(recipe.data)
    assert recipe.task.cost(build_model(recipe, bundle), bundle).macs == 32 * (6 * 8 + 3 * 8 * 8 + 24 * 16 + 16 * 8)


@pytest.mark.parametrize("attention", ["none", "pointwise", "external-slot"])
def test_without_mixing_a_point_knows_nothing_of_the_other_solid(attention) -> None:
    """The logits of one solid's points do not change with the other: a theorem, so exactly. Batch norm in evaluation mode."""
    arms = PointwiseParts(width=8).arms()
    network = arms[attention].model.build(in_channels=6, num_classes=8, num_shapes=1).double().eval()
    cloud = torch.randn(1, 20, 6, dtype=torch.float64)
    other = cloud.clone()
    other[:, 10:] += 3
    assert torch.equal(network(cloud)[:, :10], network(other)[:, :10])
    mixing = arms["external"].model.build(in_channels=6, num_classes=8, num_shapes=1).double().eval()
    assert not torch.allclose(mixing(cloud)[:, :10], mixing(other)[:, :10])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PointClassification(mixup=0.2), "mixup and cutmix are of images"),
        (lambda: PartSegmentation(label_smoothing=1.0), "label_smoothing"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, says) -> None:
    with pytest.raises(InputError, match=says):
        make()
