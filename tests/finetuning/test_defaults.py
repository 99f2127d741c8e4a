"""What a fine-tuning begins with and what its page says: settings that a practitioner would choose, and answers counted as they fell."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from foveal.lab.data import Photographs
from foveal.lab.finetuning import _judged, fine_tune, opening
from foveal.lab.finetuning._judged import Judged, judged, looked_at
from foveal.lab.finetuning.page import _pictures, write_page
from foveal.lab.finetuning.recipe import _augmented, calibration_steps
from foveal.lab.training import Recipe, build_model, fit, load_data, read_json


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    return file


def composed(photographs: Path, weights: Path | str, **options: Any) -> Recipe:
    return fine_tune("test_vit", photographs, weights=weights, img_size=160, **options)


@pytest.mark.parametrize(
    ("options", "lr", "new_lr", "first", "decay"),
    [
        ({}, 1e-4, 1e-3, 0.1, 0.75),
        ({"lr": 2e-4}, 2e-4, 2e-3, 0.1, 0.75),
        ({"new_lr": 5e-4, "layer_decay": 1.0}, 1e-4, 5e-4, 0.1, 1.0),
        ({"freeze": "all-but-new"}, 1e-4, 1e-3, 0.0, 0.75),
        ({"lora": 2}, 1e-3, 1e-3, 0.0, None),
        ({"weights": "random"}, 1e-3, 1e-3, 0.0, None),
    ],
)
def test_rates_are_those_of_what_is_there(options, lr, new_lr, first, decay, photographs: Path, weights: Path) -> None:
    """Pretrained layers slowly and less the deeper they lie, what is new faster and alone at first, unless all else is still or new as well."""
    optim = composed(photographs, **({"weights": weights} | options)).optim
    assert (optim.lr, optim.new_lr, optim.new_first, optim.layer_decay) == (pytest.approx(lr), pytest.approx(new_lr), first, decay)
    assert optim.min_lr == pytest.approx(lr / 100)


def test_a_step_has_no_more_images_than_there_are(photographs: Path) -> None:
    recipe = composed(photographs, "random", batch_size=64, epochs=3)
    # of twelve images two validate
    assert (recipe.batch_size, recipe.steps, recipe.eval_every) == (10, 3, 1)
    recipe = composed(photographs, "random", batch_size=4, epochs=2)
    assert (recipe.batch_size, recipe.steps, recipe.eval_every) == (4, 5, 2)


@pytest.mark.parametrize(("images", "augment"), [(1, "light"), (200, "light"), (201, "medium"), (5000, "medium"), (5001, "strong")])
def test_few_images_are_changed_little(images, augment, photographs: Path) -> None:
    assert _augmented(Photographs(root=photographs, img_size=32), images).augment == augment


def test_what_changes_the_function_is_fitted_first(photographs: Path, weights: Path) -> None:
    assert composed(photographs, weights, attention="external").model.calibrate == 100
    assert composed(photographs, weights, attention="denoising", warm_start="exact").model.calibrate == 0
    assert composed(photographs, weights, attention="external", calibrate=7).model.calibrate == 7
    network = composed(photographs, "random", attention="external").model
    assert network.calibrate == 0
    report = SimpleNamespace(swaps=[SimpleNamespace(output="changed")])
    assert calibration_steps(network, report) == 0, "nothing pretrained is there to be fitted to"
    assert calibration_steps(replace(network, weights="pretrained"), report) == 100


def test_the_opening_counts_parameters_and_memory(photographs: Path) -> None:
    recipe = composed(photographs, "random", freeze="all-but-head")
    model = build_model(recipe, load_data(recipe.data))
    every, head = sum(value.numel() for value in model.parameters()), sum(value.numel() for value in model.head.parameters())
    lines = {line.partition(" ")[0]: line for line in opening(recipe)}
    assert f"{every:,}; {head:,} learn; {head:,} are new" in lines["parameters"]
    # weights of all; of what learns a gradient and two moments; four bytes each
    assert int(re.search(r"([\d,]+) MiB", lines["memory"])[1].replace(",", "")) == round(4 * (every + 3 * head) / 2**20)
    whole = composed(photographs, "random")
    (line,) = (line for line in opening(whole) if line.startswith("memory"))
    assert f"{16 * every / 2**20:,.0f} MiB" in line


class Says(nn.Module):
    """The class that the first pixel is the number of."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * torch.eye(self.classes)[images[:, 0, 0, 0].long()]


def test_rows_of_the_confusion_are_the_truth() -> None:
    truth, answers = [0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 0, 2]
    split = [(torch.full((1, 2, 2), float(answer)), label) for answer, label in zip(answers, truth, strict=True)]
    found = judged(Says(3), split, SimpleNamespace(classes=["a", "b", "c"]), batch_size=4)  # type: ignore[arg-type]
    assert found.confusion.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    assert found.hits == 3
    torch.testing.assert_close(found.probabilities.max(-1).values, torch.full((6,), float(np.exp(3) / (np.exp(3) + 2))))


@pytest.mark.parametrize("count", [5, 20])
def test_the_best_and_the_worst_are_other_images_in_their_order(count) -> None:
    """By the probability of their own class, the extreme ones first."""
    sure = torch.linspace(0.03, 0.98, count)[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    found = Judged(torch.stack([sure, 1 - sure], 1), torch.zeros(count, dtype=torch.long), torch.zeros(2, 2))
    split = [(torch.full((3, 4, 4), float(n % 2)), 0) for n in range(count)]
    best, worst, about = _pictures(Says(2), split, SimpleNamespace(classes=["a", "b"]), found)
    order = sure.sort().values.tolist()
    few = min(6, count // 2)
    assert [cell["probability"] for cell in worst] == [f"{share:.0%}" for share in order[:few]]
    assert [cell["probability"] for cell in best] == [f"{share:.0%}" for share in reversed(order[few:])][:6]
    assert all(cell["wrong"] == (float(cell["probability"][:-1]) < 50) == (cell["answer"] == "b") for cell in [*best, *worst])
    assert about.startswith("no maps: ")


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_where_it_looked_is_of_what_the_head_reads(pool, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = torch.rand(2, 10, 10)
    monkeypatch.setattr(_judged, "rollout", lambda model, images: flow)
    rows, about = looked_at(SimpleNamespace(num_prefix_tokens=1, global_pool=pool), torch.empty(0))
    want = flow[:, 0, 1:] if pool == "token" else flow[:, 1:, 1:].mean(1)
    torch.testing.assert_close(rows, want.view(2, 3, 3))
    assert ("class token" in about) == (pool == "token")


def test_the_page_is_of_the_test_where_there_is_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for label in ("left", "right"):
            folder = tmp_path / "photographs" / split / label
            folder.mkdir(parents=True)
            for n in range(count):
                Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    recipe = replace(composed(tmp_path / "photographs", "random", batch_size=6), steps=1, eval_every=1, checkpoint_every=1, trackers=())
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert read_json(tmp_path / "run" / "metrics.json")["split"] == "test"
    page = write_page(tmp_path / "run").read_text()
    hits, images = re.search(r"<h1>(\d+) of (\d+) test", page).groups()
    assert int(images) == 4
    assert int(hits) == round(4 * metrics["accuracy"])
