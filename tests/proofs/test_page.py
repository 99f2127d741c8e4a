from .__main__ import HEAD, PROOFS, main, page
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
