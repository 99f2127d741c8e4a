"""The error for weights that a library does not give."""

from ..._errors import InputError

__all__ = ["refused"]


def refused(name: str, error: BaseException) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"cannot load {name}: {reason}; give a local folder or file, or --weights random to look at an untrained model")
