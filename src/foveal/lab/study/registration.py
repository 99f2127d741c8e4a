"""What a study is, read from the file that was committed before its runs: hypotheses, arms, seeds, steps, rates, and how it will be judged."""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from typing import Any, Literal, get_args

from ..._errors import InputError, unknown

__all__ = ["Claim", "Hypothesis", "Layer", "Part", "Registration", "list_studies", "load_registration", "load_study"]

Relation = Literal["greater", "less", "equal", "at limit", "above zero", "below zero"]
ALONE = ("at limit", "above zero", "below zero")
"""Relations of an arm by itself."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An arm as one attention layer; in a vision transformer its name says what it is."""

    attention: str
    heads: int
    options: dict[str, Any] = field(default_factory=dict)
    overlap_weight: float = 0.0
    """Of the penalty on value maps that read the same, :func:`foveal.analysis.value_overlap`."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """An experiment of the study: every arm with every seed, in every setting."""

    name: str
    title: str
    kind: str
    about: str
    metric: str
    """What is judged."""
    larger_is_better: bool
    margin: float
    """What counts as equal, in the units of the metric."""
    steps: int
    batch: int
    test_scenes: int
    rates: tuple[float, ...]
    """Learning rates that are tried with the tuning seeds, of which each arm gets its best."""
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    """Those that are judged."""
    width: int = 0
    tokens: int = 0
    ranks: tuple[int, ...] = ()
    test_tokens: tuple[int, ...] = ()
    train_scenes: int | None = None
    """Of images; those of the recipe if None."""
    counts: tuple[int, ...] = ()
    """Numbers of tokens, each trained and judged by itself."""
    depths: tuple[int, ...] = ()
    """Of a vision transformer, each trained and judged by itself."""
    distractors: tuple[str, ...] = ()
    """Kinds of distractors of scenes of digits, each trained and judged by itself."""
    depth: int = 0
    """Of a vision transformer; the recipe's if 0."""
    base_steps: int = 0
    """Of the softmax network that is fine-tuned."""
    base_rate: float = 0.0
    """And its learning rate."""
    cells: int = 0
    """Of a scene in which one changes."""
    angles: bool = False
    """Whether principal angles between both value maps are measured at the start, half-way and at the end."""
    arms: dict[str, Layer] = field(default_factory=dict)
    """Of this part, if not all of the study's."""

    @property
    def settings(self) -> tuple[str, ...]:
        """In which each arm is tuned and judged by itself."""
        named = _named("N", self.counts) or _named("depth", self.depths) or self.distractors or _named("rank", self.ranks)
        return named or ("",)

    def rank(self, setting: str) -> int:
        """Of what is asked for in a setting; the only one where settings are something else."""
        return self.ranks[self.settings.index(setting)] if len(self.ranks) > 1 else self.ranks[0]

    def count(self, setting: str) -> int:
        """Tokens in a setting."""
        return self.counts[self.settings.index(setting)] if self.counts else self.tokens

    def depth_in(self, setting: str) -> int | None:
        """Blocks of the network in a setting; the recipe's if None."""
        return self.depths[self.settings.index(setting)] if self.depths else self.depth or None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One arm against another, or against the limit of what can be known."""

    arm: str
    relation: Relation
    against: str = ""
    at: str = ""
    """The setting; the only one if empty."""
    beyond: str = ""
    """Another setting, whose difference is taken off: what is claimed is that the difference grows from there. None if empty."""
    metric: str = ""
    """The part's if empty."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """Something that was said before, which holds if all its claims do."""

    id: str
    part: str
    says: str
    claims: tuple[Claim, ...]
    primary: bool = False


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The whole study."""

    name: str
    registered: str
    about: str
    analysis: str
    alpha: float
    arms: dict[str, Layer]
    parts: dict[str, Part]
    hypotheses: tuple[Hypothesis, ...]
    digest: str
    """SHA-256 of the file."""
    follows: str = ""
    """The study that it goes on with, under its name but as a registration and a family of hypotheses of its own."""
    titles: dict[str, str] = field(default_factory=dict)
    """Of all parts that are registered, also of those that :meth:`of` left out."""
    smoke: bool = False
    """Whether this is a rehearsal of seconds, whose numbers mean nothing."""

    def arms_of(self, part: Part) -> dict[str, Layer]:
        """What is compared in a part."""
        return part.arms or self.arms

    def of(self, names: Sequence[str]) -> "Registration":
        """With these parts alone; what is registered of the others still counts in corrections.

        Raises:
            ValueError: no such part.
        """
        for name in names:
            if name not in self.parts:
                raise unknown(f"part of the study {self.name}", name, self.parts)
        return replace(self, parts={name: part for name, part in self.parts.items() if name in names})

    def rehearsal(self) -> "Registration":
        """The same in seconds: every arm and every kind of run, with few steps, seeds and scenes."""
        small: dict[str, Any] = {"steps": 3, "batch": 8, "test_scenes": 24, "train_scenes": 40}
        parts = {}
        for name, part in self.parts.items():
            base = min(part.base_steps, 3)
            parts[name] = replace(part, **small, base_steps=base, rates=part.rates[:2], tuning_seeds=part.tuning_seeds[:1], seeds=part.seeds[:2])
        return replace(self, parts=parts, smoke=True)


def list_studies() -> list[str]:
    """Names of the studies that are registered; those that go on with another bear its name."""
    return [name for name in _registered() if not load_registration(name).follows]


def load_study(name: str) -> tuple[Registration, ...]:
    """All registrations of a study, in the order in which they run.

    Raises:
        ValueError: no such study.
    """
    if name not in list_studies():
        raise unknown("study", name, list_studies())
    return (load_registration(name), *(later for later in map(load_registration, _registered()) if later.follows == name))


def load_registration(name: str) -> Registration:
    """One registration, by the name of its file.

    Raises:
        ValueError: no such registration.
    """
    if name not in _registered():
        raise unknown("registration", name, _registered())
    return read_registration(files(__package__ or "").joinpath(f"{name}.toml").read_bytes())


def _registered() -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in files(__package__ or "").iterdir() if file.name.endswith(".toml"))


def _named(word: str, values: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{word} {value}" for value in values)


def read_registration(content: bytes) -> Registration:
    """The registration that a file of these bytes holds.

    Raises:
        ValueError: a field that there is not, an arm or part that is not declared, a seed that is both tuned on and judged.
    """
    values = tomllib.loads(content.decode("utf8"))
    arms = _arms(values.pop("arms"))
    parts = {name: _read(Part, f"part {name}", {"name": name, **part, "arms": _arms(part.get("arms", {}))}) for name, part in values.pop("parts").items()}
    hypotheses = tuple(_hypothesis(given) for given in values.pop("hypotheses"))
    out: Registration = _read(
        Registration,
        "study",
        {
            **values,
            "arms": arms,
            "parts": parts,
            "hypotheses": hypotheses,
            "digest": hashlib.sha256(content).hexdigest(),
            "titles": {name: part.title for name, part in parts.items()},
        },
    )
    _check(out)
    return out


def _arms(given: dict[str, Any]) -> dict[str, Layer]:
    return {name: _read(Layer, f"arm {name}", layer) for name, layer in given.items()}


def _hypothesis(given: dict[str, Any]) -> Hypothesis:
    claims = tuple(_read(Claim, f"claim of {given.get('id')}", {"relation": claim.pop("is", None), **claim}) for claim in given["claims"])
    return _read(Hypothesis, "hypothesis", {**given, "claims": claims})


def _read(kind: Any, what: str, values: dict[str, Any]) -> Any:
    known = [item.name for item in fields(kind)]
    for name in values:
        if name not in known:
            raise unknown(f"field of {what}", name, known)
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except TypeError as error:
        raise InputError(f"{what} is not whole: {error}") from error


def _check(study: Registration) -> None:
    for part in study.parts.values():
        if both := set(part.seeds) & set(part.tuning_seeds):
            raise InputError(f"seed {min(both)} of part {part.name} is tuned on and judged")
    for hypothesis in study.hypotheses:
        if hypothesis.part not in study.parts:
            raise unknown(f"part of hypothesis {hypothesis.id}", hypothesis.part, study.parts)
        part = study.parts[hypothesis.part]
        settings, arms = part.settings, study.arms_of(part)
        for claim in hypothesis.claims:
            if claim.relation not in get_args(Relation):
                raise unknown(f"relation of hypothesis {hypothesis.id}", str(claim.relation), get_args(Relation))
            if claim.arm not in arms or (claim.against or claim.arm) not in arms:
                raise unknown(f"arm of hypothesis {hypothesis.id}", claim.arm if claim.arm not in arms else claim.against, arms)
            if bool(claim.against) == (claim.relation in ALONE):
                raise InputError(f"hypothesis {hypothesis.id} is against the limit or against an arm, one of the two")
            if claim.at not in settings and not (len(settings) == 1 and not claim.at):
                raise unknown(f"setting of hypothesis {hypothesis.id}", claim.at, settings)
            if claim.beyond and (claim.beyond not in settings or claim.relation in ALONE):
                raise unknown(f"setting of hypothesis {hypothesis.id}", claim.beyond, settings)
