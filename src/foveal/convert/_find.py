"""Which modules of a model are to be replaced, and by what."""

from collections.abc import Callable, Mapping

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig
from ._fitting import attention_classes_first
from ._host import Host, find_host, known_hosts
from ._record import Converted, is_converted, record_of
from ._where import Where, is_everywhere, matcher

__all__ = ["Choose", "chooser", "find"]

_Choice = tuple[bool, AttentionConfig | None]
"""Whether anything is said of a module, and what; None is to leave it."""
Choose = Callable[[str, nn.Module], _Choice]


def chooser(model: nn.Module, config: AttentionConfig | Mapping[str, AttentionConfig | None], where: Where) -> Choose:
    """What is said of each module."""
    if isinstance(config, AttentionConfig):
        chosen = matcher(where, model)
        return lambda name, module: (chosen(name, module), config)
    if not isinstance(config, Mapping) or not all(value is None or isinstance(value, AttentionConfig) for value in config.values()):
        raise InputError(f"expected a configuration, such as foveal.DenoisingAttention.Config(), or a mapping from globs to configurations, got {config!r}")
    if not is_everywhere(where):
        raise InputError("where says nothing beside a mapping, whose globs say it; give one of the two")
    rules = [(matcher(glob, model), value) for glob, value in config.items()]
    return lambda name, module: next(((True, value) for chosen, value in rules if chosen(name, module)), (False, None))


def find(model: nn.Module, choose: Choose) -> list[tuple[list[str], nn.Module, Host, AttentionConfig]]:
    """Every module to be replaced, once, with all its names."""
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
        modules[id(module)] = module
    # also by a conversion of a part of the model alone
    records = [record_of(module) for module in modules.values() if is_converted(module)]
    done = {id(part): converted for record in records for converted in record.parts for part in converted.replacement.modules()}
    found, matched, already = [], [], 0
    for key, module in modules.items():
        said = [wanted for name in names[key] for chosen, wanted in (choose(name, module),) if chosen]
        if not said:
            continue
        matched.append(module)
        wanted, host = said[0], find_host(module)
        if key in done:
            already += _check_again(done[key], wanted)
            continue
        if host is None or wanted is None:
            continue
        if "" in names[key]:
            raise InputError(f"the model itself is the attention ({type(module).__name__}); put it into a module, so that there is a place to replace it in")
        found.append((names[key], module, host, wanted))
    if not matched:
        raise InputError(f"no module is chosen; the model's attentions are {', '.join(_attentions(model)) or 'none that is known'}")
    if not found and not already:
        raise InputError(
            f"{len(matched)} modules are chosen, and none is an attention that is known: {attention_classes_first(matched)}; "
            f"known: {', '.join(known_hosts())}; teach another with foveal.register_host"
        )
    return found


def _check_again(converted: Converted, wanted: AttentionConfig | None) -> int:
    """The same again is nothing to do; another needs the first to be taken back."""
    if wanted is not None and wanted != converted.wanted:
        raise InputError(f"{converted.names[0]} was converted to {converted.wanted.to_json()} before; call foveal.revert_(model) first")
    return 1


def _attentions(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if find_host(module) is not None]
    return names if len(names) <= 4 else [*names[:2], "…", names[-1]]
