"""What a model card says: what the model is, on which data it was trained, by which command, and how well it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._errors import missing_extra

__all__ = ["Card", "write_card"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What only the author knows; what is left out is said to be unknown."""

    data: str = ""
    """What it was trained and measured on."""
    command: str = ""
    """What made it, to be copied."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Names and values, with the split in the name."""
    description: str = ""
    license: str | None = None
    """The hub's name of one, as ``"apache-2.0"``."""
    tags: tuple[str, ...] = ()


def write_card(card: Card, about: Mapping[str, Any], parameters: int) -> str:
    """README.md of a folder; ``about`` is its config.json."""
    try:
        from huggingface_hub import ModelCardData
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hf", "a model card") from error
    base, conversion = about["base"], about["conversion"]
    attentions = sorted({step["config"]["attention"] for step in conversion["steps"]}) if conversion else []
    head = ModelCardData(library_name="foveal", license=card.license, tags=["foveal", *(f"{name}-attention" for name in attentions), *card.tags])
    library = f"`{base['name']}`" + (f" of {base['library']}" if base["library"] else "")
    lines = ["---", head.to_yaml(), "---", "", f"# {base['name'].rpartition('.')[2]}" + (f" with {', '.join(attentions)} attention" if attentions else ""), ""]
    lines += [card.description, ""] if card.description else []
    lines += [f"{library}, {parameters:,} parameters, saved by foveal {about['versions']['foveal']}.", ""]
    if conversion:
        lines += ["| module | attention | options |", "|---|---|---|", *(_row(step) for step in conversion["steps"]), ""]
    # what only the user can build, the user gives again
    use = 'model = foveal.from_pretrained("…")' if base["library"] else 'model = foveal.from_pretrained("…", build=make)  # the model before conversion'
    lines += ["## Use", "", "```python", "import foveal", "", use, "```", ""]
    lines += ["## Data", "", card.data or "Not stated.", ""]
    lines += ["## Training", "", *(["```", card.command, "```"] if card.command else ["Not stated."]), ""]
    table = ["| metric | value |", "|---|---|", *(f"| {name} | {_number(value)} |" for name, value in card.metrics.items())]
    lines += ["## Metrics", "", *(table if card.metrics else ["Not stated."])]
    return "\n".join(lines) + "\n"


def _row(step: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}={value}" for name, value in step["config"].items() if name != "attention")
    return f"| `{step['names'][0]}` | {step['config']['attention']} | {options} |"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
