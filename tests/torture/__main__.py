"""Runs campaigns and says what came of them: ``python -m tests.torture [CAMPAIGN …] [--short] [--write]``.

``--short`` tries little of everything in seconds; ``--write`` puts docs/torture.json and docs/torture.md. The exit code is 1 where anything was wrong.
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
    if options - {"--short", "--write", "--keep"}:
        print(__doc__)
        return 2
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="foveal-torture-"))
    # one campaign works there as somebody else
    work.chmod(0o755)
    os.environ["FOVEAL_CACHE"] = str(work / "cache")
    return run_campaigns([word for word in words if word not in options], work, started, short="--short" in options, write="--write" in options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
