"""A model that was loaded, converted to the attention that the command line names."""

from torch import nn

from ...attention import AttentionConfig, config_from_dict
from ...convert import ConversionReport, Where, convert_

__all__ = ["convert_named_", "convert_saying_"]


def convert_named_(model: nn.Module, attention: str, where: Where = "*") -> ConversionReport:
    """``foveal.convert_`` by a word.

    Args:
        model: is changed.
        attention: a registered name, for its default options, or a configuration as JSON, such as ``'{"attention": "halo", "block_size": 7}'``.
        where: a glob on the names of the modules that are converted.

    Raises:
        ValueError: no such attention, no configuration; what :func:`foveal.convert_` refuses.
    """
    config = AttentionConfig.from_json(attention) if attention.lstrip().startswith("{") else config_from_dict({"attention": attention})
    return convert_(model, config, where)


def convert_saying_(model: nn.Module, attention: str, where: Where = "*") -> str:
    """:func:`convert_named_`, and what became of the model in a line."""
    report = convert_named_(model, attention, where)
    outputs = sorted({swap.output for swap in report.swaps})
    return f"{len(report.swaps)} attentions converted to {attention}, untrained: the output is {' or '.join(outputs)}"
