from statistics import mean

import pytest
import torch

from .catt import FRONT_DOOR, GAINS, SHARED, TASKS, Net, data, gain, rows
from .proof import SEEDS, line


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_scene_gives_the_answer_away_in_training_and_not_in_the_test(task) -> None:
    train, iid, ood = data(task, 0)
    given = task.follows + (1 - task.follows) / 10
    for samples, part in ((train, given), (iid, given), (ood, 0.1)):
        found = (samples.scenes == samples.answers).float().mean()
        assert abs(found - part) <= 4 * (part * (1 - part) / len(samples.answers)) ** 0.5
    assert task.varying == (len(train.questions.unique(dim=0)) > 1)


@pytest.mark.parametrize("task", TASKS[-2:], ids=str)
def test_a_dictionary_tells_one_question_one_thing(task) -> None:
    samples, *_ = data(task, 0)
    net = Net(SHARED, task)
    net.dictionary.fit(samples.tokens)
    own, cross = net.branches(samples.questions[:20], samples.tokens[:20])
    assert own.std(0).max() > 1e-2
    assert (cross.std(0).max() > 1e-2) == task.varying


def test_the_front_door_is_a_mean_of_probabilities_over_others() -> None:
    samples, *_ = data(TASKS[0], 0)
    torch.manual_seed(0)
    net = Net(FRONT_DOOR, TASKS[0])
    ask = (samples.questions[:5], samples.tokens[:5])
    bank = net.branches(samples.questions[5:12], samples.tokens[5:12])[1]
    each = torch.stack([net(*ask, other[None, None]).exp() for other in bank])
    torch.testing.assert_close(net(*ask, bank[None]).exp(), each.mean(0))
    assert each.std(0).max() > 1e-5


@pytest.mark.slow
def test_a_dictionary_brings_no_gain_that_can_be_relied_on() -> None:
    assert [line(row) for row in rows(SEEDS) if not row.met] == []
    for task, (_, (least, most), _) in GAINS.items():
        assert least <= mean(gain(SHARED, task, seed) for seed in SEEDS) <= most, str(task)
