"""Names of attentions. A module enters with one decorator; nothing else in the library lists mechanisms."""

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from torch import Tensor, nn

from .._errors import InputError, unknown
from .._extensions import load_extensions
from .._fits import described, fits
from .._fx import Leaf
from .._registry import Registry
from .._renamed import renamed_arguments, renamed_attribute, renamed_keys, warn_renamed

if TYPE_CHECKING:
    from ._base import Cost

__all__ = [
    "FAMILIES",
    "AttentionConfig",
    "AttentionModule",
    "Family",
    "Form",
    "attention_class",
    "config_from_dict",
    "create_attention",
    "list_attentions",
    "register",
]

Family = Literal["pairs", "signed pairs", "memory", "summary", "neighborhood"]
Form = Literal["tokens", "2d"]
"""What an attention takes: ``tokens``, ``(B, N, C)``, or feature maps, ``2d``, ``(B, C, H, W)``."""
FAMILIES: dict[str, str] = {
    "pairs": "every pair of tokens meets once",
    "signed pairs": "every pair of tokens meets twice, for and against",
    "memory": "tokens meet through learned slots",
    "summary": "tokens meet through a small summary of all values",
    "neighborhood": "tokens meet only nearby",
}
"""How tokens meet, by family."""

Module = TypeVar("Module", bound=type[nn.Module])


class AttentionModule(Leaf):
    """What every attention of the registry is to those who use one by name: a module from a tensor to a tensor that shows its maps and its cost."""

    old_names: ClassVar[dict[str, str]] = {}
    """New names of arguments, by those that they had in the minor version before; the old ones warn, and files may hold them."""
    of_channels: ClassVar[bool] = False
    """Whether its map is from channels to channels, and not from tokens to tokens."""
    needs_grid: ClassVar[bool] = False
    """Of one on tokens: whether they must be a grid. It has the options ``num_prefix_tokens`` and ``grid_size``, and it or its ``core`` reads ``grid_size``."""
    is_residual: ClassVar[bool] = True
    """Of a block on feature maps: whether it adds its input itself, unless an option ``residual=False`` says otherwise."""

    if TYPE_CHECKING:
        name: ClassVar[str]
        family: ClassVar[Family]
        form: ClassVar[Form]

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...
        def attention_map(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]: ...
        def cost(self, *args: Any, **kwargs: Any) -> Cost: ...


_REGISTRY: Registry[type[nn.Module]] = Registry("attention")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The options of one mechanism, apart from where it is put. Every attention class has its own as ``Config``."""

    module: ClassVar[type[nn.Module]]

    @property
    def attention(self) -> str:
        """The registered name."""
        return self.module.name  # type: ignore[attr-defined]

    def options(self) -> dict[str, Any]:
        return asdict(self)

    def build(self, *args: Any, **kwargs: Any) -> AttentionModule:
        """The module, with these options and the given place (``dim``, ``num_heads``, ``device`` …)."""
        made: AttentionModule = self.module(*args, **self.options(), **kwargs)  # type: ignore[assignment]
        return made

    def layer(self) -> type[nn.Module]:
        """A class with these options bound, for hosts that want one: ``timm.create_model(..., attn_layer=config.layer())``.

        Calling it gives a plain instance of the mechanism, so what is built pickles, deep-copies and type-checks as ever.
        """
        config = self

        class Bound(self.module):  # type: ignore[name-defined]
            def __new__(cls, *args: Any, **kwargs: Any) -> Any:
                return config.build(*args, **kwargs)

        Bound.__name__ = Bound.__qualname__ = self.module.__name__
        return Bound

    def to_dict(self) -> dict[str, Any]:
        return {"attention": self.attention, **self.options()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @staticmethod
    def from_json(text: str) -> "AttentionConfig":
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: text that is no JSON object, and what :func:`config_from_dict` refuses.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f'expected a configuration as JSON, like {{"attention": "denoising"}}, got {text!r}: {error}') from error
        if not isinstance(values, dict):
            raise InputError(f'expected a configuration as JSON, like {{"attention": "denoising"}}, got {text!r}')
        return config_from_dict(values)


def register(name: str, *, family: Family, form: Form = "tokens") -> Callable[[Module], Module]:
    """Enter a module class under ``name``.

    Its ``Config`` is made of the keyword-only half of its constructor, ``device`` and ``dtype`` apart: same names, defaults and types. A class may nest one of
    its own, which type checkers see.

    Raises:
        ValueError: the name is taken; a nested ``Config`` that is no :class:`AttentionConfig`; none, and a constructor of which it cannot be made.
    """

    if str(family) == "neighbourhood":
        warn_renamed("register", "family='neighbourhood'", "family='neighborhood'")
        family = "neighborhood"

    def enter(cls: Module) -> Module:
        _REGISTRY.check_free(name)
        own = vars(cls).get("Config")
        if own is None:
            own = cls.Config = derive_config(cls)  # type: ignore[attr-defined]
        if not (isinstance(own, type) and issubclass(own, AttentionConfig)):
            raise InputError(f"{cls} nests a Config that is no frozen dataclass derived from AttentionConfig; make it one, or leave it out")
        cls.name, cls.family, cls.form = name, family, _form(form)  # type: ignore[attr-defined]
        cls.Config.module = cls  # type: ignore[attr-defined]
        _keep_old_names(cls, own)
        _REGISTRY.add(name, cls)
        return cls

    return enter


def _keep_old_names(cls: Any, config: Any) -> None:
    if not (names := getattr(cls, "old_names", {})):
        return
    cls.__init__ = renamed_arguments(cls.__name__, **names)(cls.__init__)
    options = {old: new for old, new in names.items() if new in {field.name for field in fields(config)}}
    if options:
        config.__init__ = renamed_arguments(f"{cls.__name__}.Config", **options)(config.__init__)
    for old, new in options.items():
        setattr(config, old, renamed_attribute(f"{cls.__name__}.Config", old, new))


def _form(form: Any) -> Any:
    if form != "maps":
        return form
    warn_renamed("form of attentions", '"maps"', '"2d"', stacklevel=4)
    return "2d"


def derive_config(cls: type[nn.Module]) -> type[AttentionConfig]:
    """A ``Config`` of the keyword-only parameters of a constructor, ``device`` and ``dtype`` apart.

    Raises:
        ValueError: further options behind ``**``, an option without a default, an annotation that cannot be read.
    """
    remedy = "nest a class Config, a frozen dataclass that derives from AttentionConfig, of its options"
    try:
        signature = inspect.signature(cls.__init__, eval_str=True)
    except NameError as error:
        raise InputError(f"the options of {cls} cannot be read: {error}; {remedy}") from error
    made: list[tuple[str, Any, Any]] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            raise InputError(f"the options of {cls} cannot be read, since its constructor takes further ones as **{name}; {remedy}")
        if parameter.kind is not parameter.KEYWORD_ONLY or name in ("device", "dtype"):
            continue
        if parameter.default is parameter.empty:
            raise InputError(f"the option {name} of {cls} has no default; give it one, since attentions are made by their name alone")
        default = parameter.default
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        mutable = isinstance(default, (list, dict, set))
        made.append((name, kind, field(default_factory=default.copy) if mutable else default))
    own: type[AttentionConfig] = make_dataclass("Config", made, bases=(AttentionConfig,), frozen=True, kw_only=True)
    # where a nested class would lie: pickle finds it there
    own.__module__, own.__qualname__ = cls.__module__, f"{cls.__qualname__}.Config"
    own.__doc__ = f"The options of :class:`{cls.__name__}`."
    return own


def attention_class(name: str) -> Any:
    """The class behind a registered name.

    Raises:
        ValueError: the name is unknown; the message lists near matches.
    """
    if name not in _REGISTRY:
        load_extensions()
    if name not in _REGISTRY:
        message = unknown("attention", name, _REGISTRY)
        raise InputError(f"{message}; one from elsewhere is known once the module that registers it is imported: foveal … --import MODULE on the command line")
    return _REGISTRY[name]


def registered() -> dict[str, type[nn.Module]]:
    """What is registered by now; modules from outside are not asked for."""
    return {name: _REGISTRY[name] for name in _REGISTRY}


def create_attention(name: str, /, *args: Any, **kwargs: Any) -> AttentionModule:
    """Build an attention by name.

    Args:
        name: out of :func:`list_attentions`.
        *args: of its class.
        **kwargs: of its class.

    Raises:
        ValueError: the name is unknown, or the class refuses what it is given.

    Example:
        >>> create_attention("denoising", dim=384, num_heads=6, shared_values=True).name
        'denoising'
    """
    made: AttentionModule = attention_class(name)(*args, **kwargs)
    return made


def list_attentions(*, family: Family | None = None, form: Form | None = None) -> list[str]:
    """Registered names, sorted; optionally those of one family, or those that take ``tokens`` or feature maps (``2d``).

    With those of installed packages, by their entry points in the group ``foveal.attentions``.
    """
    form = _form(form)
    load_extensions()
    return sorted(
        name
        for name, cls in registered().items()
        if family in (None, cls.family) and form in (None, cls.form)  # type: ignore[attr-defined]
    )


def config_from_dict(values: dict[str, Any]) -> AttentionConfig:
    """The inverse of :meth:`AttentionConfig.to_dict`; options that are left out keep their defaults.

    Raises:
        ValueError: no or an unknown attention, or an option it does not have, or not of this type.
    """
    options = dict(values)
    if "attention" not in options:
        raise InputError(f'expected a configuration like {{"attention": "denoising", ...}}, got {values!r}')
    cls = attention_class(options.pop("attention"))
    options = renamed_keys(cls.name, options, getattr(cls, "old_names", {}))
    known = {field.name: field.type for field in fields(cls.Config)}
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of {cls.name}", option, known)
        # JSON has no tuples
        options[option] = tuple(value) if isinstance(value, list) else value
        if not fits(options[option], known[option]):
            raise InputError(f"{option} of {cls.name} must be {described(known[option])}, got {value!r}")
    return cls.Config(**options)
