"""The LXMERT of a run as the beginning of another, without its heads."""

from pathlib import Path
from typing import Any

from ..._errors import InputError
from ..._files import parse_json
from ..._weights import fill, misfits, read_weights

__all__ = ["Trunk"]

_PREFIXES = ("model.lxmert.", "lxmert.")
"""Of a run of pre-training, and of one of questions."""
_CATT, _WORDS = "encoder.catt.", "embeddings.word_embeddings.weight"
_UNSEEN = ("num_heads",)
_UNSEEN_OF_CATT = ("catt", "share", "cross", "second", "compat")
"""Settings that no shape of a weight tells, or not always, and without which the same weights compute something else."""


class Trunk:
    """Weights of an LXMERT, with CATT or without, out of ``model.safetensors`` of a run.

    Args:
        path: of the file. Where the run's ``recipe.json`` lies beside it, settings that shapes do not tell are compared.
        config: settings of the network that is to begin with them.

    Raises:
        ValueError: there is no such file, it is damaged, or of another network; a setting is another one than in its run.
    """

    def __init__(self, path: Path, config: Any) -> None:
        self.path, weights = path, read_weights(path)
        prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in weights)), None)
        if prefix is None:
            raise InputError(
                f"{path} holds no LXMERT: no name in it begins with {' or '.join(_PREFIXES)}, the first is {next(iter(weights), 'none')}; "
                f"give model.safetensors of a run of region-sentences, lxmert-catt-pretrain or region-questions"
            )
        self.weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        self.catt = any(name.startswith(_CATT) for name in self.weights)
        if self.catt and config.catt == "none":
            raise InputError(f"{path} holds an LXMERT with CATT, and this one is to have none; give the model's catt as its run had it")
        self._compare(config)

    def fill_(self, lxmert: Any) -> None:
        """Give transformers' ``LxmertModel`` all of the weights; of words, those that it has, which must not be more.

        Raises:
            ValueError: names or shapes differ.
        """
        weights, words = dict(self.weights), lxmert.config.vocab_size
        if _WORDS in weights:
            # the word that stands for a hidden one is not asked about
            weights[_WORDS] = weights[_WORDS][:words]
        same = "sizes, share, second and entries must be those of its run, and the data's words and features among its own"
        if problems := misfits(weights, lxmert.state_dict()):
            raise InputError(f"{self.path} holds weights of another network: {problems}; {same}")
        fill(lxmert, weights, self.path, same)

    def _compare(self, config: Any) -> None:
        path = self.path.with_name("recipe.json")
        if not path.is_file():
            return
        told = parse_json(path.read_bytes().decode("utf8", "replace"), str(path))
        ran = told.get("model") if isinstance(told, dict) else None
        if not isinstance(ran, dict):
            raise InputError(f"{path} says nothing of a model; take it from a copy, or move {self.path.name} away from it")
        for name in (*_UNSEEN, *(_UNSEEN_OF_CATT if self.catt else ())):
            if name in ran and ran[name] != getattr(config, name):
                raise InputError(
                    f"{self.path} is of a run with {name}={ran[name]}, and this is to have {name}={getattr(config, name)}, with which its weights "
                    f"would compute something else; give {name} as its run had it"
                )
