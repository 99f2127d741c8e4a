import json
from concurrent.futures import Future

import pytest
import torch
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks._harness import Row
from benchmarks._page import HEAD, page, section
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu._lane import Lane


def test_sections_that_were_not_made_anew_are_kept_in_order() -> None:
    names = ["one", "two", "three"]
    old = "an old head\n\n## three\n\nkept\n\n### a part\n\n## one\n\nold\n\n## nothing of ours\n\ndropped\n"
    new = page(HEAD, {"one": "## one\n\nnew\n", "two": "## two\n\nadded\n"}, old, names)
    assert new == "\n".join([HEAD, "## one\n\nnew\n", "## two\n\nadded\n", "## three\n\nkept\n\n### a part\n"])
    assert page(HEAD, {}, new, names) == new


def test_a_section_says_what_was_compared_and_a_target_that_was_missed() -> None:
    text = section("loader", [Row("some", "a size", "1 ms", "2 ms", 0.5, "≤ 0.1", False)])
    assert text.startswith("## loader\n\nWhich share of a training step is spent waiting for data")
    assert "\n| some | a size | 1 ms | 2 ms | 0.50 | ≤ 0.1 | **no** |\n" in text
    assert "`python -m benchmarks --write loader`" in text.splitlines()[-1]


def test_unknown_names_run_nothing(capsys) -> None:
    assert main([BENCHMARKS[0], "denosing"]) == 2
    assert "denosing; known: denoising, bfloat16" in capsys.readouterr().err


def test_a_refusal_leaves_the_others_and_is_told(monkeypatch, tmp_path, capsys) -> None:
    class Pool:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, _: object, name: str) -> Future[list[Row]]:
            future: Future[list[Row]] = Future()
            if name == "halo":
                future.set_exception(SystemExit("the two sides differ"))
            else:
                future.set_result([Row("some", "a size", "1 ms", "2 ms", 0.5, "≤ 1", True)])
            return future

    monkeypatch.setattr("benchmarks.__main__.ProcessPoolExecutor", Pool)
    monkeypatch.setattr("benchmarks.__main__.PAGE", tmp_path / "page.md")
    assert main(["--write", "halo", "loader"]) == 1
    assert "halo: the two sides differ" in capsys.readouterr().err
    text = (tmp_path / "page.md").read_text("utf8")
    assert "## loader" in text
    assert "## halo" not in text
    assert main(["--write", "loader"]) == 0


def test_the_lane_for_a_gpu_rehearses_on_a_processor(tmp_path, capsys) -> None:
    assert gpu.main(["--device", "cpu", "--smoke", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    found, text = json.loads((tmp_path / "gpu.json").read_text("utf8")), (tmp_path / "gpu.md").read_text("utf8")
    assert found["wrong"] == []
    assert found["cut"] == {}
    assert set(found["parts"]) == {"forward", "training", "rivals", "picks", "networks", "compiled"}
    assert all(row["error"] < 1e-5 for row in found["parts"]["forward"] if row["precision"] == "float32")
    assert "A rehearsal with small sizes" in text


def test_what_is_wrong_on_a_device_is_told_and_what_is_left_undone_too(tmp_path, monkeypatch, capsys) -> None:
    def wrong(lane: Lane) -> None:
        lane.wrong.append("denoising is off")

    def long(lane: Lane) -> None:
        lane.until = 0.0
        lane.look_at_the_clock()

    monkeypatch.setattr(gpu, "PARTS", {"forward": wrong, "training": long})
    assert gpu.main(["--device", "cpu", "--smoke", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "WRONG: denoising is off" in said
    assert "training is not whole" in said
    text = (tmp_path / "gpu.md").read_text("utf8")
    assert "- denoising is off" in text
    assert "**Forward and backward of every mechanism** is not whole" in text


def test_a_part_that_breaks_off_is_wrong_and_the_others_are_kept(tmp_path, monkeypatch, capsys) -> None:
    def breaking(lane: Lane) -> None:
        lane.add("forward", name="denoising", milliseconds=1.0)
        raise NotImplementedError("not for Half")

    def kept(lane: Lane) -> None:
        # what was found before is on disk already, for whoever ends the command here
        found = json.loads((tmp_path / "gpu.json").read_text("utf8"))
        assert found["parts"]["forward"] == [{"name": "denoising", "milliseconds": 1.0}]
        assert found["cut"] == {"forward": "it broke off", "training": "the command was ended before it"}
        lane.add("training", name="external", milliseconds=2.0)

    monkeypatch.setattr(gpu, "PARTS", {"forward": breaking, "training": kept})
    assert gpu.main(["--device", "cpu", "--smoke", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "WRONG: forward broke off: NotImplementedError: not for Half" in said
    assert "Traceback" in said
    found = json.loads((tmp_path / "gpu.json").read_text("utf8"))
    assert list(found["parts"]) == ["forward", "training"]
    assert found["cut"] == {"forward": "it broke off"}


def test_a_folder_that_is_none_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys) -> None:
    def never(lane: Lane) -> None:
        raise AssertionError("measured")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(gpu, "PARTS", {"forward": never})
    with pytest.raises(SystemExit) as left:
        gpu.main(["--device", "cpu", "--smoke", "--out", str(tmp_path / "file")])
    assert left.value.code == 2
    assert "--out must be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no CUDA device"),
        (["--device", "cpu"], "add --smoke"),
        (["--device", "gpu"], "cuda or cpu"),
        (["--device", "meta", "--smoke"], "cuda or cpu"),
        (["--minutes", "0"], "above 0"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_the_lane_refuses(words, says, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        gpu.main(words)
    assert left.value.code == 2
    assert says in capsys.readouterr().err
