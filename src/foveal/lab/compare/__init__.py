"""The comparison: a plan, its runs side by side, statistics, and a report that says plainly when a difference is noise."""

from . import _extra  # noqa: F401  # the first: it says which package is missing
from .cluster import Cluster
from .costs import steps_for_minutes
from .network_plan import make_network_plan
from .plan import DEFAULT_ARMS, Arm, Plan, list_arms, make_plan
from .report import render_report, write_report, write_summary
from .resolution import ResolutionPoint, cost_against_resolution, measure_resolution, resolution_figure
from .results import check_results, collect, write_results
from .run import run_plan
from .viewer import write_viewer

__all__ = [
    "DEFAULT_ARMS",
    "Arm",
    "Cluster",
    "Plan",
    "ResolutionPoint",
    "check_results",
    "collect",
    "cost_against_resolution",
    "list_arms",
    "make_network_plan",
    "make_plan",
    "measure_resolution",
    "render_report",
    "resolution_figure",
    "run_plan",
    "steps_for_minutes",
    "write_report",
    "write_results",
    "write_summary",
    "write_viewer",
]
