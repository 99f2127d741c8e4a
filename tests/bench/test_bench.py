"""What a bench must not do: time something that computes another thing, or print a number that is not what it says."""

import json
from functools import partial

import pytest
import timm
import torch
from torch import nn

from foveal import cli
from foveal.analysis import cost
from foveal.attention import attention_class, list_attentions
from foveal.bench import Settings, Subject, cost_plot, measure, run_bench, subject, table, write_bench

SMALL = {"dim": 24, "num_heads": 2, "rounds": 1, "seconds": 1e-4, "memory": False}


def small(*names: str, **options: object) -> Settings:
    return Settings(names=names, **(SMALL | options))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ceiling that is known, and costs no time to measure."""
    monkeypatch.setattr(measure, "_ceiling", lambda dtype, device: 1e9)


def test_every_line_is_what_it_says() -> None:
    bench = run_bench(small("softmax", "denoising", "external_2d", tokens=(9, 16), precisions=("float32", "bfloat16"), batch=3))
    assert [(row.name, row.size, row.precision) for row in bench.rows] == [
        (name, size, precision) for size in (9, 16) for precision in ("float32", "bfloat16") for name in ("softmax", "denoising", "external_2d")
    ]
    for row in bench.rows:
        assert not row.refused
        assert row.median is not None
        assert row.quartiles is not None
        assert row.quartiles[0] <= row.median <= row.quartiles[1]
        assert row.throughput == pytest.approx(3 / row.median)
        assert row.of_ceiling == pytest.approx(3 * row.macs / row.median / 1e9)
        assert 0 < row.error < (1e-5 if row.precision == "float32" else 6e-2)
    softmax = attention_class("softmax")(24, 2)
    assert bench.rows[0].macs == softmax.cost(9).macs == 4 * 9 * 24**2 + 2 * 9 * 9 * 24
    assert bench.rows[0].parameters == sum(p.numel() for p in softmax.parameters())


def test_quartiles_lie_among_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two times one extrapolates, and is no time at all."""
    from torch.utils.benchmark import Timer

    seen = iter([0.001, 1.0])
    monkeypatch.setattr(Timer, "blocked_autorange", lambda self, **options: type("Times", (), {"times": [next(seen)]})())
    (row,) = run_bench(small("softmax", tokens=(4,), rounds=2)).rows
    assert row.quartiles == pytest.approx((0.25 * 1.0 + 0.75 * 0.001, 0.75 * 1.0 + 0.25 * 0.001))


def test_the_reference_is_computed_once_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], measure._reference
    monkeypatch.setattr(measure, "_reference", lambda thing, size, settings: asked.append((thing.name, size)) or real(thing, size, settings))
    run_bench(small("softmax", "linear", tokens=(4, 9), precisions=("float32", "bfloat16")))
    assert asked == [("softmax", 4), ("linear", 4), ("softmax", 9), ("linear", 9)]


def test_a_training_step_is_checked_by_its_gradient_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class RightOutputWrongGradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = x * self.weight
            return out if x.dtype == torch.float64 else out + (0.5 * x - (0.5 * x).detach())

    wrong = Subject("wrong", "tokens", lambda size: RightOutputWrongGradient(), lambda size: (size, 4), lambda size: 1)
    monkeypatch.setattr(measure, "subject", lambda name, **options: wrong)
    assert not run_bench(small("wrong", tokens=(3,))).rows[0].refused
    assert "differs by" in run_bench(small("wrong", tokens=(3,), training=True)).rows[0].refused


@pytest.mark.parametrize("off", [1e-3, float("nan")])
def test_what_computes_another_thing_is_refused(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    class Wrong(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            return out if x.dtype == torch.float64 else out + off * out.abs().max()

    wrong = Subject("wrong", "tokens", lambda size: Wrong(4, 4), lambda size: (size, 4), lambda size: 1)
    right = Subject("right", "tokens", lambda size: nn.Linear(4, 4), lambda size: (size, 4), lambda size: 1)
    monkeypatch.setattr(measure, "subject", lambda name, **options: {"wrong": wrong, "right": right}[name])
    bench = run_bench(small("wrong", "right", tokens=(3,)))
    assert [(row.median is None, bool(row.refused)) for row in bench.rows] == [(True, True), (False, False)]
    assert "refused: differs by" in table(bench)[1][2]


@pytest.mark.slow
def test_compiled_is_measured_as_well() -> None:
    bench = run_bench(small("external", tokens=(9,), modes=("eager", "compiled")))
    assert [row.mode for row in bench.rows] == ["eager", "compiled"]
    assert all(row.median for row in bench.rows)


def test_all_attentions_are_compiled_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share a forward, which PyTorch compiles anew eight times and no more."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    names = tuple(list_attentions(form="tokens"))
    assert len(names) > 8
    rows = run_bench(small(*names, tokens=(4, 9), modes=("compiled",))).rows
    assert [row.name for row in rows] == [*names, *names]
    assert not any(row.refused for row in rows)


def test_a_model_by_its_timm_name_and_memory() -> None:
    bench = run_bench(small("test_vit", pixels=(160,), memory=True))
    (row,) = bench.rows
    model = timm.create_model("test_vit")
    assert row.parameters == sum(p.numel() for p in model.parameters())
    assert row.macs == cost(model, (3, 160, 160)).macs
    assert row.peak_bytes is not None
    # the widest activation of the network, (1, 101, 3 · 64) floats, cannot be missed
    assert row.peak_bytes >= 101 * 3 * 64 * 4


def test_it_is_written_and_drawn(tmp_path) -> None:
    bench = run_bench(small("softmax", tokens=(4, 9)))
    written = write_bench(bench, tmp_path)
    assert [path.name for path in written] == ["bench.json", "cost.svg"]
    values = json.loads(written[0].read_text())
    assert [row["size"] for row in values["rows"]] == [4, 9]
    assert values["ceilings"] == {"float32": 1e9}
    (axes,) = cost_plot(bench).axes
    assert list(axes.lines[0].get_xdata()) == [4, 9]
    assert cost_plot(run_bench(small("softmax", tokens=(4,)))) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dnoising"], "did you mean denoising"),
        (["halo", "--tokens", "65"], "try 64"),
        (["softmax", "softmax"], "once"),
        (["softmax", "--batch", "0"], "at least 1"),
        (["softmax", "--threads", "0"], "at least 1"),
        ([], "names"),
    ],
)
def test_what_cannot_be_measured_is_said(words, message, tmp_path, capsys) -> None:
    code = cli.main(["bench", *words, "--out", str(tmp_path / "out")])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, capsys) -> None:
    words = ["bench", "softmax", "halo_2d", "--tokens", "16", "--dim", "32", "--num-heads", "4", "--rounds", "1", "--memory", "False"]
    threads = torch.get_num_threads()
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    assert "halo_2d" in out
    assert "bench.json" in out


def test_names_come_from_both_registries() -> None:
    assert subject("softmax").unit == "tokens"
    assert subject("fov_dna_vit_tiny_patch16_224").unit == "pixels"


def test_networks_on_videos_are_given_clips() -> None:
    from foveal.models import TimeSformer

    bench = run_bench(small("test_fov_timesformer", "test_fov_dna_timesformer", pixels=(32,)))
    assert [row.refused for row in bench.rows] == ["", ""]
    model = timm.create_model("test_fov_timesformer")
    assert isinstance(model, TimeSformer)
    assert bench.rows[0].macs == cost(model, (3, 3, 32, 32)).macs
    assert bench.rows[0].macs < run_bench(small("test_fov_timesformer", pixels=(32,), frames=5)).rows[0].macs
    with pytest.raises(ValueError, match="frames are of networks for videos, and test_vit is for images"):
        run_bench(small("test_vit", frames=2))
