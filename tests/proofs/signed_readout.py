"""What a sign buys: contrasts and common modes of high rank out of one layer. ``foveal study denoising`` asks the same with rates tuned and more seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from foveal.lab.study import load_registration
from foveal.lab.study.single_layer import judge_layer, limit, train_layer

from .proof import Arm, Proof, Row, rows_of

STUDY = load_registration("denoising")
RANK, RATE, SCENES = 28, 0.03, 2000
SHARP = {"softmax": 24 / 56, "softmax-wide": 8 / 56}
"""Of what sharp heads, which give all their weight to one token, leave of a contrast of rank 28: (2r − W)/2r at inner width W."""


def error(seed: int, part: str, arm: str, rate: float = RATE) -> float:
    registered = replace(STUDY.parts[part], test_scenes=SCENES)
    attention = train_layer(registered, STUDY.arms[arm], RANK, rate, seed)
    return judge_layer(registered, attention, RANK, seed)[registered.metric]


def _arm(part: str, arm: str, gate: tuple[float, float], reading: str, least: float | None = None, rate: float = RATE) -> Arm:
    known = least if least is not None else limit(STUDY.parts[part].kind, STUDY.parts[part].tokens)
    return Arm(f"{arm}, {_SHORT[part]}", partial(error, part=part, arm=arm, rate=rate), gate, reading, known)


_SHORT = {"S1": "contrast", "S1N": "contrast, asked by content", "S2": "common mode"}
_KEEPS = "a sign and one value map are enough"

ARMS = (
    _arm("S1", "softmax", (0.35, 0.65), "**negative**: its inner width of 32 is below twice the rank", SHARP["softmax"], 0.01),
    _arm("S1", "softmax-wide", (0.09, 0.5), "**negative**: 48 is below twice the rank too", SHARP["softmax-wide"]),
    _arm("S1", "denoising-shared", (0, 0.02), _KEEPS),
    _arm("S1", "softmax-centered", (0, 0.06), "so is a sign without a second query"),
    _arm("S1N", "denoising-shared", (0, 0.05), "a second query leaves the content of who asks out"),
    _arm("S1N", "softmax-centered", (0.02, 0.6), "**negative**: the same weights exist, and training does not come to them"),
    _arm("S2", "softmax", (0.35, 0.65), "**negative**: what all have in common passes", rate=0.01),
    _arm("S2", "softmax-wide", (0.12, 0.6), "**negative**"),
    _arm("S2", "denoising-shared", (0.07, 0.09), "at the limit"),
    _arm("S2", "softmax-centered", (0.07, 0.09), "at the limit: the mean is what all have in common"),
)


def rows(seeds: Sequence[int]) -> Iterator[Row]:
    return rows_of(ARMS)(seeds)


PROOF = Proof(
    title="Signed read-out",
    about=f"""\
One attention layer of width 32, no residual, read at one of 12 tokens, has to give the difference of the content of two tokens (contrast) or the content of
one whose scene adds the same to all (common mode); content has {RANK} numbers and roles are marked. The claim under test: a layer of softmax attention whose
weights depend on roles alone needs an inner width of twice the rank for either, in however many heads, and attention with a sign needs the rank. Adam, one
cycle up to {RATE} (0.01 for softmax), 600 steps of 32 fresh scenes.""",
    figure="error relative to predicting 0",
    rows=rows,
    notes="""\
The limit of softmax and the wider softmax in the contrast is that of sharp heads; maps that mix both tokens with large weights that cancel can go below it, so
it is no bound. Where who asks has content of its own, its query meets it: weights that pass it over exist for the centered layer, and
`tests/study/test_single_layer.py` writes them down, but training from λ = 0.5 ends elsewhere. So the cheapest sign is a
control, and not in every task as good as a second query.""",
)
