"""The benchmark of a large set, made small: both sides give the same samples, a walk goes on where it was left, and orders are described as they are."""

from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch
from benchmarks import streaming

SAMPLES, PER_SHARD = 3000, 250


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    return streaming.write(tmp_path, SAMPLES, PER_SHARD)


def test_every_sample_comes_once_an_epoch_and_is_what_was_written(paths) -> None:
    seen = streaming.walk(streaming.ours(paths), SAMPLES)
    assert sorted(seen.order.tolist()) == list(range(SAMPLES))
    images, labels = next(streaming.ours(paths))
    assert images.shape == (streaming.BATCH, 3, streaming.SIDE, streaming.SIDE)
    (found, _), *_ = streaming.numbers([(images, labels)])
    assert (labels.numpy() == found % streaming.LABELS).all()
    other = torch.stack([streaming.decoded(streaming.png(int(number))) for number in found])
    assert torch.equal(images, other)


def test_a_walk_that_is_taken_up_again_is_the_walk(paths, monkeypatch) -> None:
    streaming.check_resume(paths, SAMPLES)
    real = streaming.ours
    monkeypatch.setattr(streaming, "ours", lambda paths, first=0, steps=None: real(paths, first and first + 1, steps))
    with pytest.raises(SystemExit, match="the walk is another"):
        streaming.check_resume(paths, SAMPLES)


@pytest.mark.skipif(find_spec("webdataset") is None, reason="needs the other side: pip install webdataset")
@pytest.mark.filterwarnings("ignore")
def test_all_rows_of_a_small_set(monkeypatch) -> None:
    monkeypatch.setattr(streaming, "TURNS", 1)
    rows = list(streaming.rows(SAMPLES, PER_SHARD, 500))
    assert len(rows) == 5
    assert all(row.met for row in rows[2:]), "what is no time and no memory must hold at every size"
    assert float(rows[2].theirs) > 0.1 or float(rows[4].theirs) > 2 * float(rows[4].ours), "a window shuffles less, or these numbers tell nothing"


@pytest.mark.skipif(find_spec("webdataset") is None, reason="needs the other side: pip install webdataset")
@pytest.mark.filterwarnings("ignore")
def test_sides_that_differ_are_not_timed(monkeypatch) -> None:
    real = streaming.theirs
    monkeypatch.setattr(streaming, "theirs", lambda paths: ((images ^ (images == 7), labels) for images, labels in real(paths)))
    with pytest.raises(SystemExit, match="do not give the same samples"):
        list(streaming.rows(600, 100, 100))


def test_what_is_said_of_an_order() -> None:
    straight = streaming.shuffle_of(np.arange(900), 30)
    assert straight.correlation == pytest.approx(1)
    assert straight.neighbors == pytest.approx(1 / 300)
    assert straight.one_shard == pytest.approx(870 / 899)
    order = np.random.default_rng(0).permutation(900)
    drawn = streaming.shuffle_of(order, 30)
    assert abs(drawn.correlation) < 0.1
    assert drawn.neighbors == pytest.approx(sum(abs(int(a) - int(b)) for a, b in pairwise(order)) / 899 / 300)
    assert 0.9 < drawn.neighbors < 1.1
    assert drawn.one_shard < 0.06
