"""Further questions that a scene happens to answer, whatever it was made for: a scene costs far more than a question."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ._scene import RELATIONS, Boxes, holds, larger

__all__ = ["AGAIN", "Candidates", "asked_again"]

Candidates = Mapping[str, Sequence[tuple[str, str]]]
"""Pairs of a text and its answer, by what is balanced: the answers of yes and no; all together where classes are the answers, of which none is special."""
AGAIN = ("exists", "what", "larger")
"""Kinds that any scene can be asked. How many there are is not: most scenes hold none or one of a class, and the text alone would say so."""


def asked_again(
    rng: np.random.Generator, kind: str, labels: Sequence[int], boxes: Boxes, names: Sequence[str], text: Callable[[str, str, str, int], str]
) -> Candidates:
    """All that can be asked in a way.

    Args:
        rng: draws the relation.
        kind: one of :data:`AGAIN`.
        labels: classes of the things of the scene.
        boxes: of these, as they were laid.
        names: of classes.
        text: the question of a kind, a name, another and a relation.

    Returns:
        Nothing where the scene leaves it open.
    """
    if kind == "exists":
        there = {"yes": sorted(set(labels)), "no": [label for label in range(len(names)) if label not in labels]}
        return {answer: [(text(kind, names[label], "", 0), answer) for label in own] for answer, own in there.items() if own}
    alone = [place for place, label in enumerate(labels) if list(labels).count(label) == 1]
    if kind == "larger":
        found: dict[str, list[tuple[str, str]]] = {}
        for first in alone:
            for second in alone:
                if first != second and larger(boxes, first, second):
                    found.setdefault("yes", []).append((text(kind, names[labels[first]], names[labels[second]], 0), "yes"))
                    found.setdefault("no", []).append((text(kind, names[labels[second]], names[labels[first]], 0), "no"))
        return found
    relation = (0, 2)[int(rng.integers(2))]
    others = [each for each in range(len(RELATIONS)) if each != relation]
    pairs = []
    for second in alone:
        so = [first for first in range(len(labels)) if first != second and holds(boxes, relation, first, second)]
        rest = [place for place in range(len(labels)) if place not in (*so, second)]
        # every other one is beyond doubt something else
        if len(so) == 1 and so[0] in alone and all(any(holds(boxes, each, place, second) for each in others) for place in rest):
            pairs.append((text(kind, names[labels[second]], "", relation), names[labels[so[0]]]))
    return {"any": pairs} if pairs else {}
