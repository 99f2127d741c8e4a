from .__main__ import ARMS, HEAD, PROOFS, chosen, main, page, section
from .proof import Row, line


def test_sections_that_were_not_made_anew_are_kept_in_order() -> None:
    first, second, third, *_ = PROOFS.values()
    names = list(PROOFS)
    old = f"an old head\n\n## {third.title}\n\nkept\n\n### a part\n\n## {first.title}\n\nold\n\n## No proof of ours\n\ndropped\n"
    new = page({names[0]: f"## {first.title}\n\nnew\n", names[1]: f"## {second.title}\n\nadded\n"}, old)
    assert new == "\n".join([HEAD, f"## {first.title}\n\nnew\n", f"## {second.title}\n\nadded\n", f"## {third.title}\n\nkept\n\n### a part\n"])
    assert page({}, new) == new


def test_a_gate_that_a_seed_misses_is_shown() -> None:
    kept, missed = (Row("some", (0.9, worst), (0.8, 1.0), "reading", pilot=0.5) for worst in (0.85, 0.7))
    assert "not met" not in line(kept)
    assert line(missed) == "| some | 0.800 | 0.700 – 0.900 |  | 0.500 | **0.8 … 1: not met** | reading |"


def test_a_gate_that_one_seed_must_meet_is_shown_and_missed_where_none_does() -> None:
    kept, missed = (Row("some", figures, (0.0, float("inf")), "reading", some=(-float("inf"), 1.0)) for figures in ((2.0, 0.4), (2.0, 1.1)))
    assert "| ≥ 0; one seed ≤ 1 |" in line(kept)
    assert "| **≥ 0; one seed ≤ 1: not met** |" in line(missed)


def test_unknown_names_train_nothing(capsys) -> None:
    assert main(["halo_reach", "halo_rech"]) == 2
    assert "halo_rech; known: halo_reach, global_cue" in capsys.readouterr().err


def test_arms_that_were_not_made_anew_keep_their_rows_and_what_they_were_made_by() -> None:
    proof, name = PROOFS["solid_pairs"], "solid_pairs"
    none, pointwise, slot, external, softmax, denoising, *_ = (arm.mechanism for arm in ARMS[name])
    first = section(name, proof, [Row(one, (0.5,), (0.4, 0.6), "old") for one in (none, external)], 60, name)
    both = section(name, proof, [Row(one, (0.9,), (0.4, 1.0), "new") for one in (denoising, external)], 60, f"{name}/denoising", first)
    rows = [text.split(" | ")[0].removeprefix("| ") for text in both.splitlines() if text.startswith("| ")]
    assert rows == ["mechanism", none, external, denoising], "in the order of the arms, and none that was never made"
    assert [text.endswith("| new |") for text in both.splitlines() if text.startswith("| ")] == [False, False, True, True]
    made = [text.split("`")[1] for text in both.split("\n\n") if text.startswith("`python")]
    assert made == ["python -m tests.proofs --write solid_pairs", "python -m tests.proofs --write solid_pairs/denoising"]
    assert both.count(proof.notes.strip()) == 1
    again = section(name, proof, [Row(denoising, (0.8,), (0.4, 1.0), "newer")], 60, f"{name}/denoising", both)
    assert again.count("solid_pairs/denoising") == 1
    assert len(chosen("solid_pairs/external")) == 3
    assert (pointwise, slot, softmax) == ("pointwise", "external, slot softmax", "softmax")


def test_unknown_arms_train_nothing(capsys) -> None:
    assert main(["solid_pairs/denoisy"]) == 2
    assert "no arm of solid_pairs/denoisy; known: none; pointwise" in capsys.readouterr().err
    assert main(["caam/none"]) == 2
    assert "the proof is made whole" in capsys.readouterr().err
