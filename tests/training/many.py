"""What ``torch.distributed.run`` starts in each process: tests.training.many RECIPE RUN [options], as they stand below.

``--keep-latents``: each process leaves those that its adversaries were given, ``RUN/latents-RANK.pt``.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from foveal import InputError
from foveal.lab.tasks import Classification
from foveal.lab.tasks.adversarial import _Adversaries
from foveal.lab.training import Interrupted, Recipe, fit, loop, optimizing, read_json
from tests.threads import threads_of_process_groups


def main() -> int:
    recipe, run, *options = sys.argv[1:]
    if "--sgd" in options:
        optimizing.create_optimizer_v2 = lambda groups, *a, **k: torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.1)
    if "--eval-batch" in options:
        Classification.eval_batch_size = int(options[options.index("--eval-batch") + 1])
    latents: list[torch.Tensor] = []
    if "--keep-latents" in options:
        given = _Adversaries.forward

        def forward(self: Any, phase: str, z: torch.Tensor, *others: Any) -> Any:
            if torch.is_grad_enabled():
                # and not where the loss behind the last step is looked at
                latents.append(z.clone())
            return given(self, phase, z, *others)

        _Adversaries.forward = forward  # type: ignore[method-assign]
    ends = {"--stop-rank-1-at": signal.SIGTERM, "--kill-rank-1-at": signal.SIGKILL}
    chosen = [option for option in options if option in ends]
    if chosen and os.environ["RANK"] == "1":
        real, left = loop.Progress.advance, [int(options[options.index(chosen[0]) + 1])]

        def advance(self: Any, *arguments: Any) -> None:
            real(self, *arguments)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), ends[chosen[0]])

        loop.Progress.advance = advance  # type: ignore[method-assign]
    try:
        fit(Recipe.from_dict(read_json(Path(recipe))), Path(run), resume=True)
    except Interrupted:
        return 130
    except InputError as error:
        print(f"foveal: {error}", file=sys.stderr, flush=True)
        return 2
    assert not threads_of_process_groups()
    if latents:
        torch.save(latents, Path(run) / f"latents-{os.environ['RANK']}.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
