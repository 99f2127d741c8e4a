"""The order of samples: every sample once an epoch, and processes and micro-batches share a step without overlap or loss."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.lab.training.order import Order, Seeded, StepSampler


@given(length=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_every_sample_comes_once_an_epoch(length, batch_size, seed) -> None:
    order, steps = Order(length, batch_size, seed), 3 * length // batch_size + 1
    walk = [position for step in range(steps) for position in order.batch(step)]
    assert len(walk) == steps * batch_size
    for epoch in range(len(walk) // length):
        assert sorted(walk[epoch * length : (epoch + 1) * length]) == [(epoch, index) for index in range(length)]


@given(length=st.integers(1, 20), batch_size=st.integers(1, 30), repeats=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_repeated_samples_come_so_many_times_each_as_a_draw_of_its_own(length, batch_size, repeats) -> None:
    order, plain = Order(length, batch_size, 0, repeats), Order(length, 1, 0)
    steps = repeats * length // batch_size + 1
    walk = [position for step in range(steps) for position in order.batch(step)]
    assert len(set(walk)) == len(walk) == steps * batch_size
    want = [(repeats * epoch + draw, index) for n in range(len(walk)) for epoch, index in plain.batch(n) for draw in range(repeats)][: len(walk)]
    assert sorted(walk) == sorted(want)


def test_draws_of_one_sample_are_no_neighbors() -> None:
    indices = [index for _, index in Order(50, 12, 0, repeats=3).batch(0)]
    assert indices == indices[:4] * 3
    assert len(set(indices)) == 4


@given(
    micro=st.integers(1, 4),
    world=st.integers(1, 4),
    accumulate=st.integers(1, 4),
    length=st.integers(1, 60),
    first=st.integers(0, 5),
    steps=st.integers(0, 6),
)
@settings(deadline=None, max_examples=60)
def test_processes_and_micro_batches_partition_each_step(micro, world, accumulate, length, first, steps) -> None:
    order = Order(length, micro * world * accumulate, seed=1)
    samplers = [StepSampler(order, first, first + steps, rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(own) for own in batches] == [steps * accumulate] * world
    assert all(len(batch) == micro for own in batches for batch in own)
    for step in range(steps):
        together = [position for own in batches for batch in own[step * accumulate : (step + 1) * accumulate] for position in batch]
        assert sorted(together) == sorted(order.batch(first + step)), "a step is all of its samples, each as often as the order has it"


def test_starting_late_is_continuing() -> None:
    order = Order(17, 6, seed=0)
    assert list(StepSampler(order, 0, 9))[4:] == list(StepSampler(Order(17, 6, seed=0), 4, 9))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    walks = {tuple(index for _, index in Order(50, 50, seed).batch(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(walks) == 9


class Noise:
    augments = True

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3), index


def test_augmentation_depends_on_seed_epoch_and_index_alone() -> None:
    def draw(seed: int, epoch: int, index: int) -> tuple[float, ...]:
        return tuple(Seeded(Noise(), seed)[epoch, index][0].tolist())

    torch.manual_seed(0)
    want = draw(0, 1, 2)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert draw(0, 1, 2) == want
    assert torch.equal(torch.random.get_rng_state(), before), "it leaves everybody else's random numbers alone"
    assert len({draw(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)}) == 8
