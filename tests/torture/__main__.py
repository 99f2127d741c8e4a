"""Runs campaigns and says what came of them: ``python -m tests.torture [CAMPAIGN …] [--short] [--write] [--minutes=N]``.

``--short`` tries little of everything in seconds; ``--write`` puts docs/torture.json and docs/torture.md; ``--minutes`` ends each campaign behind the
trial that passes them, which the report says. The exit code is 1 where anything was wrong.
"""

import os
import sys
import tempfile
import time
from pathlib import Path


def main(words: list[str]) -> int:
    # before anything is imported that reads it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    from .run import run_campaigns

    options = {word for word in words if word.startswith("--")}
    minutes = [word.removeprefix("--minutes=") for word in options if word.startswith("--minutes=")]
    if {word for word in options if not word.startswith("--minutes=")} - {"--short", "--write"}:
        print(__doc__)
        return 2
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="foveal-torture-"))
    # one campaign works there as somebody else
    work.chmod(0o755)
    os.environ["FOVEAL_CACHE"] = str(work / "cache")
    names = [word for word in words if word not in options]
    return run_campaigns(names, work, started, short="--short" in options, write="--write" in options, minutes=float(minutes[0]) if minutes else None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
