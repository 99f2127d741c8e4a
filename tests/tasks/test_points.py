"""Scores of parts against a double loop; the two recipes in miniature; what no network without mixing can learn; voting, rotations and pictures of runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal import InputError
from foveal.cli import main
from foveal.lab.data import SolidPairs, Solids
from foveal.lab.data.points.augment import random_factors, scaled
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import PartSegmentation, PointClassification
from foveal.lab.tasks._point_report import first_of_each
from foveal.lab.tasks.points import PartScores
from foveal.lab.training import build_model, evaluate, fit, load_data, load_run, read_json
from foveal.models import PartTransformer, PointTransformer, PointwiseParts
from foveal.models.points.maps import point_attention
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


def test_classes_and_confusions_are_counted_beside_the_means() -> None:
    """Against loops; of a class without clouds nothing is said."""
    allowed = torch.tensor([[True, True, False], [False, True, True], [True, False, True]])
    metric, generator = PartScores(allowed, restrict=True), torch.Generator().manual_seed(1)
    logits, shapes = torch.randn(7, 5, 3, generator=generator), torch.tensor([0, 1, 0, 1, 1, 0, 0])
    truth = torch.tensor([[0, 1], [1, 2]])[shapes].repeat(1, 3)[:, :5]
    metric.update(logits[:4], shapes[:4], truth[:4])
    metric.update(logits[4:], shapes[4:], truth[4:])
    got = metric.compute()
    for shape in (0, 1):
        own = shapes == shape
        want, _, _ = scores_by_loops(logits[own], shapes[own], truth[own], [[0, 1], [1, 2], [0, 2]], True)
        assert got["by_shape"][shape].item() == pytest.approx(want)
    assert got["by_shape"][2].isnan()
    counts = [[0] * 3 for _ in range(3)]
    for cloud, shape, parts in zip(logits.tolist(), shapes.tolist(), truth.tolist(), strict=True):
        for point, part in zip(cloud, parts, strict=True):
            counts[part][max(([0, 1], [1, 2])[shape], key=lambda k, point=point: point[k])] += 1
    assert got["confusion"].tolist() == counts


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


class Stretched(torch.nn.Module):
    """Answers by the extent of a cloud, so that a stretched copy is answered otherwise."""

    def forward(self, x: torch.Tensor, shape: torch.Tensor | None = None) -> torch.Tensor:
        extents = x[..., :3].abs().amax(1)
        return extents if shape is None else extents.unsqueeze(1) * x[..., :3].abs()


def test_votes_are_means_of_probabilities_over_stretched_copies() -> None:
    cloud = torch.rand(4, 9, 6, dtype=torch.float64)
    task, model = PointClassification(votes=3), Stretched()
    assert torch.equal(PointClassification().predict(model, cloud), model(cloud)), "one vote is no voting, to the last bit"
    factors = [torch.ones(3)]
    from foveal.lab.data import seed_of

    factors += [random_factors((2 / 3, 3 / 2), generator=torch.Generator().manual_seed(seed_of("vote", n))) for n in (1, 2)]
    assert not torch.allclose(factors[1], factors[2], atol=0.01)
    want = torch.stack([model(scaled(cloud, one.double())).softmax(-1) for one in factors]).mean(0)
    torch.testing.assert_close(task.predict(model, cloud).softmax(-1).double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(task.predict(model, cloud[1:3]), task.predict(model, cloud)[1:3], msg="whatever the batch is")
    assert task.primary_metric.label == "accuracy, 3 votes"
    assert PointClassification().primary_metric.label == "accuracy"
    shape = torch.zeros(4, dtype=torch.long)
    assert torch.equal(PartSegmentation(votes=1).predict(model, (cloud, shape))[0], model(cloud, shape))
    parts = PartSegmentation(votes=2)
    logits, shapes = parts.predict(model, (cloud, torch.zeros(4, dtype=torch.long)))
    factor = random_factors((0.7, 1.4), generator=torch.Generator().manual_seed(seed_of("vote", 1))).double()
    want = (model(cloud, shapes).softmax(-1) + model(scaled(cloud, factor), shapes).softmax(-1)) / 2
    torch.testing.assert_close(logits.softmax(-1).double(), want, rtol=1e-5, atol=1e-6)
    assert parts.primary_metric.label == "instance mIoU among the class's parts, 2 votes"
    assert PartSegmentation(restrict=False, judged_by="class_miou").primary_metric.label == "class mIoU among all parts"


def test_votes_turn_about_the_axis_that_points_up() -> None:
    bundle = Solids(**SMALL).load()
    task = PointClassification(votes=2, vote_rotation="z", vote_up_axis="y")
    with pytest.raises(InputError, match="give vote_up_axis z"):
        task.metrics(bundle)
    right = replace(task, vote_up_axis="z")
    right.metrics(bundle)
    cloud, seen = torch.rand(1, 5, 3), []
    right.predict(lambda points: seen.append(points) or points[:, 0], cloud)
    low, high = seen[1][..., 2] / cloud[..., 2], seen[1][..., 0] / cloud[..., 0]
    assert torch.allclose(low, low[0, 0].expand_as(low), atol=1e-5), "heights are stretched"
    assert not torch.allclose(high, high[0, 0].expand_as(high), atol=1e-2), "the rest is turned too"


def test_a_network_that_chooses_more_points_than_clouds_have_is_refused_before_training(tmp_path) -> None:
    for model, says in (
        (PointTransformer(npoints=(64, 16), neighbors=4), "among 32 points of a cloud"),
        (PointTransformer(npoints=(16, 8), neighbors=40), "40 neighbors each are to be chosen among 32"),
        (PointTransformer(npoints=(16, 8), neighbors=20), "among 16 first samples"),
    ):
        recipe = replace(get_recipe("solids"), data=Solids(**SMALL), model=replace(model, width=4), steps=2, batch_size=4)
        with pytest.raises(InputError, match=says):
            fit(recipe, tmp_path / "run", quiet=True)
        assert not (tmp_path / "run" / "history.jsonl").exists()
    PointTransformer(grouping=False, width=4).build(in_channels=6, num_classes=2, num_points=2)


@pytest.mark.parametrize("attention", ["offset", "softmax", "external", "denoising", "none"])
def test_maps_of_points_are_those_that_the_layers_used(attention) -> None:
    network = PointwiseParts(width=8, attention=attention, num_heads=2).build(in_channels=6, num_classes=4, num_shapes=1).double().train()
    cloud = torch.randn(2, 11, 6, dtype=torch.float64)
    looks = point_attention(network, cloud, torch.zeros(2, dtype=torch.long))
    assert network.training, "it is left as it was"
    assert not network.layers[0]._forward_pre_hooks
    assert [look.name for look in looks] == ["layers.0", "layers.1", "layers.2"]
    if attention == "none":
        assert not any(look.maps for look in looks)
        return
    assert torch.equal(looks[0].xyz, cloud[..., :3])
    for look in looks:
        torch.testing.assert_close(look.maps["combined"].shape, torch.Size([2, 2 if attention in ("softmax", "denoising") else 1, 11, 11]))
    if attention == "external":
        assert looks[0].maps["slots"].shape[-2:] == (11, 64)
    if attention == "offset":
        network.eval()
        x = network.embed(cloud.mT)
        mix = network.layers[0].mix
        # what a point gathers is its row of the map times the values
        torch.testing.assert_close(looks[0].maps["combined"][:, 0] @ mix.v(x).mT, mix(x).mT)


def test_maps_after_sampling_are_of_the_sampled_points() -> None:
    network = PointTransformer(width=4, npoints=(16, 8), neighbors=4, attention="softmax").build(in_channels=3, num_classes=4)
    cloud = torch.randn(2, 32, 3)
    looks = point_attention(network, cloud)
    assert len(looks) == 4
    assert looks[0].maps["combined"].shape[-1] == looks[0].xyz.shape[1] == 8
    inside = (looks[0].xyz[:, :, None] == cloud[:, None]).all(-1).any(-1)
    assert inside.all()
    assert torch.equal(looks[0].xyz[:, 0], cloud[:, 0]), "sampling begins with the first point"


@pytest.mark.parametrize(
    ("name", "data", "model", "files"),
    [
        ("solids", Solids(**SMALL), PointTransformer(width=4, npoints=(16, 8), neighbors=4, attention="offset"), {"attention", "clouds", "confusion"}),
        ("solid-pairs", SolidPairs(**SMALL), PointwiseParts(width=8, attention="external"), {"attention", "clouds", "confusion", "slots"}),
        ("solid-pairs", SolidPairs(**SMALL), PointwiseParts(width=8, attention="none"), {"clouds", "confusion"}),
    ],
)
def test_a_finished_run_has_its_pictures(name, data, model, files, tmp_path, monkeypatch) -> None:
    recipe = replace(get_recipe(name), data=data, model=model, steps=1, eval_every=1, checkpoint_every=1, batch_size=4)
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {f"{file}.png" for file in files} | (
        {"attention.html"} if "attention" in files else set()
    )
    confusion = torch.tensor(metrics["confusion"])
    assert confusion.sum().item() == 5 * (1 if name == "solids" else 32)
    assert (confusion.diagonal().sum() / confusion.sum()).item() == pytest.approx(metrics["accuracy"], abs=1e-6)
    from PIL import Image

    for file in files:
        with Image.open(tmp_path / "run" / "report" / f"{file}.png") as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
    if name != "solids":
        return
    # what is not installed costs the pictures and nothing else
    monkeypatch.setattr("foveal._errors.find_spec", lambda module: None if module == "matplotlib" else object())
    notes = fit(recipe, tmp_path / "bare", quiet=True)["notes"]
    assert any("no pictures were drawn" in note and "foveal[compare]" in note for note in notes)
    assert (tmp_path / "bare" / "metrics.json").exists()
    assert not (tmp_path / "bare" / "report").exists()


def test_one_cloud_of_each_class_is_shown_first() -> None:
    assert first_of_each([2, 2, 0, 2, 1, 0], 4) == [0, 1, 2, 4]
    assert first_of_each([1, 1, 1], 2) == [0, 1]
    assert first_of_each([0, 1, 2, 3], 3) == [0, 1, 2]


def test_a_run_is_judged_under_other_settings_where_that_is_said(tmp_path, capsys) -> None:
    data = Solids(**SMALL, train_rotation="z", test_rotation="z")
    recipe = replace(get_recipe("solids"), data=data, model=PointTransformer(width=4, grouping=False), steps=2, eval_every=2, checkpoint_every=2, batch_size=4)
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert metrics["notes"] == ["rotations in training/test: z/z"]
    run = str(tmp_path / "run")
    assert main(["eval", run, "--task.votes", "2"]) == 2
    assert "say with --out where these numbers go" in capsys.readouterr().err
    assert main(["eval", "--task.votes", "2", run]) == 2
    assert "behind the run" in capsys.readouterr().err
    assert main(["eval", run, "--data.test-rotation", "so3", "--task.votes", "2", "--out", str(tmp_path / "so3")]) == 0
    assert read_json(tmp_path / "so3" / "settings.json") == {
        "data.test_rotation": {"here": "so3", "run": "z"},
        "task.votes": {"here": 2, "run": 1},
    }
    got = read_json(tmp_path / "so3" / "eval.json")["test"]
    task, turned = replace(recipe.task, votes=2), load_data(replace(data, test_rotation="so3"))
    _, _, network = load_run(tmp_path / "run")
    want = evaluate(network, turned.test, replace(recipe, task=task), turned)
    assert got["loss"] == pytest.approx(want["loss"])
    assert got["loss"] != pytest.approx(metrics["loss"])
    # the same as the run's own is the run's own
    assert main(["eval", run, "--task.votes", "1"]) == 0
    assert read_json(tmp_path / "run" / "eval.json")["test"]["loss"] == pytest.approx(metrics["loss"])


@pytest.mark.slow
def test_what_was_trained_upright_falls_where_clouds_are_turned_by_any_rotation(tmp_path) -> None:
    """z/z against z/SO3, and SO3/SO3 between: the known order."""
    data = Solids(num_points=64, train_rotation="z", test_rotation="z", train_clouds=1000, test_clouds=400, normals=False)
    model = PointTransformer(width=8, npoints=(32, 16), neighbors=8, attention="external")
    recipe = replace(get_recipe("solids"), data=data, model=model, steps=250, eval_every=250, checkpoint_every=250)
    found = {}
    for train in ("z", "so3"):
        own = replace(recipe, data=replace(data, train_rotation=train, test_rotation="so3"))
        found[train, "so3"] = fit(own, tmp_path / train, quiet=True)["accuracy"]
        _, _, network = load_run(tmp_path / train)
        upright = load_data(replace(own.data, test_rotation="z"))
        found[train, "z"] = evaluate(network, upright.test, own, upright)["accuracy"]
    assert found["z", "z"] > found["z", "so3"] + 0.1
    assert found["so3", "so3"] > found["z", "so3"]
