"""More heads of softmax attention in a model that is trained, whose function stays: the control of a retrofit that brings weights along."""

from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig, SoftmaxAttention
from ._convert import convert_as
from ._find import chooser, find
from ._fitting import those_that_fit
from ._host import Place
from ._record import places_of
from ._steps import literally
from ._where import Where
from ._wrapped import refuse_quantized, refuse_wrapped
from .report import ConversionReport

__all__ = ["widen_"]


def widen_(model: nn.Module, num_heads: int | None = None, where: Where = "*", *, times: float | None = None, inputs: Any = None) -> ConversionReport:
    """Give softmax attentions more heads of the width that they have, in place; the function is unchanged, and what is new gets gradients.

    It is a conversion to :class:`~foveal.SoftmaxAttention` with ``extra_heads``: :func:`revert_` puts the narrower modules back, with the weights that they had
    before, and :func:`save_delta`, :func:`load_delta` and :func:`save_pretrained` know it.

    With ``times=1.5`` the attention has as many weights as denoising attention (6C²), with ``times=1.25`` as denoising with shared values (5C²): whoever puts
    these into a trained model and trains on compares with that and not with the model as it was, which has fewer weights.

    Each further head starts as one of the host's with its query turned over and values of zero; ``warm_start="exact"`` starts denoising attention there.

    Args:
        model: with softmax attentions that :func:`convert_` knows, plain as in the model's library or of Foveal.
        num_heads: heads of each attention then; at most twice as many as it has.
        where: as in :func:`convert_`.
        times: in the place of ``num_heads``: heads then by heads now, for models whose layers differ; must come out whole in each.
        inputs: as in :func:`convert_`.

    Returns:
        What was replaced; every output is ``identical``.

    Raises:
        ValueError: neither or both of ``num_heads`` and ``times``; no more heads than before, more than twice as many, or no whole number; attention that is
            not softmax, or has λ; a norm over all heads, biases of pairs, layers that are more than linear maps; a model that was converted before, which
            :func:`revert_` takes back with what was trained; and what :func:`convert_` refuses. The model is then as it was.

    Example:
        >>> model = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        >>> report = widen_(model, num_heads=6)
        >>> report.swaps[0].to["extra_heads"], report.swaps[0].output
        (2, 'identical')
    """
    if (num_heads is None) == (times is None):
        raise InputError(f"widen_ takes num_heads or times, one of the two; got num_heads={num_heads} and times={times}")
    if num_heads is not None and (isinstance(num_heads, bool) or not isinstance(num_heads, int)):
        raise InputError(f"num_heads must be a whole number, got {num_heads!r}")
    refuse_wrapped(model)
    refuse_quantized(model)
    plain = SoftmaxAttention.Config()
    found, reasons = find(model, chooser(model, plain, where), inputs)
    if not found:
        raise InputError("these attentions were converted before; call foveal.revert_(model) first, which gives back what was trained, and widen then")
    fitting, left = those_that_fit(found, model, plain, where, [module for _, module in places_of(model)], reasons)
    wanted: dict[str, AttentionConfig | None] = {}
    for names, _, _, _, place in fitting:
        wanted[literally(names[0])] = SoftmaxAttention.Config(extra_heads=_extra(names[0], place, num_heads, times))
    report = convert_as(model, wanted, "*", warm_start="exact", apart=None, inputs=inputs, unchanged=True)
    return ConversionReport(report.swaps, left)


def _extra(name: str, place: Place, num_heads: int | None, times: float | None) -> int:
    heads = num_heads if num_heads is not None else round(place.num_heads * (times or 0))
    if times is not None and heads != place.num_heads * times:
        raise InputError(f"{name} has {place.num_heads} heads, and {times} times as many is no whole number; give num_heads, or leave it out of `where`")
    if heads <= place.num_heads:
        raise InputError(f"{name} has {place.num_heads} heads, and widening is to more than these; got {heads}")
    return heads - place.num_heads
