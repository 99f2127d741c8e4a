"""What foveal.lab.data cannot do without; imported before all else, so that a missing package is one line and not a traceback."""

from ..._errors import require

require("foveal.lab.data", ("numpy", "filelock"))
