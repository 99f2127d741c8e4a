import pytest
import torch

from .caam import CELL, CLASSES, FREQUENCIES, OBJECT, SIDE, World, data, posterior, rows, rule
from .proof import SEEDS, line


def test_contexts_lean_to_classes_in_training_and_not_in_the_test() -> None:
    _, train, iid, ood = data(0)
    wanted = torch.cat([FREQUENCIES / FREQUENCIES.sum(), torch.zeros(3)])
    for scenes, parts in ((train, wanted), (iid, wanted), (ood, torch.full((CLASSES,), 0.1))):
        found = scenes.offsets.bincount(minlength=CLASSES) / len(scenes.offsets)
        assert ((found - parts).abs() <= 4 * (parts * (1 - parts) / len(scenes.offsets)).sqrt()).all()


def test_the_posterior_is_that_of_all_that_can_have_been_drawn() -> None:
    """Written out: the density of each image for each class, context and place."""
    generator = torch.Generator().manual_seed(0)
    world = World.of(generator)
    images = world.scenes(5, even=True, generator=generator).images
    prior = torch.randn(CLASSES, CLASSES, generator=generator)
    drawn = torch.distributions.Normal(0.0, 1.0)
    wanted = torch.empty(5, CLASSES)
    for kind in range(CLASSES):
        ways = []
        for context in range(CLASSES):
            for y in range(SIDE - OBJECT + 1):
                for x in range(SIDE - OBJECT + 1):
                    mean = world.contexts[context].view(1, CELL, 1, 1).repeat(1, 1, SIDE, SIDE)
                    mean[:, :, y : y + OBJECT, x : x + OBJECT] = world.classes[kind].view(1, CELL, 1, 1)
                    ways.append(drawn.log_prob(images - mean).sum((1, 2, 3)) + prior[kind, context])
        wanted[:, kind] = torch.stack(ways).logsumexp(0)
    torch.testing.assert_close(posterior(world, images, prior).log_softmax(-1), wanted.log_softmax(-1), atol=2e-3, rtol=1e-4)


def test_who_is_best_in_distribution_is_never_right_in_an_unseen_context() -> None:
    fair, greedy = (rule(0, knows_frequencies=knows) for knows in (False, True))
    assert greedy.iid > fair.iid
    assert greedy.unseen == 0
    assert fair.unseen > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_due_to_environments(seed) -> None:
    assert [line(row) for row in rows([seed]) if not row.met] == []
