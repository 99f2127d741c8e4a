"""What a checkpoint holds besides weights, back where it belongs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .phases import OpenPhase
from .pieces import place_optimizer_, read_optimizer_
from .reading import Damaged
from .sharding import is_sharded

__all__ = ["restore_state"]


def restore_state(
    phases: Sequence[OpenPhase], accelerator: Accelerator, state: dict[str, Any], empty: dict[str, Any], path: Path, model: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of a run to the prepared optimizers and scalers of its phases; the window of losses, and what the task learned, are returned.

    Args:
        phases: prepared, so that what an optimizer keeps on the host stays there.
        accelerator: of this process.
        state: of a checkpoint.
        empty: a window without a loss, for its names.
        path: of the checkpoint, for the message.
        model: the network.

    Raises:
        ValueError: it is another run's, or damaged.
    """
    remedy = f"it is damaged or of another version of Foveal; remove {path} to start from an older checkpoint or anew"
    window, learned = state.get("window"), state.get("task", {})
    try:
        saved = state["phases"]
        if saved.keys() != {one.phase.name for one in phases}:
            raise ValueError(f"it holds the phases {sorted(saved)}, the task has {sorted(one.phase.name for one in phases)}")
        for one in phases:
            if "pieces" in saved[one.phase.name]["optimizer"]:
                read_optimizer_(model, one.optimizer, path, saved[one.phase.name]["optimizer"]["pieces"])
            elif is_sharded(one.recipe, accelerator):
                _place_phase(model, one, saved[one.phase.name])
            else:
                _restore_phase(one, saved[one.phase.name])
        # what is now called by the metric's name was once called ``correct``
        known = {"accuracy" if name == "correct" else name: float(value) for name, value in dict(window).items()}  # type: ignore[arg-type]
        if known.keys() != empty.keys():
            raise ValueError(f"the window holds {sorted(known)}, the task reports {sorted(empty)}")
        shares = [known]
        if len(of_each := state.get("windows", [])) == accelerator.num_processes > 1:
            shares = [{name: float(one[name]) for name in empty} for one in of_each]
        if not isinstance(learned, dict) or not all(isinstance(value, Tensor) for value in learned.values()):
            raise ValueError("what the task learned is no tensors by name")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise Damaged(f"{path / 'state.pt'} does not fit this run: {said}; {remedy}") from error
    if len(shares) > 1:
        return shares[accelerator.process_index], learned
    # on another number of processes the main one goes on with what is of all already
    return {name: known[name] for name in empty} if accelerator.is_main_process else empty, learned


def _place_phase(model: nn.Module, one: OpenPhase, saved: dict[str, Any]) -> None:
    """What was saved whole, to pieces."""
    states = saved["optimizer"]["state"]
    count = sum(len(group["params"]) for group in saved["optimizer"]["param_groups"])
    place_optimizer_(model, one.optimizer, [states.get(number) for number in range(count)])


def _restore_phase(one: OpenPhase, saved: dict[str, Any]) -> None:
    for had, own in zip(saved["optimizer"]["param_groups"], one.optimizer.param_groups, strict=False):
        if "fused" in own:
            # of this machine and not of the one that saved; it also says where counts of steps belong
            had["fused"] = own["fused"]
    one.optimizer.load_state_dict(saved["optimizer"])
    if one.scaler is not None:
        one.scaler.load_state_dict(saved["scaler"])
    for group in one.optimizer.param_groups:
        for parameter in group["params"]:
            state = one.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if not isinstance(value, Tensor) or not value.ndim:
                    continue
                if value.shape != parameter.shape:
                    raise ValueError(f"{name} of the optimizer is {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
                if value.stride() != parameter.stride():
                    # fused steps go through memory as it lies, and channels may have lain otherwise
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
