"""Diffusion against loops of our own: the noise that is added, what is judged, how an image is drawn; and runs from data to pictures."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from foveal import InputError
from foveal.cli import main
from foveal.lab.compare import make_plan, run_plan, write_report, write_results
from foveal.lab.data import ColorMatch, DigitImages
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.recipes.diffusion import ddpm
from foveal.lab.tasks import Diffusion, image_grid
from foveal.lab.tasks._generation_interpolations import slerp
from foveal.lab.tasks._image_grid import pixels
from foveal.lab.training import Optim, Recipe, evaluate, fit, load_data, load_run, read_json, write_json
from foveal.lab.training.optimizing import make_schedule
from foveal.models import DiT
from tests.tasks.contract import RunContract

pytest.importorskip("diffusers")
RECIPE = Recipe(
    data=DigitImages(source="digits", train_digits=48),
    model=DiT(width=24, depth=1, num_heads=2, patch_size=2, attention="denoising"),
    task=Diffusion(sampling_steps=3, metric="digits", judged_samples=24),
    optim=Optim(lr=2e-3, ema=0.9, weight_decay=0.0),
    steps=6,
    batch_size=8,
    eval_every=3,
    checkpoint_every=3,
    trackers=(),
)


def shares(timesteps: int) -> torch.Tensor:
    """ᾱ of Nichol and Dhariwal, equations 17 and the bound of β below it, in float64."""

    def f(t: int) -> float:
        return math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = [1 - min(1 - f(t + 1) / f(t), 0.999) for t in range(timesteps)]
    return torch.tensor(kept, dtype=torch.float64).cumprod(0)


class Knows(nn.Module):
    """Answers the noise in an image exactly, for it knows the images."""

    def __init__(self, images: torch.Tensor, timesteps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.images, self.kept, self.calls = images.double(), shares(timesteps), []

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.calls.append((x.clone(), t.clone(), y.clone()))
        kept = self.kept[t][:, None, None, None]
        return ((x.double() - kept.sqrt() * self.images) / (1 - kept).sqrt()).float()


class Answers(Knows):
    """The same, as velocity or image."""

    def __init__(self, images: torch.Tensor, timesteps: int, kind: str) -> None:
        super().__init__(images, timesteps)
        self.kind = kind

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        noise, kept = super().forward(x, t, y).double(), self.kept[t][:, None, None, None]
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * self.images
        return {"epsilon": noise, "v_prediction": velocity, "sample": self.images.expand_as(noise)}[self.kind].float()


class Nothing(Knows):
    """Sees what it is asked."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.calls.append((x.clone(), t.clone(), y.clone()))
        return torch.zeros_like(x)


def batch(count: int = 16) -> tuple:
    bundle = load_data(RECIPE.data)
    return bundle, *RECIPE.task.collate([bundle.train[n] for n in range(count)])


def test_noise_is_added_by_the_cosine_schedule_and_predicted() -> None:
    bundle, (images, labels), targets = batch()
    task = Diffusion(timesteps=100, sampling_steps=5)
    torch.manual_seed(0)
    model = Knows(images, 100)
    loss, _ = task.step(model, model, (images, labels), targets, bundle)
    assert loss < 1e-5, "who knows the images knows the noise"
    empty = Nothing(images, 100)
    losses = [task.step(empty, empty, (images, labels), targets, bundle)[0].item() for _ in range(20)]
    assert sum(losses) / 20 == pytest.approx(1, abs=0.03), "noise has variance 1"
    times = torch.cat([t for _, t, _ in empty.calls])
    assert times.min() < 10
    assert times.max() == 99
    assert len(times.unique()) > 80


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_whatever_is_answered_it_is_trained_judged_and_drawn_with(kind) -> None:
    """Who knows the images answers right in each way, and by another way's answer is wrong; all are judged by the noise."""
    bundle, (images, labels), targets = batch()
    for answered in ("epsilon", "v_prediction", "sample"):
        task, model = Diffusion(prediction_type=kind, sampling_steps=20), Answers(images, 1000, answered)
        torch.manual_seed(0)
        loss, _ = task.step(model, model, (images, labels), targets, bundle)
        assert (loss < 1e-5) == (answered == kind)
        errors = task.predict(model, (images, labels))
        assert (errors[:, 1:].max() < 1e-3) == (answered == kind)
    model = Answers(images, 1000, kind)
    model.images = model.images[:4]
    drawn = Diffusion(prediction_type=kind, sampling_steps=20).sample(model, bundle, labels[:4].tolist(), guidance=1.0)
    torch.testing.assert_close(drawn, images[:4], atol=2e-3, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_classes_are_hidden_in_a_share_of_training(share) -> None:
    bundle, (images, labels), targets = batch()
    model = Nothing(images, 1000)
    torch.manual_seed(0)
    for _ in range(40):
        Diffusion(class_drop=share).step(model, model, (images, labels), targets, bundle)
    seen = torch.stack([y for _, _, y in model.calls])
    hidden = seen == 10
    assert hidden.float().mean().item() == pytest.approx(share, abs=0.06)
    assert torch.equal(seen[~hidden], labels.expand(40, -1)[~hidden])


def test_judging_is_the_same_whatever_the_batch_is() -> None:
    bundle, (images, labels), targets = batch()
    task = Diffusion(timesteps=1000)
    empty = Nothing(images, 1000)
    errors = task.predict(empty, (images, labels))
    assert errors.shape == (16, 4)
    for quarter, (_, t, y) in enumerate(empty.calls):
        assert ((t >= 250 * quarter) & (t < 250 * (quarter + 1))).all()
        assert torch.equal(y, labels), "nothing is hidden where it is judged"
    torch.manual_seed(123)
    torch.testing.assert_close(task.predict(Nothing(images, 1000), (images[5:7], labels[5:7])), errors[5:7])
    assert len({round(value, 6) for value in errors.flatten().tolist()}) == errors.numel(), "each has noise of its own"
    assert task.predict(Knows(images, 1000), (images, labels)).max() < 1e-4
    metrics = task.metrics(bundle)
    task.update(metrics, errors, targets)
    found = task.summarize(metrics, bundle)
    assert found["noise_mse"] == pytest.approx(errors.mean().item())
    assert found["noise_mse_3"] == pytest.approx(errors[:, 2].mean().item())
    torch.testing.assert_close(task.per_sample(errors, targets).mean().item(), found["noise_mse"])


class Wavy(nn.Module):
    """Some function of all that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sin(2 * x + t[:, None, None, None] / 50) + 0.1 * y[:, None, None, None]


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_images_are_drawn_by_ddim(guidance) -> None:
    """Song et al., equation 12 without noise, in a loop, the image clipped as it is predicted and the noise made to fit it; guidance as Ho and Salimans."""
    bundle, _, _ = batch()
    task, model, labels = Diffusion(timesteps=100, sampling_steps=7), Wavy(), [3, 0, 9]
    got = task.sample(model, bundle, labels, seed=5, guidance=guidance)
    with torch.no_grad():
        noise = [start[0] for start in _starts(task, bundle, labels, 5)]
        kept = shares(100)
        # from the last timestep, in seven steps of equal length
        times = [round(100 - n * 100 / 7) - 1 for n in range(7)]
        for n, label in enumerate(labels):
            x = noise[n].double()[None]
            for place, t in enumerate(times):
                a = kept[t]
                b = kept[times[place] - (100 // 7)] if times[place] - 100 // 7 >= 0 else torch.tensor(1.0, dtype=torch.float64)
                at = torch.tensor([t])
                own, without = (model(x, at, torch.tensor([y])) for y in (label, 10))
                eps = without + guidance * (own - without)
                image = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
                eps = (x - a.sqrt() * image) / (1 - a).sqrt()
                x = b.sqrt() * image + (1 - b).sqrt() * eps
            torch.testing.assert_close(got[n].double(), x[0], atol=2e-3, rtol=1e-3)


def _starts(task: Diffusion, bundle, labels, seed) -> list:
    """What the network is first asked, which is noise alone."""
    seen = []

    class Sees(Wavy):
        def forward(self, x, t, y):
            seen.append(x.clone())
            return super().forward(x, t, y)

    found = []
    for place in range(len(labels)):
        seen.clear()
        task.sample(Sees(), bundle, labels[: place + 1], seed=seed, guidance=1.0)
        found.append(seen[0][place : place + 1])
    return found


def test_who_knows_the_noise_draws_the_image() -> None:
    bundle, (images, labels), _ = batch(3)
    task = Diffusion(sampling_steps=20)
    got = task.sample(Knows(images, 1000), bundle, labels.tolist(), guidance=1.0)
    torch.testing.assert_close(got, images, atol=1e-3, rtol=0)


def test_an_image_follows_from_the_seed_and_its_number_alone(monkeypatch) -> None:
    bundle, _, _ = batch()
    task, model = Diffusion(sampling_steps=4), Wavy()
    labels = [n % 10 for n in range(12)]
    whole = task.sample(model, bundle, labels, seed=1)
    torch.manual_seed(99)
    assert torch.equal(task.sample(model, bundle, labels, seed=1), whole)
    torch.testing.assert_close(task.sample(model, bundle, labels[:5], seed=1), whole[:5])
    monkeypatch.setattr("foveal.lab.tasks.diffusion._AT_ONCE", 5)
    torch.testing.assert_close(task.sample(model, bundle, labels, seed=1), whole)
    assert not torch.allclose(task.sample(model, bundle, labels, seed=2), whole, atol=0.1)
    assert task.sample(model, bundle, []).shape == (0, 1, 8, 8)
    for options, says in (({"steps": 1001}, "at most the 1000"), ({"steps": 0}, "at least 1"), ({"guidance": -1.0}, "guidance")):
        with pytest.raises(InputError, match=says):
            task.sample(model, bundle, labels, **options)
    with pytest.raises(InputError, match="from 0 to 9"):
        task.sample(model, bundle, [10])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sampling_steps": 2000}, "sampling_steps"),
        ({"class_drop": 1.0}, "class_drop"),
        ({"timesteps": 2}, "timesteps"),
        ({"prediction_type": "noise"}, "prediction_type"),
        ({"metric": "fid"}, "metric"),
        ({"judged_samples": 3}, "judged_samples"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, says) -> None:
    with pytest.raises(InputError, match=says):
        Diffusion(**settings)


def test_a_grid_holds_the_images_row_by_row(tmp_path) -> None:
    images = torch.full((5, 3, 32, 32), -1.0)
    images[4, 0] = 1.0
    (tmp_path / "grid.png").write_bytes(image_grid(images))
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (3 * 66 - 2, 2 * 66 - 2)
        assert [picture.getpixel(place) for place in ((0, 0), (67, 67), (133, 67), (65, 0))] == [(0, 0, 0), (255, 0, 0), (255, 255, 255), (255, 255, 255)]


def test_slerp_keeps_the_length_of_noise_and_its_ends() -> None:
    a, b = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    # on the circle through both, at a third of the angle
    length, angle = a.norm(), torch.arccos((a * b).sum() / a.norm() / b.norm())
    b = b * length / b.norm()
    third = slerp(a, b, 1 / 3)
    assert third.norm().item() == pytest.approx(length.item())
    assert torch.arccos((a * third).sum() / length**2).item() == pytest.approx(angle.item() / 3)
    torch.testing.assert_close(slerp(a, a, 0.4), a)


class TestRuns(RunContract):
    recipe = RECIPE

    def test_a_finished_run_has_its_pictures(self, run) -> None:
        names = {"samples.png", "interpolations.png", "nearest.png", "quality.png", "curves.png"}
        assert {path.name for path in (run / "report").iterdir()} == names
        for path in (run / "report").iterdir():
            with Image.open(path) as picture:
                assert min(picture.size) > 200
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 20

    def test_numbers_come_back(self, run) -> None:
        metrics = read_json(run / "metrics.json")
        recipe, bundle, model = load_run(run)
        again = evaluate(model, bundle.test, recipe, bundle)
        assert again["noise_mse"] == metrics["noise_mse"]
        # what was drawn when the run ended is drawn again
        judged = recipe.task.assess(model, bundle, run)
        assert any("needs 128 images" in note for note in judged.pop("notes"))
        assert judged == {name: metrics[name] for name in judged}
        assert judged["judged_samples"] == 24
        assert any("no Fréchet distance in a digit classifier's features was computed" in note for note in metrics["notes"])
        cost = recipe.task.cost(model, bundle)
        assert cost.parameters == metrics["parameters"]
        assert cost.macs > 0

    def test_eval_draws_and_judges_as_many_as_are_asked_for(self, run, tmp_path, capsys) -> None:
        assert main(["eval", str(run), "--task.judged-samples", "12", "--out", str(tmp_path)]) == 0
        assert "no Fréchet distance in a digit classifier's features" in capsys.readouterr().out
        written = read_json(tmp_path / "eval.json")
        assert written["test"]["judged_samples"] == 12
        assert "judged_samples" not in written["val"]
        assert main(["eval", str(run), "--task.metric", "inception", "--out", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "torch-fidelity" in line or "inception_weights" in line

    def test_it_draws_on_the_command_line(self, run, tmp_path, capsys) -> None:
        words = ["sample", str(run), "-n", "6", "--classes", "3", "5", "--guidance", "2", "--out"]
        assert main([*words, str(tmp_path / "one.png")]) == 0
        said = capsys.readouterr().out
        assert "6 images of 3, 5, in this order" in said
        assert main([*words, str(tmp_path / "two.png")]) == 0
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
        assert main([*words, str(tmp_path / "other.png"), "--seed", "1"]) == 0
        assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()
        assert main([*words, str(tmp_path / "one.png"), "--folder", str(tmp_path / "each")]) == 0
        assert sorted(path.name for path in (tmp_path / "each").iterdir()) == [f"0000{n}-{3 if n < 3 else 5}.png" for n in range(6)]
        recipe, bundle, model = load_run(run)
        last = recipe.task.sample(model, bundle, [3, 3, 3, 5, 5, 5], guidance=2.0)[5]
        with Image.open(tmp_path / "each" / "00005-5.png") as picture:
            assert picture.size == (8, 8)
            assert list(picture.convert("L").tobytes()) == pixels(last).flatten().tolist()
        assert image_grid(recipe.task.sample(model, bundle, [3, 3, 3, 5, 5, 5], guidance=2.0)) == (tmp_path / "one.png").read_bytes()

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--classes", "eleven"], "unknown class 'eleven'"),
            (["--classes", "1", "1"], "named once"),
            (["--out", "samples.jpg"], "ends with .png"),
            (["--folder", __file__], "is a file"),
            (["-n", "0"], "n must be at least 1"),
            (["--steps", "5000"], "at most the 1000"),
            (["--guidance", "-1"], "guidance must be at least 0"),
            (["--truncation", "0.7"], "no latents to truncate or to scale; leave both out, and set guidance"),
            (["--latent-scale", "0.7"], "no latents to truncate or to scale; leave both out, and set guidance"),
        ],
    )
    def test_what_cannot_be_drawn_is_one_line(self, run, words, says, tmp_path, monkeypatch, capsys) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["sample", str(run), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
        assert not list(tmp_path.iterdir())

    def test_what_is_drawn_stands_below_what_is_real(self, run) -> None:
        recipe, bundle, model = load_run(run)
        samples = [bundle.test[n] for n in range(3)]
        (real,), (drawn,) = recipe.task.draw_truth(samples, bundle), recipe.task.shown(model, samples, bundle)
        assert [cell.caption for cell in real.cells] == [cell.caption for cell in drawn.cells] == [str(label) for _, label in samples]
        assert all(cell.picture.shape == (8, 8, 1) for row in (real, drawn) for cell in row.cells)
        torch.testing.assert_close(torch.from_numpy(real.cells[0].picture)[..., 0] / 127.5 - 1, samples[0][0][0], atol=0.005, rtol=0)

    def test_it_draws_without_the_average(self, run, tmp_path) -> None:
        recipe, bundle, model = load_run(run, averaged=False)
        with torch.no_grad():
            wanted = image_grid(recipe.task.sample(model, bundle, [0, 2, 5, 7]))
        drawn = {}
        for words in ([], ["--ema"], ["--no-ema"]):
            assert main(["sample", str(run), "-n", "4", *words, "--out", str(tmp_path / "x.png")]) == 0
            drawn[" ".join(words)] = (tmp_path / "x.png").read_bytes()
        assert drawn[""] == drawn["--ema"] != drawn["--no-ema"] == wanted

    @pytest.mark.slow
    def test_a_comparison(self, tmp_path) -> None:
        plan = make_plan(replace(self.recipe, steps=1, eval_every=1), ("softmax", "none"), seeds=1)
        for arm in plan.arms:
            write_json(tmp_path / "out" / arm.name / "memory.json", {"bytes": 1})
        run_plan(plan, tmp_path / "out", jobs=1, quiet=True)
        results = read_json(write_results(tmp_path / "out"))
        assert (results["metric"]["name"], results["metric"]["larger_is_better"]) == ("noise_mse", False)
        assert [arm["name"] for arm in results["arms"]] == ["softmax", "none"]
        for arm in results["arms"]:
            assert [row["title"] for row in arm["drawn"]] == ["drawn"]
            assert arm["macs"] > 0
        page = write_report(results, tmp_path / "report.html").read_text()
        assert "error of the predicted noise" in page
        assert page.count('src="data:image/png') == 6 * (1 + 2)


def test_a_run_without_classes_draws_too(tmp_path, capsys) -> None:
    data = ColorMatch(train_scenes=20, val_scenes=4, test_scenes=4)
    recipe = replace(get_recipe("color-match"), data=data, task=Diffusion(sampling_steps=2), steps=2, eval_every=1, checkpoint_every=2, trackers=())
    recipe = replace(recipe, model=DiT(width=24, depth=1, num_heads=2, patch_size=2), batch_size=4)
    fit(recipe, tmp_path / "run", quiet=True)
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {"samples.png", "interpolations.png", "nearest.png", "curves.png"}
    assert main(["sample", str(tmp_path / "run"), "-n", "4", "--out", str(tmp_path / "four.png")]) == 0
    assert "4 images\n" in capsys.readouterr().out
    for words in (["--classes", "3"], ["--guidance", "2"]):
        assert main(["sample", str(tmp_path / "run"), *words, "--out", str(tmp_path / "no.png")]) == 2
        assert "has no classes" in capsys.readouterr().err


def test_the_unet_of_the_paper_is_trained_as_published(tmp_path, monkeypatch) -> None:
    recipe = ddpm(DigitImages())
    assert (recipe.batch_size, recipe.optim.lr, recipe.optim.ema, recipe.model.dropout) == (128, 2e-4, 0.9999, 0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    schedule = make_schedule(optimizer, recipe)
    rates = []
    for step in (0, 2_500, 5_000, 400_000, 799_999):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] < 1.1e-5
    assert rates[1:] == pytest.approx([1.05e-4, 2e-4, 2e-4, 2e-4], rel=0.01)
    small = smoke(recipe, steps=4)
    small = replace(small, task=replace(small.task, sampling_steps=2))
    monkeypatch.setattr("foveal.lab.training.finishing._without_pictures", lambda task: ["no pictures in this test"])
    assert 0 < fit(small, tmp_path / "run", quiet=True)["noise_mse"] < 2
    assert main(["sample", str(tmp_path / "run"), "-n", "2", "--out", str(tmp_path / "two.png")]) == 0


def test_a_run_that_draws_nothing_says_so(tmp_path, capsys) -> None:
    recipe = replace(get_recipe("digits"), steps=1, eval_every=1, checkpoint_every=1, batch_size=4, trackers=())
    fit(replace(recipe, data=replace(recipe.data, source="digits")), tmp_path / "run", quiet=True)
    assert main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "no.png")]) == 2
    assert "a run of Classification, which draws no images" in capsys.readouterr().err


def test_a_metric_that_cannot_be_had_is_refused_before_anything_is_made(tmp_path, capsys) -> None:
    assert main(["train", "color-match", "--smoke", "--task.metric", "digits", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "classes 0 to 9" in line
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_without_diffusers_one_line_names_the_extra_before_anything_is_made(tmp_path, monkeypatch, capsys) -> None:
    from foveal import _errors

    find = _errors.find_spec
    monkeypatch.setattr(_errors, "find_spec", lambda module: None if module == "diffusers" else find(module))
    assert main(["train", "dit-digits", "--smoke", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == 'foveal: the task Diffusion needs diffusers, which is not installed; remedy: pip install "foveal[diffusers]"'
    assert not (tmp_path / "run" / "recipe.json").exists()
