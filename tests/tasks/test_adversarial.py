"""Adversarial training: whose weights move when, averages, exact resume, and runs from data to pictures."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.cli import main
from foveal.lab.compare import make_plan
from foveal.lab.compare.words import verdict_words
from foveal.lab.data import DigitImages
from foveal.lab.tasks import AdversarialGeneration, Diffusion, Phase, image_grid, parameters_of
from foveal.lab.tasks._adversarial_maps import draw_looks, view_network
from foveal.lab.tasks._adversarial_report import draw_losses
from foveal.lab.tasks._generation_interpolations import slerp
from foveal.lab.tasks._latents import Latents
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
    loop,
    phases,
    read_json,
    read_weights,
    write_json,
)
from foveal.lab.training.checkpoint import read_checkpoint
from foveal.models import SAGAN, DiT, UNet
from foveal.models.sagan import gan_attention
from foveal.models.sagan.spectral import Spectral
from tests.tasks.contract import RunContract
from tests.training.helpers import assert_same_weights, weights
from tests.training.test_loop import launch

RECIPE = Recipe(
    data=DigitImages(source="digits", train_digits=48),
    model=SAGAN(width=4, z_dim=8, attention="external"),
    task=AdversarialGeneration(d_steps=2, d_lr=4e-3, metric="digits", judged_samples=24),
    optim=Optim(optimizer="adam", lr=1e-3, betas=(0.0, 0.999), eps=1e-6, schedule="constant", warmup=0.0, weight_decay=0.0, clip_grad=None, ema=0.9),
    steps=6,
    batch_size=8,
    eval_every=3,
    checkpoint_every=3,
    trackers=(),
)


class TestRuns(RunContract):
    recipe = RECIPE

    def test_a_finished_run_has_its_pictures(self, run) -> None:
        assert {path.name for path in (run / "report").iterdir()} == {"samples.png", "nearest.png", "interpolations.png", "quality.png", "curves.png"}
        for path in (run / "report").iterdir():
            with Image.open(path) as picture:
                assert min(picture.size) > 200
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 20

    def test_the_history_has_what_attention_is_multiplied_by(self, run, tmp_path) -> None:
        lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [3, 6]
        _, _, model = load_run(run)
        # of the weights that are judged and published
        assert {name: value for name, value in lines[-1].items() if name.startswith("sigma_")} == {
            "sigma_G.mixers.1": model.G.mixers["1"].sigma.item(),
            "sigma_D.mixers.1": model.D.mixers["1"].sigma.item(),
        }
        for name, network in (("G", model.G), ("D", model.D)):
            assert lines[-1][f"norm_{name}.fc"] == pytest.approx(torch.linalg.svdvals(network.fc.weight.double())[0].item(), rel=0.02)
        # runs of before have none of it, and one that went on has it from some step on
        old = [{name: value for name, value in line.items() if not name.startswith(("sigma_", "norm_"))} for line in lines]
        sizes = []
        for history in (lines, [old[0], lines[1]], old):
            (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
            with Image.open(*draw_losses(tmp_path / "report")) as picture:
                sizes.append(picture.size)
        assert sizes == [(990, 748), (990, 748), (990, 374)]

    def test_it_shows_where_both_networks_look(self, run, tmp_path, capsys) -> None:
        assert main(["inspect", str(run), "sample:3", "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        _, _, model = load_run(run)
        for network, name in ((model.G, "generator"), (model.D, "discriminator")):
            assert f"{name}, mixers.1: σ {network.mixers['1'].sigma.item():.4g}" in said
        assert f"{tmp_path / 'attention.html'}\n{tmp_path / 'maps.png'}" in said
        with Image.open(tmp_path / "maps.png") as picture:
            assert min(picture.size) > 300
        assert "generator" in (tmp_path / "attention.html").read_text()
        for words, says in ((["test:3"], "expected sample:NUMBER"), (["sample:-1"], "expected sample:NUMBER"), (["sample:3", "--truth", "3"], "leave out")):
            assert main(["inspect", str(run), *words, "--out", str(tmp_path / "no")]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert says in line
            assert not (tmp_path / "no").exists()

    def test_numbers_come_back(self, run) -> None:
        metrics = read_json(run / "metrics.json")
        recipe, bundle, model = load_run(run)
        again = evaluate(model, bundle.test, recipe, bundle)
        assert {name: again[name] for name in ("hinge", "d_real", "d_fake", "spread")} == {
            name: metrics[name] for name in ("hinge", "d_real", "d_fake", "spread")
        }
        # what was drawn when the run ended is drawn again
        judged = recipe.task.assess(model, bundle, run)
        notes = judged.pop("notes")
        assert judged["judged_samples"] == 24
        assert {"kernel", "precision", "recall", "class_accuracy", "copies_pixels"} <= judged.keys()
        assert judged == {name: metrics[name] for name in judged}
        assert set(notes) <= set(metrics["notes"])
        cost = recipe.task.cost(model, bundle)
        assert cost.parameters == metrics["parameters"]
        assert cost.macs > 0

    def test_a_checkpoint_knows_its_phases(self, run) -> None:
        state = read_checkpoint(latest_checkpoint(run), RECIPE.to_dict())["state"]["phases"]
        assert list(state) == ["D", "G"]
        steps = {name: {int(value["step"]) for value in one["optimizer"]["state"].values()} for name, one in state.items()}
        assert steps == {"D": {12}, "G": {6}}
        assert {name: one["optimizer"]["param_groups"][0]["lr"] for name, one in state.items()} == {"D": 4e-3, "G": 1e-3}
        assert all(one["optimizer"]["param_groups"][0]["eps"] == 1e-6 for one in state.values())

    def test_it_draws_on_the_command_line(self, run, tmp_path, capsys) -> None:
        words = ["sample", str(run), "-n", "6", "--classes", "3", "5", "--out"]
        for name in ("one", "two"):
            assert main([*words, str(tmp_path / f"{name}.png")]) == 0
        assert "6 images of 3, 5, in this order" in capsys.readouterr().out
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
        recipe, bundle, model = load_run(run)
        assert image_grid(recipe.task.sample(model, bundle, [3, 3, 3, 5, 5, 5])) == (tmp_path / "one.png").read_bytes()
        assert main([*words, str(tmp_path / "no.png"), "--guidance", "2"]) == 2
        assert "no guidance and no steps" in capsys.readouterr().err

    def test_latents_are_truncated_and_scaled_on_the_command_line(self, run, tmp_path, capsys) -> None:
        recipe, bundle, model = load_run(run)
        drawn = {}
        for name, words, options in (
            ("plain", [], {}),
            ("cut", ["--truncation", "0.3"], {"truncation": 0.3}),
            ("small", ["--latent-scale", "0.3"], {"latent_scale": 0.3}),
            ("both", ["--truncation", "0.3", "--latent-scale", "2"], {"truncation": 0.3, "latent_scale": 2.0}),
            ("wide", ["--truncation", "50", "--latent-scale", "1"], {"truncation": 50.0, "latent_scale": 1.0}),
        ):
            assert main(["sample", str(run), "-n", "6", *words, "--out", str(tmp_path / f"{name}.png")]) == 0
            drawn[name] = (tmp_path / f"{name}.png").read_bytes()
            assert drawn[name] == image_grid(recipe.task.sample(model, bundle, [n * 10 // 6 for n in range(6)], **options))
        assert drawn["wide"] == drawn["plain"]
        assert len(set(drawn.values())) == 4
        # image i is the same among fewer
        few, more = (recipe.task.sample(model, bundle, [3] * count, seed=7, truncation=0.3) for count in (2, 5))
        torch.testing.assert_close(few, more[:2])
        # the generator's own answer to those latents
        z = torch.stack([Latents(8, truncation=0.3).draw(7, "sample", place) for place in range(5)])
        assert z.abs().max() <= 0.3
        with torch.no_grad():
            torch.testing.assert_close(more, model.G(z, torch.tensor([3] * 5)))
        for words, says in (
            (["--truncation", "0"], "truncation must be above 0 and finite, got 0.0"),
            (["--truncation", "nan"], "truncation must be above 0 and finite, got nan"),
            (["--latent-scale", "-1"], "latent-scale must be above 0 and finite, got -1.0"),
            (["--latent-scale", "inf"], "latent-scale must be above 0 and finite, got inf"),
            (["--ema", "--no-ema"], "each other's contrary"),
        ):
            capsys.readouterr()
            assert main(["sample", str(run), *words, "--out", str(tmp_path / "no.png")]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert says in line
            assert not (tmp_path / "no.png").exists()

    def test_standing_statistics_are_of_latents_as_they_are_drawn(self, run) -> None:
        recipe, bundle, model = load_run(run)
        task = replace(recipe.task, bn="standing", standing_batches=2)
        labels = [n % 10 for n in range(4)]
        drawn = task.sample(model, bundle, labels, truncation=0.2)
        norms = copy.deepcopy(model.G)
        for module in norms.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                module.momentum = None
                module.train()
        z = [[Latents(8, truncation=0.2).draw("standing", number, place) for place in range(64)] for number in range(2)]
        with torch.no_grad():
            for number, some in enumerate(z):
                norms(torch.stack(some), torch.arange(number * 64, number * 64 + 64) % 10)
            wanted = norms.eval()(torch.stack([Latents(8, truncation=0.2).draw(0, "sample", place) for place in range(4)]), torch.tensor(labels))
        torch.testing.assert_close(drawn, wanted)

    def test_it_draws_with_the_average_or_with_the_weights_of_a_run_without(self, run, tmp_path, capsys, monkeypatch) -> None:
        monkeypatch.setattr(AdversarialGeneration, "write_report", lambda *arguments: [])
        plain = replace(self.recipe, optim=replace(self.recipe.optim, ema=None), task=replace(self.recipe.task, metric="none"))
        fit(plain, tmp_path / "plain", quiet=True)
        # spectral norm's u and v, and the statistics of batch norm, among them
        assert_same_weights(read_weights(run / "unaveraged.safetensors"), weights(tmp_path / "plain"))
        drawn = {}
        for name, where, words in (("as judged", run, []), ("average", run, ["--ema"]), ("raw", run, ["--no-ema"]), ("plain", tmp_path / "plain", [])):
            assert main(["sample", str(where), "-n", "4", *words, "--out", str(tmp_path / "x.png")]) == 0
            drawn[name] = (tmp_path / "x.png").read_bytes()
        assert drawn["as judged"] == drawn["average"] != drawn["raw"] == drawn["plain"]
        for words in ("--ema", "--no-ema"):
            capsys.readouterr()
            assert main(["sample", str(tmp_path / "plain"), words, "--out", str(tmp_path / "no.png")]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert f"{tmp_path / 'plain'} kept no average of its weights" in line
        assert not (tmp_path / "no.png").exists()

    def test_images_follow_from_seed_and_number_unless_the_batch_decides(self, run, monkeypatch) -> None:
        recipe, bundle, model = load_run(run)
        labels = [n % 10 for n in range(12)]
        before = copy.deepcopy(model.state_dict())
        for bn, alone in (("running", True), ("standing", True), ("batch", False)):
            task = replace(recipe.task, bn=bn, standing_batches=2)
            whole = task.sample(model, bundle, labels, seed=1)
            few = task.sample(model, bundle, labels[:5], seed=1)
            assert torch.allclose(few, whole[:5], atol=1e-5) == alone, bn
            assert not torch.allclose(task.sample(model, bundle, labels, seed=2), whole, atol=0.01)
            assert bool(task.note()) != alone
        assert_same_weights(dict(model.state_dict()), before)
        assert recipe.task.sample(model, bundle, []).shape == (0, 1, 8, 8)
        with pytest.raises(InputError, match="from 0 to 9"):
            recipe.task.sample(model, bundle, [10])

    def test_statistics_of_the_batch_are_said_where_images_are_drawn_with_them(self, run, tmp_path, capsys) -> None:
        other = Path(shutil.copytree(run, tmp_path / "run"))
        for bn in ("running", "batch"):
            recipe = replace(self.recipe, task=replace(self.recipe.task, bn=bn))
            write_json(other / "recipe.json", recipe.to_dict())
            capsys.readouterr()
            assert main(["sample", str(other), "-n", "3", "--out", str(tmp_path / f"{bn}.png")]) == 0
            assert ("an image depends on the others" in capsys.readouterr().err) == (bn == "batch")
        assert (tmp_path / "batch.png").read_bytes() != (tmp_path / "running.png").read_bytes()

    def test_killed_inside_either_phase_it_ends_in_the_same_weights(self, run, tmp_path, monkeypatch) -> None:
        """Before anything was saved, and behind a checkpoint, which it goes on from."""
        real, left = loop._micro_step, [8]

        def dies(*arguments) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            real(*arguments)

        # three micro-steps are a step: D, D, G. The eighth is the second of the third step's discriminator; then comes the checkpoint of step 3
        monkeypatch.setattr(AdversarialGeneration, "write_report", lambda *arguments: [])
        for when, saved in ((8, None), (11, "step-00000003"), (12, "step-00000003")):
            folder = tmp_path / str(when)
            left[0] = when
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop, "_micro_step", dies)
                with pytest.raises(KeyboardInterrupt):
                    fit(self.recipe, folder, quiet=True)
            newest = latest_checkpoint(folder)
            assert (newest and newest.name) == saved
            fit(self.recipe, folder, resume=True, quiet=True)
            assert_same_weights(weights(folder), weights(run))
            assert_same_weights(read_weights(folder / "unaveraged.safetensors"), read_weights(run / "unaveraged.safetensors"))


def test_phases_move_their_own_weights_alone() -> None:
    bundle = load_data(RECIPE.data)
    model = build_model(RECIPE, bundle)
    owned = parameters_of(model, RECIPE.task.phases())
    assert [id(p) for p in owned["D"]] == [id(p) for p in model.D.parameters()]
    assert [id(p) for p in owned["G"]] == [id(p) for p in model.G.parameters()]
    images, labels = RECIPE.task.collate([bundle.train[n] for n in range(8)])
    forward = RECIPE.task.trained(model)
    (loss, reported) = RECIPE.task.step(model, forward, images, labels, bundle, phase="D")
    loss.backward()
    assert all(p.grad is None for p in owned["G"])
    assert all(p.grad is not None for p in owned["D"])
    assert set(reported) == {"d_loss", "d_real", "d_fake"}
    loss, reported = RECIPE.task.step(model, forward, images, labels, bundle, phase="G")
    loss.backward()
    assert all(p.grad is not None for p in owned["G"])
    assert set(reported) == {"g_loss"}


@pytest.mark.parametrize(
    "wrong",
    [
        (Phase(name="D", parameters=("D.",)),),
        (Phase(name="D", parameters=("D.",)), Phase(name="G", parameters=("",))),
        (Phase(name="a", parameters=("D.",)), Phase(name="a", parameters=("G.",))),
        (Phase(name="D", parameters=("D.",), batches=0), Phase(name="G", parameters=("G.",))),
        (),
    ],
)
def test_phases_that_are_none_are_refused(wrong) -> None:
    model = SAGAN(width=2, z_dim=4).build(img_size=8, in_chans=1, num_classes=0)
    with pytest.raises(InputError, match="phase"):
        parameters_of(model, wrong)


def test_the_average_is_of_the_generators_weights_alone() -> None:
    bundle = load_data(RECIPE.data)
    model = build_model(RECIPE, bundle)
    ema = phases.PartEma(model, RECIPE.task, decay=0.9)
    wanted = {name: value.detach().clone() for name, value in model.G.named_parameters()}
    for step in range(5):
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                if value.is_floating_point():
                    value.add_(torch.randn_like(value).abs())
        ema.update(model, step=step)
        decay = 0.0 if step < 2 else 0.9
        wanted = {name: decay * wanted[name] + (1 - decay) * value.detach() for name, value in model.G.named_parameters()}
    for name, value in ema.module.G.named_parameters():
        torch.testing.assert_close(value, wanted[name], msg=name)
    assert_same_weights(dict(ema.module.D.state_dict()), dict(model.D.state_dict()))
    ema.settle_(model)
    once = copy.deepcopy(ema.module.state_dict())
    ema.settle_(model)
    assert_same_weights(dict(ema.module.state_dict()), once)
    u = ema.module.G.conv.spectral.u
    assert u.norm().item() == pytest.approx(1, abs=1e-5)
    assert not torch.equal(u, model.G.conv.spectral.u)
    # what its weights are divided by is their largest singular value: one of them moves far in a step here, so that spectra are no flat ones
    norms = [module for module in ema.module.G.eval().modules() if isinstance(module, Spectral) and hasattr(module, "spectral")]
    assert len(norms) > 8
    for module in norms:
        assert torch.linalg.svdvals(module.normalized().detach().flatten(1).double())[0].item() == pytest.approx(1, abs=0.01)
    assert torch.equal(ema.module.G.norm.running_mean, model.G.norm.running_mean)


def test_an_average_of_a_network_that_stands_still_is_the_network() -> None:
    model = build_model(RECIPE, load_data(RECIPE.data)).eval()
    ema = phases.PartEma(model, RECIPE.task, decay=0.9)
    for step in range(4):
        ema.update(model, step=step)
    for name, value in ema.module.named_parameters():
        torch.testing.assert_close(value, dict(model.named_parameters())[name], rtol=0, atol=1e-7)
    # and so is what it draws and how it judges, once it is brought to its weights
    ema.settle_(model)
    z, y, images = torch.randn(4, 8), torch.arange(4), torch.rand(4, 1, 8, 8)
    for mine, theirs in ((ema.module.G(z, y), model.G(z, y)), (ema.module.D(images, y), model.D(images, y))):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_judging_is_the_same_whatever_the_batch_is() -> None:
    bundle = load_data(RECIPE.data)
    model = build_model(RECIPE, bundle).eval()
    (images, labels), targets = RECIPE.task.collate([bundle.test[n] for n in range(8)])
    with torch.no_grad():
        drawn, real, fake = RECIPE.task.predict(model, (images, labels))
        few = RECIPE.task.predict(model, (images[3:5], labels[3:5]))
    torch.testing.assert_close(few[0], drawn[3:5], rtol=1e-4, atol=1e-5)
    metrics = RECIPE.task.metrics(bundle)
    RECIPE.task.update(metrics, (drawn, real, fake), targets)
    found = RECIPE.task.summarize(metrics, bundle)
    by_hand = sum(max(0, 1 - a) + max(0, 1 + b) for a, b in zip(real.tolist(), fake.tolist(), strict=True)) / 8
    assert found["hinge"] == pytest.approx(by_hand, rel=1e-5)
    assert found["spread"] == pytest.approx(max((a - b).abs().max().item() for a in drawn for b in drawn), rel=1e-5)


def test_a_run_says_once_that_it_went_wrong() -> None:
    def line(step: int, loss: float = 1.0, spread: float = 0.5) -> dict[str, float]:
        return {"step": step, "train_d_loss": loss, "val_spread": spread}

    remarks = AdversarialGeneration().remarks
    assert remarks([line(500), line(1000), line(1500)]) == []
    assert remarks([line(500, 0.01)]) == []
    (won,) = remarks([line(500), line(1000, 0.01), line(1500, 0.01), line(2000, 0.01)])
    assert "from step 500 to 1500" in won
    assert remarks([line(500, 0.01), line(1000, 0.2), line(1400, 0.01), line(1900, 0.01)]) == []
    (one,) = remarks([line(500), line(1000, spread=1e-4), line(1500, spread=0.0)])
    assert "at step 1000" in one


def test_a_generator_that_draws_nan_stops_the_run_with_words(tmp_path) -> None:
    recipe = replace(RECIPE, optim=replace(RECIPE.optim, lr=1e30, ema=None), task=AdversarialGeneration())
    with pytest.raises(InputError, match=r"lower --optim.lr"):
        fit(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_between_two_latents_lies_a_great_circle() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    torch.testing.assert_close(slerp(a, b, 1 / 3), 3 * torch.tensor([3**0.5 / 2, 0.5]))
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-6, rtol=0)
    assert torch.equal(slerp(a, a, 0.4), a)


def test_without_an_average_the_generator_itself_is_judged(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(AdversarialGeneration, "write_report", lambda *arguments: [])
    recipe = replace(RECIPE, optim=replace(RECIPE.optim, ema=None, accumulate=2), steps=2, eval_every=1, checkpoint_every=1)
    fit(recipe, tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Stopping, "agreed", lambda self, flag, step, due: True)
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path / "run", quiet=True)
    fit(recipe, tmp_path / "run", resume=True, quiet=True)
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_draw_other_latents_and_one_evaluates_the_same_numbers(tmp_path) -> None:
    """Each phase is shared by the processes: its gradients and no others."""
    recipe = replace(RECIPE, steps=3)
    done = launch(2, recipe, tmp_path / "run", "--keep-latents")
    assert done.returncode == 0, done.stderr[-3000:]
    mine, theirs = (torch.load(tmp_path / "run" / f"latents-{rank}.pt", weights_only=True) for rank in (0, 1))
    # two steps of the discriminator and one of the generator in each of three, of half the batch
    assert [len(one) for one in mine] == [len(one) for one in theirs] == [4] * 9
    rows = torch.cat([*mine, *theirs])
    assert len(rows.unique(dim=0)) == len(rows) == 72, "no latent comes twice, within a process or in both"
    metrics = read_json(tmp_path / "run" / "metrics.json")
    recipe, bundle, model = load_run(tmp_path / "run")
    again = evaluate(model, bundle.test, recipe, bundle)
    for name in ("hinge", "d_real", "d_fake", "spread"):
        assert again[name] == metrics[name]


def test_a_discriminators_loss_ranks_no_runs() -> None:
    """It chooses no step, no rate, no end of a comparison, and no winner."""
    with pytest.raises(InputError, match="does not say which is better; leave patience out"):
        replace(RECIPE, patience=2)
    for asked in ({"tune": True}, {"looks": (4, 8)}):
        with pytest.raises(InputError, match="leave --tune and --until out"):
            make_plan(RECIPE, ("none",), **asked)
    judged = RECIPE.task.primary_metric
    one = {"arm": "sagan", "against": "none", "verdict": "better", "difference": {"mean": 1.0, "low": 0.5, "high": 1.5, "by_seed": [1.0]}}
    said = verdict_words([one], [{"name": "sagan", "metrics": {"hinge": {"mean": 1.0}}}], 3, judged, None, 0.1)
    assert "cannot be ranked" in said["headline"]
    assert said["lines"] == []


@pytest.mark.parametrize(
    ("model", "task", "says"),
    [
        (
            SAGAN(),
            Diffusion(),
            r"Diffusion trains a denoiser, and SAGAN is a generator with its discriminator; take a model out of DiT, UNet, or the task Adver",
        ),
        (
            DiT(),
            AdversarialGeneration(),
            r"AdversarialGeneration trains a generator with its discriminator, and DiT is a denoiser; take a model out of SAGAN, or",
        ),
        (UNet(), AdversarialGeneration(), r"and UNet is a denoiser; .* or the task Diffusion"),
    ],
)
def test_a_network_of_another_kind_is_refused_before_anything_is_made(model, task, says) -> None:
    with pytest.raises(InputError, match=says):
        replace(RECIPE, model=model, task=task)
    assert replace(RECIPE, model=DiT(), task=Diffusion()).task == Diffusion()


def test_statistics_that_there_are_not_are_refused() -> None:
    with pytest.raises(InputError, match="bn"):
        AdversarialGeneration(bn="runing")


@pytest.mark.parametrize("bn", ["running", "batch"])
def test_image_number_n_is_that_of_foveal_sample(bn, tmp_path, monkeypatch) -> None:
    """What is looked into is what the same numbers draw, and the discriminator looks at that."""
    recipe = replace(RECIPE, model=replace(RECIPE.model, attention="sagan"), task=replace(RECIPE.task, bn=bn))
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle).eval()
    given = {}

    def keep(images, captions, networks, folder, *, title):
        given.update(images=images, captions=captions, networks=networks)
        return []

    monkeypatch.setattr("foveal.lab.tasks.adversarial.draw_looks", keep)
    lines, _ = recipe.task.draw_attention(model, bundle, 0, tmp_path, title="")
    torch.testing.assert_close(given["images"], recipe.task.sample(model, bundle, list(range(6))))
    assert given["captions"] == [f"image {n}, class {n}" for n in range(6)]
    with torch.no_grad():
        scores = model.D(given["images"], torch.arange(6))
    assert f"gives it {scores[0]:.3f}" in lines[0]
    recipe.task.draw_attention(model, bundle, 4, tmp_path, title="")
    if bn == "running":
        torch.testing.assert_close(given["images"][:2], recipe.task.sample(model, bundle, list(range(6)))[4:])


@pytest.mark.parametrize("attention", ["sagan", "denoising", "external"])
def test_maps_are_those_that_make_the_output(attention) -> None:
    """What the map gathers of the values is what the layer adds: pooled values lie as the keys that the page draws."""
    torch.manual_seed(0)
    network = SAGAN(width=4, z_dim=8, attention=attention, attention_g=(1, 2)).build(img_size=16, in_chans=1, num_classes=0).G.eval()
    with torch.no_grad():
        for number, mixer in enumerate(network.mixers.values(), 1):
            mixer.sigma.fill_(number / 4)
    z, seen = torch.randn(2, 8), {}
    for name, mixer in network.mixers.items():
        mixer.register_forward_hook(lambda _, args, out, name=name: seen.__setitem__(name, (args[0], out)))
    images, looks = gan_attention(network, z)
    torch.testing.assert_close(images, network(z))
    assert [(look.name, look.sigma) for look in looks] == [("mixers.1", 0.25), ("mixers.2", 0.5)]
    for look, (x, out) in zip(looks, seen.values(), strict=True):
        mixer = network.mixers[look.name.split(".")[1]]
        height, width = x.shape[2:]
        assert look.queries == (height, width)
        assert look.keys == ((height, width) if attention == "external" else (height // 2, width // 2))
        viewed = view_network("net", [look], place=1)
        (layer,) = viewed.layers
        assert layer.queries.grid == look.queries
        assert layer.keys.grid == look.keys
        if attention != "sagan":
            continue
        values = torch.nn.functional.max_pool2d(mixer.core.v(x), 2)
        gathered = torch.zeros(2, values.shape[1], height, width)
        for row in range(look.keys[0]):
            for column in range(look.keys[1]):
                share = look.maps["combined"][:, 0, :, row * look.keys[1] + column].view(2, 1, height, width)
                gathered += share * values[:, :, row, column, None, None]
        torch.testing.assert_close(x + look.sigma * mixer.proj(gathered), out, atol=1e-5, rtol=1e-4)


def test_networks_without_a_map_of_pixels_are_said(tmp_path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 8, 8)
    networks = {}
    for name in ("sagan", "softmax", "none", "pointwise"):
        model = SAGAN(width=4, z_dim=8, attention=name).build(img_size=8, in_chans=1, num_classes=0).eval()
        networks[name] = gan_attention(model.D, images)[1]
    files = draw_looks(images, ["0", "1"], {"generator": networks["sagan"], "discriminator": networks["softmax"]}, tmp_path, title="one")
    assert [path.name for path in files] == ["attention.html", "maps.png"]
    assert "discriminator: mixers.1" in files[0].read_text()
    for name in ("none", "pointwise", "softmax"):
        with pytest.raises(InputError, match="no attention to look at"):
            draw_looks(images, ["0", "1"], {"generator": networks[name], "discriminator": networks[name]}, tmp_path / "no", title="no")
    assert not (tmp_path / "no").exists()
