"""The comparison: a plan, its runs side by side, statistics, and a report that says plainly when a difference is noise."""

from .plan import DEFAULT_ARMS, Arm, Plan, list_arms, make_plan
from .report import render_report, write_report, write_summary
from .results import check_results, collect, write_results
from .run import run_plan, steps_for_minutes

__all__ = [
    "DEFAULT_ARMS",
    "Arm",
    "Plan",
    "check_results",
    "collect",
    "list_arms",
    "make_plan",
    "render_report",
    "run_plan",
    "steps_for_minutes",
    "write_report",
    "write_results",
    "write_summary",
]
