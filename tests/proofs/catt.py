"""A question about one of several objects, and a scene that gives the answer away in training and not in the test. Does a dictionary help? It does not.

The control is not one branch but two of the sample, which have as many weights: a second branch is worth something whatever it reads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean, stdev
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal import CrossSampleDictionary, SoftmaxAttention
from foveal.attention import CrossSamplePair
from foveal.lab.compare.statistics import estimate, verdict

from .proof import Proof, Row

DIM, HEADS, TOKENS, ENTRIES = 32, 4, 6, 50
ANSWERS, KINDS = 10, 8
SALIENCE, ATTRIBUTE = 2.0, 0.6
TEST = 4000
BATCH, LR = 128, 1e-3


@dataclass(frozen=True)
class Task:
    """One constant question or a question for each sample, and how often the scene follows the answer in training."""

    varying: bool
    follows: float
    samples: int
    noise: float
    epochs: int

    def __str__(self) -> str:
        return f"{'a question each' if self.varying else 'one question'}, ρ = {self.follows:g}"


@dataclass(frozen=True)
class World:
    kinds: Tensor
    scenes: Tensor
    attributes: Tensor

    @staticmethod
    def of(generator: torch.Generator) -> "World":
        return World(*(torch.randn(size, DIM, generator=generator) for size in (KINDS, ANSWERS, ANSWERS)))

    def draw(self, size: int, task: Task, follows: float, generator: torch.Generator) -> "Samples":
        """One token is the scene, the others are objects of different kinds, and of one of these the attribute is asked."""
        kinds = torch.rand(size, KINDS, generator=generator)
        if not task.varying:
            # what is asked for is among the objects
            kinds[:, 0] = -1
        kinds = kinds.argsort(1)[:, : TOKENS - 1]
        attributes = torch.randint(ANSWERS, (size, TOKENS), generator=generator)
        answers = attributes[:, 0]
        free = torch.randint(ANSWERS, (size,), generator=generator)
        scene = torch.where(torch.rand(size, generator=generator) < follows, answers, free)
        what = torch.cat([self.kinds[kinds], SALIENCE * self.scenes[scene][:, None]], 1)
        tokens = what + ATTRIBUTE * self.attributes[attributes] + task.noise * torch.randn(size, TOKENS, DIM, generator=generator)
        return Samples(self.kinds[kinds[:, :1]], tokens, answers, scene)


@dataclass(frozen=True)
class Samples:
    """Questions ``(B, 1, C)``, tokens ``(B, N, C)``, answers, and which scene it is."""

    questions: Tensor
    tokens: Tensor
    answers: Tensor
    scenes: Tensor


@cache
def data(task: Task, seed: int) -> tuple[Samples, Samples, Samples]:
    generator = torch.Generator().manual_seed(seed)
    world = World.of(generator)
    sizes = ((task.samples, task.follows), (TEST, task.follows), (TEST, 0.0))
    return tuple(world.draw(size, task, follows, generator) for size, follows in sizes)  # type: ignore[return-value]


Second = Literal["none", "sample", "tokens", "dictionary", "others"]


@dataclass(frozen=True)
class Contender:
    """``second`` is what the second branch reads: nothing; the sample; with a varying question, its tokens as they are; a dictionary; other samples."""

    name: str
    second: Second
    share: bool = True
    init: Literal["normal", "kmeans"] = "kmeans"
    trainable: bool = True
    residual: bool = True

    def __str__(self) -> str:
        return self.name


DRAWS, BANK = 8, 256


class Net(nn.Module):
    """With a varying question tokens attend first, with residual and norm as in the released block; then the question attends to either stream."""

    def __init__(self, arm: Contender, task: Task) -> None:
        super().__init__()
        self.arm, self.task = arm, task
        catt = arm.second == "dictionary"
        attention = lambda: SoftmaxAttention(DIM, HEADS, qkv_bias=True)  # noqa: E731
        own_second = arm.second in ("sample", "tokens", "others") or (catt and not arm.share)
        self.pair = CrossSamplePair(DIM, HEADS, qkv_bias=True, share=arm.share) if catt else attention()
        self.dictionary = CrossSampleDictionary(ENTRIES, DIM, init=arm.init, trainable=arm.trainable) if catt else None
        self.second = attention() if arm.second in ("sample", "others") else None
        if task.varying:
            self.norm, self.ask = nn.LayerNorm(DIM), attention()
            self.second_norm, self.second_ask = (nn.LayerNorm(DIM), attention()) if own_second else (None, None)
        width = DIM * (1 if arm.second == "none" else 2)
        self.answer = nn.Sequential(nn.Linear(width, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, ANSWERS))

    def branches(self, questions: Tensor, tokens: Tensor) -> list[Tensor]:
        asking, context = (tokens, None) if self.task.varying else (questions, tokens)
        if self.dictionary is not None:
            out = list(self.pair.pair(asking, self.dictionary(tokens), context=context))
        else:
            out = [self.pair(asking, context=context)]
            if self.second is not None:
                out.append(self.second(asking, context=context))
            elif self.arm.second == "tokens":
                out.append(torch.zeros_like(tokens))
        if not self.task.varying:
            return [branch[:, 0] for branch in out]
        result = []
        for first, branch in enumerate(out):
            norm, ask = (self.second_norm or self.norm, self.second_ask or self.ask) if first else (self.norm, self.ask)
            stream = norm(tokens + branch if self.arm.residual or not first else branch)
            result.append(ask(questions, context=stream)[:, 0])
        return result

    def forward(self, questions: Tensor, tokens: Tensor, bank: Tensor | None = None) -> Tensor:
        """Log-probabilities. Of the front-door formula: of the mean over the second branch of other samples, those of the batch or of ``bank``."""
        branches = self.branches(questions, tokens)
        if self.arm.second != "others":
            return self.answer(torch.cat(branches, -1)).log_softmax(-1)
        own, other = branches
        others = torch.stack([other[torch.randperm(len(other))] for _ in range(DRAWS)], 1) if bank is None else bank.expand(len(own), -1, -1)
        pairs = torch.cat([own[:, None].expand(-1, others.shape[1], -1), others], -1)
        return self.answer(pairs).log_softmax(-1).logsumexp(1) - torch.tensor(others.shape[1]).log()


@cache
def score(arm: Contender, task: Task, seed: int) -> tuple[float, float]:
    """Accuracy in and out of distribution."""
    train, *tests = data(task, seed)
    torch.manual_seed(seed)
    net = Net(arm, task)
    if net.dictionary is not None and arm.init == "kmeans":
        net.dictionary.fit(train.tokens, seed=seed)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], LR)
    order = torch.Generator().manual_seed(seed)
    for _ in range(task.epochs):
        for at in torch.randperm(task.samples, generator=order).split(BATCH):
            optimizer.zero_grad()
            F.nll_loss(net(train.questions[at], train.tokens[at]), train.answers[at]).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        bank = net.branches(train.questions[:BANK], train.tokens[:BANK])[1][None] if arm.second == "others" else None
        iid, ood = ((net(test.questions, test.tokens, bank).argmax(-1) == test.answers).float().mean().item() for test in tests)
    return iid, ood


# -- arms ----------------------------------------------------------------------------------------------------------------------------------------

ONE = Contender("one branch", "none")
TWO = Contender("two branches of the sample", "sample")
SHARED = Contender("CATT, shared, K-means", "dictionary")
RANDOM = Contender("CATT, shared, random start", "dictionary", init="normal")
UNSHARED = Contender("CATT, unshared, K-means", "dictionary", share=False)
FROZEN = Contender("CATT, shared, K-means, frozen", "dictionary", trainable=False)
FRONT_DOOR = Contender("front-door formula by sampling", "others")
TOKENS_AGAIN = Contender("second branch of tokens as they are", "tokens")
NO_RESIDUAL = Contender("CATT, shared, K-means, dictionary alone", "dictionary", residual=False)

CONSTANT = (ONE, TWO, SHARED, RANDOM, UNSHARED, FROZEN, FRONT_DOOR)
VARYING = (TWO, SHARED, RANDOM, TOKENS_AGAIN, NO_RESIDUAL)
TASKS = (*(Task(varying=False, follows=follows, samples=4000, noise=0.8, epochs=25) for follows in (0.0, 0.9, 0.98)), Task(True, 0.95, 6000, 0.5, 30))

# per task: what every seed is held to out of distribution, and the pilot's means of 5 and 6 seeds
KNOWN: dict[Task, tuple[tuple[float, float], dict[Contender, float]]] = {
    TASKS[0]: ((0.94, 1.0), {ONE: 0.970, TWO: 0.972, SHARED: 0.968, UNSHARED: 0.971, RANDOM: 0.973, FROZEN: 0.969, FRONT_DOOR: 0.970}),
    TASKS[1]: ((0.55, 0.97), {ONE: 0.841, TWO: 0.850, SHARED: 0.753, UNSHARED: 0.762, RANDOM: 0.756, FROZEN: 0.743, FRONT_DOOR: 0.799}),
    TASKS[2]: ((0.05, 0.75), {ONE: 0.154, TWO: 0.269, SHARED: 0.194, UNSHARED: 0.117, RANDOM: 0.182, FROZEN: 0.196, FRONT_DOOR: 0.231}),
    TASKS[3]: ((0.55, 0.97), {TWO: 0.887, SHARED: 0.903, RANDOM: 0.903, TOKENS_AGAIN: 0.891, NO_RESIDUAL: 0.872}),
}
READINGS = {
    ONE: "the host",
    TWO: "the control: as many weights, no dictionary",
    SHARED: "the paper's",
    RANDOM: "clusters are worth nothing",
    UNSHARED: "nor are weights of their own",
    FROZEN: "nor is training the entries",
    FRONT_DOOR: "what the paper derives its form from",
    TOKENS_AGAIN: "a second branch that reads nothing new",
    NO_RESIDUAL: "what is really of other samples",
}
# of the shared dictionary from two branches of the sample: what every seed is held to, what the mean of seeds is held to, the pilot's mean
GAINS = {
    TASKS[0]: ((-0.02, 0.02), (-0.01, 0.01), -0.004),
    TASKS[1]: ((-0.4, 0.1), (-0.3, 0.03), -0.097),
    TASKS[2]: ((-0.6, 0.2), (-0.4, 0.05), -0.075),
    TASKS[3]: ((-0.3, 0.3), (-0.1, 0.1), 0.016),
}


def arms(task: Task) -> tuple[Contender, ...]:
    return VARYING if task.varying else CONSTANT


def gain(arm: Contender, task: Task, seed: int) -> float:
    """Out of distribution, over two branches of the sample; paired, for seeds differ more than arms do."""
    return score(arm, task, seed)[1] - score(TWO, task, seed)[1]


def apart(task: Task, seed: int) -> float:
    """In distribution, the largest distance of an arm from two branches of the sample."""
    return max(abs(score(arm, task, seed)[0] - score(TWO, task, seed)[0]) for arm in arms(task))


def _against(gains: Sequence[float]) -> str:
    error = f" ± {stdev(gains) / len(gains) ** 0.5:.3f}" if len(gains) > 1 else ""
    return f"{mean(gains):+.3f}{error} against two branches"


def rows(seeds: Sequence[int]) -> Iterator[Row]:
    for task in TASKS:
        gate, pilots = KNOWN[task]
        for arm in arms(task):
            iid, ood = zip(*(score(arm, task, seed) for seed in seeds), strict=True)
            against = "" if arm is TWO else f"; {_against([gain(arm, task, seed) for seed in seeds])}"
            yield Row(f"{task}: {arm}", ood, gate, f"{READINGS[arm]}; in distribution {mean(iid):.3f}{against}", pilot=pilots[arm])
        gate, _, pilot = GAINS[task]
        gains = [gain(SHARED, task, seed) for seed in seeds]
        yield Row(f"{task}: gain of {SHARED}, over two branches", gains, gate, f"**negative**: {verdict(estimate(gains))}; {_against(gains)}", pilot=pilot)
        yield Row(f"{task}: in distribution, the variant farthest from two branches", [apart(task, seed) for seed in seeds], (0.0, 0.02), "all the same")


PROOF = Proof(
    title="A question about one of several objects (CATT)",
    about=f"""\
{TOKENS} tokens of width {DIM}, noisy sums of what an object is and of one of {ANSWERS} attributes; one of them, twice as large, is a scene. A question asks for
the attribute of one object. In training the scene follows the answer with probability ρ, in the test it is independent. One layer of attention with
{HEADS} heads and {ENTRIES} entries in the dictionary (Yang et al. 2021), Adam {LR}, batch {BATCH}. The claim under test: a branch that reads a dictionary,
which stands for other samples, keeps a model from following the scene.""",
    figure="accuracy out of distribution; of gains, the difference within a seed, of which 0 is none",
    rows=rows,
    notes="""\
The control is two branches of the sample, which have as many weights and no dictionary; ± is one standard error over seeds.

- **One question**: a dictionary loses wherever there is a shortcut, clustered or random, frozen or with weights of its own, as in the pilot. Its answer to a
  question that never changes is a constant vector, which cannot tell one sample from another.
- **A question each**: here the dictionary is ahead in every seed, more than in the pilot, with clusters and nearly as much with a random start. But the tokens
  as they are, in a second branch without any dictionary, have half of that gain, and three seeds do not tell them from it. The branch adds the sample's own
  tokens to what it reads; when it may not, and what it hands on is of the dictionary alone, it loses. So the gain belongs to a second way for the tokens more
  than to other samples, and how much a dictionary adds is open.

What is claimed for a dictionary is what the tests of the mechanism show, and that it does no harm in distribution.""",
)
