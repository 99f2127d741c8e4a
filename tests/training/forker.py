"""A process that has imported everything and forks a child for each run, so that a run can be killed without paying for imports each time.

Talks JSON lines. A request with a ``recipe`` starts a run and answers its pid; one with a ``pid`` waits for it and answers how it ended. With an
``environment`` it is one of several processes that train together.
A run can be told to kill itself before its n-th event, where an event is a change of its folder or an fsync. Before an fsync half of the file is thrown away
first: what was not flushed may be lost.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal._errors import InputError
from foveal.lab.training import Interrupted, Recipe, fit, loop

CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def main() -> None:
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warm = None
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            status = os.waitpid(request["pid"], 0)[1]
            print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
            continue
        if warm is None:
            # what is imported late is imported here, once
            warm = tempfile.TemporaryDirectory()
            fit(replace(Recipe.from_dict(request["recipe"]), steps=1), Path(warm.name) / "run", quiet=True)
        pid = os.fork()
        if pid == 0:
            os._exit(run(request))
        print(json.dumps(pid), flush=True)


def run(request: dict[str, Any]) -> int:
    folder = Path(request["run"])
    if request.get("environment"):
        from accelerate.state import PartialState

        os.environ.update(request["environment"])
        # that of the run which imported everything was of one process
        PartialState._reset_state()
    events = watch(folder, request.get("die_before"))
    for step, number in request.get("signals", []):
        signal_at(step, number)
    try:
        fit(Recipe.from_dict(request["recipe"]), folder, resume=True, quiet=True)
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        return 131
    except InputError:
        traceback.print_exc()
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    rank = os.environ.get("RANK", "")
    folder.with_suffix(f".events{rank}").write_text(json.dumps(events))
    return 0


def watch(folder: Path, die_before: int | None) -> list[str]:
    events: list[str] = []

    def happen(what: str) -> bool:
        events.append(what)
        return len(events) == die_before

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and str(arguments[0]).startswith(str(folder)) and happen(f"{event} {arguments[0]}"):
            os.kill(os.getpid(), signal.SIGKILL)

    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if happen(f"fsync {path}"):
            if os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    sys.addaudithook(audit)
    os.fsync = fsync
    return events


def signal_at(step: int, number: int) -> None:
    """Send it during a step, from inside: no race decides where."""
    real, seen = loop.Progress.advance, [0]

    def advance(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        seen[0] += 1
        if seen[0] == step:
            os.kill(os.getpid(), number)

    loop.Progress.advance = advance  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
