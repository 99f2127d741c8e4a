"""Runs every test that is marked as a case, and prints for each case how many of its tests hold: ``python -m tests.cases [CASE …]``."""

import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

CASES: dict[str, str] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text())


class Tally:
    """A pytest plugin that counts outcomes by case, also where xdist's workers run the tests."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for case in dict(report.user_properties).get("cases", ()):
                self.outcomes[case][report.outcome] += 1

    def page(self) -> tuple[str, bool]:
        lines, good = [], 0
        for case in [case for case in CASES if not self.wanted or case in self.wanted]:
            counts = self.outcomes[case]
            holds = counts["passed"] > 0 and not counts["failed"]
            good += holds
            lines.append(
                f"{case:4} {'holds' if holds else 'FAILS' if counts['failed'] else 'skipped' if counts else 'no test':8} {_counted(counts):24} {CASES[case]}"
            )
        return "\n".join([*lines, "", f"{good} of {len(lines)} cases hold"]), good == len(lines)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())) or "–"


def main(wanted: list[str]) -> int:
    unknown = [case for case in wanted if case not in CASES]
    if unknown:
        print(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
        return 2
    tally = Tally(set(wanted))
    status = pytest.main(["-n", "auto", "-m", "case", "-o", f"case_filter={' '.join(wanted)}"], plugins=[tally])
    page, whole = tally.page()
    print(page)
    return 0 if whole and status == pytest.ExitCode.OK else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
