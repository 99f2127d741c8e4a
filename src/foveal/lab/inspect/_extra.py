"""What foveal.lab.inspect cannot do without; imported before all else, so that a missing package is one line and not a traceback."""

from ..._errors import require

require("foveal.lab.inspect", ("timm", "torchvision", "numpy", "PIL"))
