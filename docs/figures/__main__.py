import sys
from pathlib import Path

from . import draw_all

draw_all(Path(sys.argv[1]), sys.argv[2:])
