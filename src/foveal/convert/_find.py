"""Which modules of a model are to be replaced, and by what."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig
from ._fitting import attention_classes_first, looks_like_attention, unknown_attentions
from ._host import Host, find_host, known_hosts
from ._record import Converted, is_converted, record_of
from ._where import Where, is_everywhere, matcher
from .structure import ANOTHER_KIND, NO_MAPS, NO_OUTPUT_MAP, NO_SOFTMAX, Structures, kept_of, recalled, sisters_in, structures_of

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


def find(
    model: nn.Module, choose: Choose, inputs: Any = None, read: Mapping[str, dict[str, Any]] | None = None
) -> tuple[list[tuple[list[str], nn.Module, Host, AttentionConfig]], dict[int, str]]:
    """Every module to be replaced, once, with all its names; and why attentions that nobody declared could not be read, by the identity of their modules.

    Args:
        model: all of it.
        choose: what is said of each module.
        inputs: a batch for the model.
        read: what was read of some places once, by name.
    """
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
        modules[id(module)] = module
    # also by a conversion of a part of the model alone
    records = [record_of(module) for module in modules.values() if is_converted(module)]
    done = {id(part): converted for record in records for converted in record.parts for part in converted.replacement.modules()}
    once = {id(module): (name, module) for name in read or {} for module in (_there(model, name),)}
    before = [record.replacement for one in records for record in one.parts]
    structures = _by_structure(model, choose, [*before, *(module for _, module in once.values())], inputs)
    structures.hosts.update({key: recalled(name, module, (read or {})[name]) for key, (name, module) in once.items() if key not in done})
    found, matched, already = [], [], 0
    for key, module in modules.items():
        said = [wanted for name in names[key] for chosen, wanted in (choose(name, module),) if chosen]
        if not said:
            continue
        matched.append(module)
        wanted, host = said[0], structures.hosts.get(key) or find_host(module)
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
            f"{_missing(modules, names, structures)}known: {', '.join(known_hosts())}; teach another with foveal.register_host"
        )
    return found, structures.reasons


def _there(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise InputError(f"this model has no module {name}, which was converted when the conversion was saved; build the model as it was then") from None


def _by_structure(model: nn.Module, choose: Choose, done: list[nn.Module], inputs: Any) -> Structures:
    """What structure tells of the chosen attentions that nobody declared, and of what they lie in where they end before their output map."""

    def chosen(name: str, module: nn.Module) -> bool:
        said, wanted = choose(name, module)
        return said and wanted is not None

    unknown = unknown_attentions(model, chosen, done)
    found = structures_of(model, dict(unknown), inputs)
    while owners := _owners(model, unknown, found.reasons, chosen):
        unknown += list(owners.items())
        of_owners = structures_of(model, owners, inputs)
        found = Structures(found.hosts | of_owners.hosts, found.reasons | of_owners.reasons)
    above = {}
    for name, module in unknown:
        parent = name.rpartition(".")[0]
        if found.reasons.get(id(module)) == NO_OUTPUT_MAP and parent and chosen(parent, model.get_submodule(parent)):
            above[parent] = model.get_submodule(parent)
    others = structures_of(model, above, inputs)
    # hooks of the attention itself, as those that record maps, go on where it has a place of its own
    beside = {name: module for name, module in unknown if found.reasons.get(id(module)) == NO_OUTPUT_MAP and name.rpartition(".")[0] in above}
    beside = {name: module for name, module in beside.items() if id(above[name.rpartition(".")[0]]) not in others.hosts or module._forward_hooks}
    beside_them = sisters_in(model, beside, inputs)
    hosts = found.hosts | others.hosts | {key: host for key, host in beside_them.items() if not isinstance(host, str)}
    reasons = dict(found.reasons)
    for name, module in beside.items():
        if isinstance(why := beside_them[id(above[name.rpartition(".")[0]])], str):
            reasons[id(module)] = f"{NO_OUTPUT_MAP}; beside it: {why}"
    # what is more than an attention is traced
    left = {name: module for name, module in unknown if id(module) not in hosts and id(above.get(name.rpartition(".")[0])) not in hosts}
    left = {name: module for name, module in left.items() if not reasons.get(id(module), "").startswith(ANOTHER_KIND)}
    kept, more = kept_of(model, left, inputs)
    for key in left.values():
        if id(key) in more and more[id(key)] != reasons[id(key)]:
            reasons[id(key)] = f"{reasons[id(key)]}; {more[id(key)]}"
    return Structures(hosts | kept, {key: reason for key, reason in reasons.items() if key not in kept})


def _owners(
    model: nn.Module, unknown: list[tuple[str, nn.Module]], reasons: Mapping[int, str], chosen: Callable[[str, nn.Module], bool]
) -> dict[str, nn.Module]:
    """What looks like an attention and holds what was taken for one, but makes no queries or lets none meet: the innermost owner, if not looked at yet."""
    known, out = {name for name, _ in unknown}, {}
    for name, module in unknown:
        above = name.rpartition(".")[0]
        if reasons.get(id(module)) not in (NO_SOFTMAX, NO_MAPS):
            continue
        while above and not looks_like_attention(model.get_submodule(above)):
            above = above.rpartition(".")[0]
        if above and above not in known and chosen(above, model.get_submodule(above)):
            out[above] = model.get_submodule(above)
    return out


def _missing(modules: Mapping[int, nn.Module], names: Mapping[int, list[str]], structures: Structures) -> str:
    """What was missing, a reason a class."""
    said: dict[tuple[str, str], str] = {}
    for key, reason in structures.reasons.items():
        said.setdefault((type(modules[key]).__name__, reason), names[key][0])
    told = [f"{name} ({kind}) cannot be read by its structure: {reason}" for (kind, reason), name in said.items()]
    return "".join(f"{one}; " for one in told[:3])


def _check_again(converted: Converted, wanted: AttentionConfig | None) -> int:
    """The same again is nothing to do; another needs the first to be taken back."""
    if wanted is not None and wanted != converted.wanted:
        raise InputError(f"{converted.names[0]} was converted to {converted.wanted.to_json()} before; call foveal.revert_(model) first")
    return 1


def _attentions(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if find_host(module) is not None]
    return names if len(names) <= 4 else [*names[:2], "…", names[-1]]
