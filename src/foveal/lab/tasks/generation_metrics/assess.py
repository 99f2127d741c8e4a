"""Drawn images by every measure that fits them, each beside what as many real images get: images of the training held against those of the test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...._errors import InputError
from ...data import DataBundle
from ._network import FEATURES, FeatureNetwork, Features, describe
from ._real import SEARCHED, searched, some_of
from .frechet import frechet_distance
from .inception_score import inception_score
from .kernel import kernel_distance
from .memorization import memorization
from .precision_recall import NEIGHBORS, precision_recall

__all__ = ["Drawer", "assess", "check_metric"]

Drawer = Callable[[Sequence[int]], Tensor]
"""Images of these classes, ``(n, C, H, W)`` from −1 to 1; of class 0 where there are none."""


def check_metric(metric: str, bundle: DataBundle, weights: Path | None, judged_samples: int | None = None) -> None:
    """Refuse a network that cannot be had, and a Fréchet distance in it of too few images, before a training begins.

    Raises:
        ValueError: an unknown name; see :meth:`FeatureNetwork.check`; fewer than 2 d images, where more can be taken or another metric has fewer features.
    """
    FEATURES[metric].check(bundle, weights)
    if judged_samples is not None:
        _check_enough(metric, bundle, judged_samples)


def _check_enough(metric: str, bundle: DataBundle, judged_samples: int) -> None:
    """Where nothing could be done, as in a trial on a few images, the distance is left out when the run ends, and a note says so."""
    there = min(len(bundle.train), len(bundle.test))
    count, needed = min(judged_samples, there), 2 * FEATURES[metric].num_features
    if count >= needed:
        return
    remedies = [f"task.judged_samples {needed}"] if there >= needed else []
    remedies += [f"the metric {name}" for name in FEATURES if 2 * FEATURES[name].num_features <= count and _can_be_had(name, bundle)]
    if remedies:
        name, width = FEATURES[metric].distance_name, FEATURES[metric].num_features
        raise InputError(
            f"a {name} is of {width} features and needs {needed} images of the training, of the test and drawn, but {count} would be judged "
            f"(task.judged_samples {judged_samples}, {len(bundle.train)} of the training, {len(bundle.test)} of the test); take {', or '.join(remedies)}"
        )


def _can_be_had(metric: str, bundle: DataBundle) -> bool:
    try:
        FEATURES[metric].check(bundle, None)
    except InputError:
        return False
    return True


def assess(draw: Drawer, bundle: DataBundle, network: FeatureNetwork, count: int) -> dict[str, Any]:
    """Draw as many images as there are of the test, at most ``count``, of the same classes, and compare.

    The real ones are drawn from their splits by a fixed seed. A Fréchet distance is left out, and a note says so, where the data hold fewer than 2 d images.

    Returns:
        Numbers by name; ``…_floor`` and ``…_real`` are those of training images in the place of the drawn. Of copies there are ``copies_features`` and
        ``copies_pixels``, the shares of drawn images that lie nearer to a training image than 99 of 100 test images; ``notes`` say in words what was measured.

    """
    count = min(count, len(bundle.train), len(bundle.test))
    if count <= NEIGHBORS:
        return {"notes": [f"drawn images were not judged: that needs {NEIGHBORS + 1} images of the training and of the test, and there are {count}"]}
    train, test = searched(bundle.train), some_of(bundle.test, count)
    chosen = some_of(bundle.train, count)
    drawn = draw(test[1]).float().cpu()
    real, held, own = (describe(network, images) for images in (test[0], chosen[0], drawn))
    numbers: dict[str, Any] = {"judged_samples": count}
    notes = []
    if count >= 2 * network.num_features:
        numbers |= {"frechet": frechet_distance(real.features, own.features), "frechet_floor": frechet_distance(real.features, held.features)}
        notes.append(f"{network.distance_name}: {numbers['frechet']:.4g}, real against real {numbers['frechet_floor']:.4g}; {count} images on each side")
    else:
        notes.append(
            f"no {network.distance_name} was computed: it needs {2 * network.num_features} images of the training, of the test and drawn, "
            f"and {count} were held against each other"
        )
    numbers |= {"kernel": kernel_distance(real.features, own.features), "kernel_floor": kernel_distance(real.features, held.features)}
    for side, features in (("", own.features), ("_real", held.features)):
        numbers[f"precision{side}"], numbers[f"recall{side}"] = precision_recall(real.features, features)
    numbers |= _of_classifier(network, own, torch.tensor(test[1]), "") | _of_classifier(network, held, torch.tensor(chosen[1]), "_real")
    every = describe(network, train).features
    numbers["copies_features"] = memorization(own.features, every, real.features).share
    numbers["copies_pixels"] = memorization(drawn, train, test[0]).share
    if len(bundle.train) > SEARCHED:
        notes.append(f"copies were sought among {SEARCHED:,} of {len(bundle.train):,} training images")
    return {**numbers, "notes": notes}


def _of_classifier(network: FeatureNetwork, found: Features, labels: Tensor, side: str) -> dict[str, float]:
    if found.logits is None:
        return {}
    numbers = {f"inception_score{side}": inception_score(found.logits)}
    if network.of_classes:
        numbers[f"class_accuracy{side}"] = (found.logits.argmax(1) == labels).double().mean().item()
    return numbers
