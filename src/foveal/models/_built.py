"""What our own models remember of how they were built, so that :func:`foveal.save_pretrained` can say it."""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any, Self

from .._errors import InputError

__all__ = ["Remembers"]


class Remembers:
    """Mixed into a module: ``_built_with`` holds the arguments of its ``__init__``, defaults included, as far as JSON can hold them.

    What JSON cannot hold is left out: whether the rest builds the same model is found out when it is saved.
    """

    _built_with: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # not in __init__: a subclass would record the arguments that it passes on, and not its own
        made = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        # partial, for a copy or an unpickled one is made without any, and gets its record with its attributes
        bound = signature.bind_partial(made, *args, **kwargs)
        bound.apply_defaults()
        rest = list(signature.parameters.values())[1:]
        given: dict[str, Any] = {}
        for parameter in rest:
            value = bound.arguments.get(parameter.name)
            given |= value or {} if parameter.kind is parameter.VAR_KEYWORD else {parameter.name: value} if parameter.name in bound.arguments else {}
        # a module's own __setattr__ does not work before its __init__
        object.__setattr__(made, "_built_with", {name: value for name, value in given.items() if _is_json(value)})
        return made

    def save_pretrained(self, folder: str | Path, *, card: Any = None) -> Path:
        """Deprecated: :func:`foveal.save_pretrained`."""
        return _hub("save_pretrained").save_pretrained(self, folder, card=card)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """Deprecated: :func:`foveal.from_pretrained`.

        Raises:
            ValueError: as there; the folder holds a model of another class.
        """
        model = _hub("from_pretrained").from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise InputError(f"{source} holds a {type(model).__name__}, not a {cls.__name__}; load it with foveal.from_pretrained")
        return model

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Deprecated: :func:`foveal.push_to_hub`."""
        return _hub("push_to_hub").push_to_hub(self, repo_id, **options)


def _hub(method: str) -> Any:
    warnings.warn(f"the method {method} goes with the next minor version; call foveal.{method}", DeprecationWarning, stacklevel=3)
    # the one import upward, until the methods go
    from .. import hub

    return hub


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
