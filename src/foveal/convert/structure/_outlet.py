"""What an attention gives back, and where it drops something on the way."""

from torch import Tensor

from ..._errors import InputError
from ._seen import Run

__all__ = ["drops_of", "returns_of"]


def drops_of(seen: Run, proj: int, maker: str) -> tuple[str, str] | None:
    """Dropouts behind the softmax and behind the output map: none of it shows in evaluation. Another would be lost."""
    # those of a network that makes a bias go on in it
    drops = [one for one in seen.drops if not (maker and one[0].startswith(f"{maker}."))]
    if not drops:
        return None
    places = ["", ""]
    for path, turn, shape in drops:
        of_map = seen.turns[0] < turn <= proj and shape == seen.logits[0].shape
        if not of_map and turn <= proj:
            raise InputError(f"its dropout {path} stands where no attention here has one")
        places[0 if of_map else 1] = path
    return places[0], places[1]


def returns_of(seen: Run) -> tuple[str, ...] | str | None:
    if isinstance(seen.output, Tensor):
        return None
    if type(seen.output) is not tuple:
        return f"it returns a {type(seen.output).__name__}"
    logits, out = seen.logits[0], []
    for index, value in enumerate(seen.output):
        if index == 0 and isinstance(value, Tensor):
            out.append("out")
        elif value is None:
            out.append("none")
        elif isinstance(value, Tensor) and value.ndim == 4 and _is_of_pairs(value, logits):
            out.append("weights")
        elif isinstance(value, Tensor) and value.ndim == 3 and value.numel() == logits.numel() and value.shape[1:] == logits.shape[-2:]:
            # samples and heads in one axis
            out.append("folded")
        elif type(value) is list and all(part is None for part in value):
            out.append("each")
        else:
            return "it returns more than its output and its maps"
    return tuple(out)


def _is_of_pairs(value: Tensor, logits: Tensor) -> bool:
    """``(B, H, Nq, Nk)``, whether or not samples and heads are one axis where the softmax is."""
    folded = logits.ndim == 3 and value.shape[0] * value.shape[1] == logits.shape[0]
    return value.shape == logits.shape or (folded and value.shape[2:] == logits.shape[1:])
