"""How a study's page writes its numbers."""

from collections.abc import Sequence

__all__ = ["number", "p_value", "percent", "seeds_in_words", "signed", "unit"]

_UNITS = {"accuracy": "%", "epe": "px", "turn": "°"}
_DECIMALS = {"accuracy": 1, "epe": 2, "turn": 1}


def percent(metric: str) -> bool:
    return metric == "accuracy"


def unit(metric: str) -> str:
    """Of a metric; errors without one are relative to predicting 0."""
    return _UNITS.get(metric, "relative to predicting 0")


def number(value: float, metric: str) -> str:
    return f"{100 * value if percent(metric) else value:.{_DECIMALS.get(metric, 3)}f}"


def signed(value: float, metric: str) -> str:
    return f"{100 * value if percent(metric) else value:+.{_DECIMALS.get(metric, 3)}f}".replace("-", "−")


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)) else ", ".join(map(str, seeds))
