"""Studies whose hypotheses, arms, seeds and analysis were committed before they ran: ``foveal study NAME``."""

from .page import write_page
from .registration import Registration, list_studies, load_registration
from .results import collect, write_results
from .run import run_study

__all__ = ["Registration", "collect", "list_studies", "load_registration", "run_study", "write_page", "write_results"]
