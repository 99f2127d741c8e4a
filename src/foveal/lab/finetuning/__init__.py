"""Fine-tuning other people's pretrained classifiers on a folder of photographs, as they are or with another attention."""

from .page import write_page
from .recipe import calibration_steps, fine_tune, opening, said_of_new

__all__ = ["calibration_steps", "fine_tune", "opening", "said_of_new", "write_page"]
