"""Questions about clips, answered by a language model that is shown what a frozen tower and probes say. They need the extra ``hf``, for transformers.

clip_questions  foveal compare --recipe clip-questions
                one CPU core, under a minute a run; which digit is dim, which is bright, which way the bright one goes; docs/video-language.md has the results

Its tower is trained on single frames when the data are first loaded, half a minute, and its features are kept in the cache folder.

The published training of a video language model. We have not run it; it needs the videos, the 7B weights and days on several GPUs. ``--smoke`` trains a tiny
random VideoLLaMA 3 on the clips above. Published for egocentric and exocentric videos: half a point over VisCoP (DnA's page, Campos et al., ECCV 2026).

viscop_dna   foveal train viscop-dna --data.root DIR --data.train FILE.json
             VideoLLaMA3-7B-Image with denoising probes at all layers of its tower
viscop       the same with softmax probes
viscop_none  the same training without probes, its baseline

Settings are those of rjccv/DnA's scripts: three epochs of batches of 128, as 32 × 4 here; AdamW at 1e-5 for adapters and projectors and 2e-6 for the modules
that probes read by, cosine, 3 % warm-up, no decay, gradients clipped at 1; bfloat16; LoRA of rank 64 on all linear maps of the language model; 16 probes at all
layers, in the published form, from a negative branch of 1e-4. The probes have no group in the published optimizer and are not trained: so it is here too,
and ``--model.train-probes true`` trains them at ``lr``; ``--model.form residual`` keeps them from becoming one vector, which the published form does not.
Steps are three epochs of as many conversations as ``--data.train`` has: give ``--epochs 3``. 234 is of 10,000 conversations, a guess.
"""

from dataclasses import replace
from pathlib import Path

from ...models import VideoLanguage, VideoLlama
from ..data import ClipQuestions, VideoConversations
from ..tasks import VideoConversation, VideoQuestions
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["clip_questions", "viscop", "viscop_dna", "viscop_none"]

_BASE = "DAMO-NLP-SG/VideoLLaMA3-7B-Image"
_PROBED = VideoLlama(base=_BASE, attention="denoising", form="published", train_probes=False, gradient_checkpointing=True)


@recipe
def clip_questions() -> Recipe:
    """Answer questions about clips of two digits: what is dim, what is bright, which way it goes."""
    return Recipe(
        data=ClipQuestions(),
        model=VideoLanguage(),
        task=VideoQuestions(),
        optim=Optim(lr=2e-3, min_lr=1e-5, warmup=0.2),
        steps=600,
        batch_size=64,
        eval_every=200,
        checkpoint_every=600,
    )


def _published(root: Path, model: VideoLlama) -> Recipe:
    return Recipe(
        data=VideoConversations(root=root, base=_BASE, num_probes=model.num_probes),
        model=model,
        task=VideoConversation(),
        optim=Optim(
            lr=1e-5,
            min_lr=0.0,
            weight_decay=0.0,
            warmup=0.03,
            accumulate=32,
            lr_of={"*visual_probes.probes.attentions.*": 2e-6} if model.num_probes else {},
        ),
        steps=234,
        batch_size=128,
        eval_every=234,
        checkpoint_every=234,
        precision="bf16",
        workers=4,
    )


@recipe
def viscop_dna(root: Path = Path("DIR")) -> Recipe:
    """VideoLLaMA 3 with denoising probes, as published: conversations about videos."""
    return _published(root, _PROBED)


@recipe
def viscop(root: Path = Path("DIR")) -> Recipe:
    """VideoLLaMA 3 with softmax probes, as published: conversations about videos."""
    return _published(root, replace(_PROBED, attention="softmax"))


@recipe
def viscop_none(root: Path = Path("DIR")) -> Recipe:
    """VideoLLaMA 3 trained alike without probes: conversations about videos."""
    return _published(root, VideoLlama(base=_BASE, num_probes=0, gradient_checkpointing=True))
