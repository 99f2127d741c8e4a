"""``foveal bench``, in the wheel: what attentions and models of the user's choice cost on the user's machine; ``benchmarks/`` makes the project's own pages.

Side by side in one run, and only of what computes what it should.
"""

from .measure import Bench, Row, Settings, run_bench
from .report import cost_plot, table, write_bench
from .subject import Subject, subject

__all__ = ["Bench", "Row", "Settings", "Subject", "cost_plot", "run_bench", "subject", "table", "write_bench"]
