"""Studies whose hypotheses, arms, seeds and analysis were committed before they ran: ``foveal study NAME``."""

from .page import write_page
from .registration import Registration, list_studies, load_registration, load_study
from .results import collect, write_results
from .run import done_parts, run_study

__all__ = ["Registration", "collect", "done_parts", "list_studies", "load_registration", "load_study", "run_study", "write_page", "write_results"]
