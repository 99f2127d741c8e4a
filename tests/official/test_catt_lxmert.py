"""LXMERT with CATT against the authors' whole network: outputs, gradients, names of files, and files that do not fit."""

import copy
import re

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from foveal import official
from tests.official.test_golden import GOLDEN, part, read, relative

CASES = sorted(path.stem for path in GOLDEN.glob("catt_lxmert_*.safetensors"))
ORDER = ("input_ids", "token_type_ids", "attention_mask", "visual_feats", "visual_pos", "visual_attention_mask")
RESULTS = ("", ".vision", ".pooled")


def loaded(case: str, dtype: torch.dtype = torch.float64) -> tuple[torch.nn.Module, dict, dict[str, Tensor]]:
    kind, settings, tensors = read(case)
    return official.load(kind, part(tensors, "state.", dtype), **settings), settings, tensors


def inputs_of(tensors: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    given = part(tensors, "input.", dtype)
    return [given[name] for name in ORDER if name in given]


def test_there_are_five() -> None:
    assert len(CASES) == 5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case, dtype, tolerance) -> None:
    module, settings, tensors = loaded(case, dtype)
    inputs = inputs_of(tensors, dtype)
    floats = dict(zip(ORDER[3:5], inputs[3:5], strict=True))
    for value in floats.values():
        value.requires_grad_()
    outputs = module(*inputs)
    for output, name in zip(outputs, RESULTS, strict=True):
        assert output.dtype == dtype
        assert relative(output, tensors[f"output{name}"]) < tolerance, name
    sum((output * tensors[f"cotangent{name}"].to(dtype)).sum() for output, name in zip(outputs, RESULTS, strict=True)).backward()
    for name, value in floats.items():
        assert relative(value.grad, tensors[f"grad.input.{name}"]) < 10 * tolerance, name
    wanted = official.translate("catt.lxmert", part(tensors, "grad.state.", torch.float64), **settings)
    assert len(wanted) >= 10
    ours = dict(module.named_parameters())
    for name, want in wanted.items():
        # gradients of queries are differences of larger ones, of which single precision leaves less: 3.3e-4 at most here, where all others are within 4e-6
        single = 5e-4 if name.endswith("query.weight") else 2e-5
        assert relative(ours[name].grad, want) < (1e-11 if dtype == torch.float64 else single), name


@pytest.mark.parametrize("case", CASES)
def test_what_has_no_gradient_is_what_the_authors_files_say(case) -> None:
    module, _, tensors = loaded(case)
    sum(output.sum() for output in module(*inputs_of(tensors))).backward()
    from safetensors import safe_open

    with safe_open(GOLDEN / f"{case}.safetensors", "pt") as file:
        said = int(re.search(r"(\d+) in all", file.metadata()["note"])[1])
    none = [name for name, value in module.named_parameters() if value.grad is None]
    assert len(none) == said
    assert all(name.startswith("lxmert.encoder.catt.x_layers.0.") for name in none)


def headed(case: str, prefix: str, heads: dict[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], dict, dict[str, Tensor]]:
    """A file of a task: the authors' network behind a prefix, and heads."""
    _, settings, tensors = read(case)
    torch.manual_seed(0)
    state = {prefix + key: value for key, value in part(tensors, "state.", torch.float64).items()}
    return state | {key: torch.randn(*shape, dtype=torch.float64) for key, shape in heads.items()}, settings, tensors


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prefix", ["", "bert.", "lxrt_encoder.model.bert."])
def test_names_of_task_files(case, prefix) -> None:
    state, settings, tensors = headed(case, prefix, {})
    with pytest.warns(UserWarning, match="module") if prefix == "bert." else pytest.MonkeyPatch.context():
        given = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3} if prefix == "bert." else state
        module = official.load("catt.lxmert", given, **settings)
    assert relative(module(*inputs_of(tensors))[2], tensors["output.pooled"]) < 1e-12


def by_hand(pooled: Tensor, state: dict[str, Tensor], prefix: str = "logit_fc.") -> Tensor:
    hidden = pooled @ state[f"{prefix}0.weight"].T + state[f"{prefix}0.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
    hidden = hidden * state[f"{prefix}2.weight"] + state[f"{prefix}2.bias"]
    return hidden @ state[f"{prefix}3.weight"].T + state[f"{prefix}3.bias"]


def head(wide: int, inner: int, outputs: int, prefix: str = "logit_fc.") -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}0.weight": (inner, wide),
        f"{prefix}0.bias": (inner,),
        f"{prefix}2.weight": (inner,),
        f"{prefix}2.bias": (inner,),
        f"{prefix}3.weight": (outputs, inner),
        f"{prefix}3.bias": (outputs,),
    }


def test_a_file_of_questions() -> None:
    state, settings, tensors = headed("catt_lxmert_ft_g2g", "lxrt_encoder.model.bert.", head(12, 24, 7))
    module = official.load("catt.lxmert_answers", state, num_answers=7, **settings)
    given = {key: value for key, value in zip(ORDER, inputs_of(tensors), strict=False) if key != "token_type_ids"}
    assert int(tensors["input.token_type_ids"].max()) in (0, 1)
    pooled = official.load("catt.lxmert", {k: v for k, v in state.items() if "bert." in k}, **settings)(given["input_ids"], None, *list(given.values())[1:])[2]
    assert relative(module(given), by_hand(pooled, state)) < 1e-12


def test_a_file_of_pairs_of_images() -> None:
    """Two images of a sentence; the pooled sentences side by side, in the order of the images."""
    state, settings, tensors = headed("catt_lxmert_ft_same_g2g", "lxrt_encoder.model.bert.", head(24, 24, 2))
    module = official.load("catt.lxmert_nlvr2", state, **settings)
    alone = official.load("catt.lxmert", {k: v for k, v in state.items() if "bert." in k}, **settings)
    given = dict(zip(ORDER, inputs_of(tensors), strict=False))
    words = {key: given[key] for key in ("input_ids", "attention_mask")}
    features, boxes = (torch.stack([given[key], given[key].flip(0)], dim=1) for key in ("visual_feats", "visual_pos"))
    pooled = [alone(words["input_ids"], None, words["attention_mask"], features[:, image], boxes[:, image])[2] for image in (0, 1)]
    want = by_hand(torch.cat(pooled, dim=1), state)
    got = module(words | {"visual_feats": features, "visual_pos": boxes})
    assert relative(got, want) < 1e-12
    swapped = module(words | {"visual_feats": features.flip(1), "visual_pos": boxes.flip(1)})
    assert (swapped - got).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"\(B, 2, M, F\)"):
        module(words | {"visual_feats": features[:, :1], "visual_pos": boxes[:, :1]})


def test_a_file_of_pretraining() -> None:
    from transformers import LxmertConfig, LxmertForPreTraining

    case = "catt_lxmert_ft_same_g2l"
    _, settings, tensors = read(case)
    sizes = {key: value for key, value in settings.items() if key in LxmertConfig().to_dict()}
    # names and shapes of transformers' own heads, which are the official ones
    heads = LxmertForPreTraining(LxmertConfig(**sizes, num_qa_labels=6)).state_dict()
    shapes = {key: tuple(value.shape) for key, value in heads.items() if not key.startswith("lxmert.")}
    state, _, _ = headed(case, "bert.", shapes)
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    model = official.load("catt.lxmert_pretraining", state, num_answers=6, **settings)
    given = dict(zip(ORDER, inputs_of(tensors), strict=False))
    out = model(**given)
    assert relative(out.question_answering_score, by_hand(tensors["output.pooled"], state, "answer_head.logit_fc.")) < 1e-12
    assert model.cls.predictions.decoder.weight is model.lxmert.embeddings.word_embeddings.weight
    other = state | {"cls.predictions.decoder.weight": state["cls.predictions.decoder.weight"] + 1}
    with pytest.raises(ValueError, match="other words"):
        official.load("catt.lxmert_pretraining", other, num_answers=6, **settings)


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        (lambda state: state.pop("encoder.ML"), {}, "missing lxmert.encoder.catt.dictionary_language.entries"),
        (lambda state: state.update({"encoder.MX": torch.zeros(1)}), {}, "left over lxmert.encoder.MX"),
        (lambda state: None, {"visual_dictionary": 6}, r"dictionary_vision.entries is \(5, 12\), wanted \(6, 12\)"),
        (lambda state: None, {"l_layers": 3}, "only layer 2 has one"),
        (lambda state: None, {"bert_type": "ft_same"}, "left over|second stream"),
        (lambda state: None, {"bert_type": "bert"}, "bert_type"),
        (lambda state: None, {"layers": 3}, "do not fit the official kind"),
        (lambda state: state.update({"encoder.MV": torch.zeros(2, 5, 12)}), {}, r"is \(2, 5, 12\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(change, settings, says) -> None:
    _, own, tensors = read("catt_lxmert_ft_g2g")
    state = part(tensors, "state.", torch.float64)
    change(state)
    with pytest.raises(ValueError, match=says):
        official.load("catt.lxmert", state, **own | settings)


def test_strange_heads_are_refused() -> None:
    state, settings, _ = headed("catt_lxmert_ft_g2g", "lxrt_encoder.model.bert.", head(12, 24, 7) | {"extra.weight": (2, 2)})
    with pytest.raises(ValueError, match=r"'extra.weight' is no key"):
        official.load("catt.lxmert_answers", state, num_answers=7, **settings)


def test_a_translation_leaves_the_file_as_it_was() -> None:
    _, settings, tensors = read("catt_lxmert_ft_large")
    state = part(tensors, "state.", torch.float64)
    before = copy.deepcopy(state)
    official.load("catt.lxmert", state, **settings)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in state)
