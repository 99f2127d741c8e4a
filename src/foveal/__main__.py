"""``python -m foveal`` does what the command ``foveal`` does."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
