"""Wrappers that hold what a model was when they were made: parameters, shards, a compiled program, an average. A conversion inside them would go unnoticed."""

import gc
from collections.abc import Iterator

import torch
from torch import nn

from .._errors import InputError

__all__ = ["refuse_quantized", "refuse_wrapped"]

_WRAPPERS = {
    "OptimizedModule": "compiled, and would go on with what it was compiled from; {} first and compile then",
    "ScriptModule": "TorchScript, which is fixed; {} first and script then",
    "DistributedDataParallel": "inside DistributedDataParallel, which averages the gradients of the parameters that it was given; {} before you wrap",
    "DataParallel": "inside DataParallel; {} before you wrap",
    "FullyShardedDataParallel": "inside FullyShardedDataParallel, which holds shards of the parameters that it was given; {} before you wrap",
    "FSDPModule": "sharded by fully_shard, which holds the parameters that it was given; {} before you wrap",
    "ReplicateModule": "replicated, which holds the parameters that it was given; {} before you wrap",
    "DeepSpeedEngine": "inside a DeepSpeedEngine, which holds the parameters that it was given; {} before you wrap",
    "PipelineEngine": "inside a DeepSpeed engine, which holds the parameters that it was given; {} before you wrap",
    "ShardedDataParallel": "inside ShardedDataParallel, which holds the parameters that it was given; {} before you wrap",
    "AveragedModel": "inside AveragedModel, which pairs its parameters with those of the model that it was made from; {} before you wrap",
    "ModelEma": "inside ModelEma, which pairs its weights with those of the model that it was made from; {} before you wrap",
    "ModelEmaV2": "inside ModelEmaV2, which pairs its weights with those of the model that it was made from; {} before you wrap",
    "ModelEmaV3": "inside ModelEmaV3, which pairs its weights with those of the model that it was made from; {} before you wrap",
}
"""By the name of a class, as most of these are of packages that need not be installed."""
_COMPOSED = ("fully_shard", "replicate")
_SHARDS = ("DTensor", "FlatParameter", "ShardedTensor")


def refuse_wrapped(model: nn.Module, what: str = "convert") -> None:
    """Refuse a model in a wrapper, or with one in it.

    Args:
        model: looked at as a whole, and where processes work together, for wrappers around it.
        what: should have been done before.

    Raises:
        ValueError: there is one.
    """
    for name, module in model.named_modules():
        if (how := _how(module)) is not None:
            raise InputError(f"{name or 'the model'} is {how.format(what)}")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if any(cls.__name__ in _SHARDS for cls in type(value).__mro__):
            raise InputError(f"{name} is a {type(value).__name__}, one process's share of a weight; {what} before you wrap")
    for wrapper in _around(model):
        how = _how(wrapper)
        assert how is not None, "only wrappers are looked for"
        raise InputError(f"the model is {how.format(what)}")


def refuse_quantized(model: nn.Module) -> None:
    """Refuse PyTorch's quantized modules, whose weights are packed, wherever in the model they are.

    Raises:
        ValueError: there is one.
    """
    for name, module in model.named_modules():
        kind = f"{type(module).__module__}."
        if kind.startswith(("torch.ao.", "torch.nn.quantized.", "torch.nn.quantizable.", "torch.nn.qat.")):
            raise InputError(f"{name or 'the model'} is quantized or prepared for it ({kind}{type(module).__qualname__}); convert first and quantize then")


def _how(module: object) -> str | None:
    names = [cls.__name__ for cls in type(module).__mro__]
    for name in names:
        if name in _WRAPPERS:
            return _WRAPPERS[name]
    if getattr(module, "_compiled_call_impl", None) is not None:
        return _WRAPPERS["OptimizedModule"]
    if isinstance(module, nn.Module) and torch.distributed.is_available():
        from torch.distributed._composable.contract import _get_registry

        composed = next((name for name in _COMPOSED if name in (_get_registry(module) or {})), None)
        if composed is not None:
            return f"under {composed}, which holds the parameters that it was given; {{}} before you wrap"
    return None


def _around(model: nn.Module) -> Iterator[nn.Module]:
    """Wrappers that hold this very model. A module does not know who holds it, so they are looked for, where there can be any: with processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    for thing in gc.get_objects():
        # no isinstance: lazy objects of others would wake
        if issubclass(type(thing), nn.Module) and _how(thing) is not None and any(part is model for part in thing.modules()):
            yield thing
