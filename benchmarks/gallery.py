"""The pictures of docs/gallery.md: ``python -m benchmarks.gallery [TASK …]`` trains each recipe for the few steps that stand here, and keeps one picture.

Writes ``docs/gallery/TASK.webp`` and what was trained for how long into ``docs/gallery/runs.json``; the site makes the page of them.
"""

import io
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "gallery"
WIDEST, QUALITY = 1200, 72
"""Pixels, and of WebP: all pictures together are to stay below two megabytes."""


@dataclass(frozen=True)
class Shown:
    """What is trained, and which picture of it is kept."""

    recipe: str
    steps: int
    picture: str
    """A file of ``RUN/report``; or ``predictions``, drawn as the report of a comparison draws them; or ``maps``, as ``foveal inspect`` draws them."""
    about: str


TASKS: dict[str, Shown] = {
    "Classification": Shown("cluttered-digits", 60, "maps", "One test image and where the class token looks, by layer and head."),
    "VideoClassification": Shown("moving-digits", 40, "predictions", "Clips with their frames, and the answers for them."),
    "Segmentation": Shown("flag-swap", 60, "predictions", "Truth, answers and errors. A far flag exchanges the labels of the two shapes."),
    "Detection": Shown("digit-detection", 80, "predictions", "Boxes and masks, with those that were found."),
    "StereoMatching": Shown("shift-stereo", 40, "predictions", "A real pair, its disparity, what was found and where that is wrong."),
    "PointClassification": Shown("solids", 40, "attention.png", "Where one point, the star, looks, layer by layer."),
    "PartSegmentation": Shown("solid-pairs", 120, "clouds.png", "Truth, answers and errors of the points."),
    "Diffusion": Shown("dit-digits", 400, "samples.png", "Drawn digits, a row for each class, beside training images."),
    "AdversarialGeneration": Shown("sagan-digits", 150, "samples.png", "Drawn digits, a row for each class, beside training images."),
    "Captioning": Shown("scene-captions", 120, "words.png", "Each word over the picture, lit where it took from when it was found."),
    "ImageQuestions": Shown("scene-questions", 200, "answers.png", "Questions and answers, lit where regions were taken from."),
    "RegionAnswers": Shown("region-questions", 100, "answers.png", "Questions about made regions, and what was taken of them."),
    "VideoQuestions": Shown("clip-questions", 150, "answers.png", "Clips, questions and answers."),
}
LEFT_OUT = {
    "CausalLearning": "draws no pictures: what it learns beside a class is a partition of the data",
    "RegionPretraining": "guesses hidden words, which is a number and no picture",
    "SelfCritical": "goes on from a trained captioner, which takes longer than a gallery may",
    "VideoConversation": "has a small stand-in for a video language model alone, of whose answers there is no picture",
}
"""Tasks without a picture, and why."""


def command(shown: Shown) -> str:
    return f"foveal train {shown.recipe} --steps {shown.steps}"


def train(shown: Shown, run: Path) -> float:
    """CPU seconds of the training, on one thread."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "foveal.cli", *command(shown).split()[1:], "--eval-every", str(shown.steps), "--out", str(run)]
    subprocess.run(words, check=True, env=env, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def picture(shown: Shown, run: Path, folder: Path) -> Path:
    """The picture of a finished run."""
    from foveal.analysis.pictures import write_sheet
    from foveal.lab.inspect import inspect_run, load_model
    from foveal.lab.training import load_run

    if shown.picture.endswith(".png"):
        return run / "report" / shown.picture
    recipe, bundle, model = load_run(run)
    samples = [bundle.test[place] for place in range(min(6, len(bundle.test)))]
    if shown.picture == "maps":
        from PIL import Image

        from foveal.analysis.pictures import to_pixels

        pixels = to_pixels(samples[0][0])
        inspect_run(load_model(str(run)), Image.fromarray(pixels.squeeze()), folder, title=run.name)
        return folder / "maps.png"
    rows = [*recipe.task.draw_truth(samples, bundle), *recipe.task.shown(model.eval(), samples, bundle)]
    write_sheet([(row.title, [(cell.picture, cell.caption) for cell in row.cells]) for row in rows], folder, name="predictions", title=run.name, about="")
    return folder / "predictions.png"


def keep(name: str, file: Path) -> None:
    """As a compressed picture that is no wider than a page."""
    from PIL import Image

    with Image.open(file) as opened:
        image = opened.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "WEBP", quality=QUALITY, method=6)
    (FOLDER / f"{name}.webp").write_bytes(written.getvalue())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "runs.json"
    runs: dict[str, Any] = json.loads(path.read_text("utf8")) if path.exists() else {}
    for name in sys.argv[1:] or TASKS:
        shown = TASKS[name]
        with TemporaryDirectory() as folder:
            run, started = Path(folder, shown.recipe), time.monotonic()
            cpu = train(shown, run)
            keep(name, picture(shown, run, Path(folder, "pictures")))
            metrics = json.loads((run / "metrics.json").read_text("utf8"))
            headline, value = _headline(run, metrics)
            runs[name] = {
                "recipe": shown.recipe,
                "steps": shown.steps,
                "cpu_seconds": round(cpu),
                "date": f"{date.today()}",
                "metric": headline,
                "value": value,
            }
        path.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n", "utf8")
        print(f"{name}: {command(shown)}, {cpu:.0f} CPU seconds, {time.monotonic() - started:.0f} in all; {headline} {value}", flush=True)


def _headline(run: Path, metrics: dict[str, Any]) -> tuple[str, str]:
    from foveal.lab.training import Recipe, read_json

    found = Recipe.from_dict(read_json(run / "recipe.json")).task.primary_metric
    return found.label, found.show(metrics[found.name])


if __name__ == "__main__":
    main()
