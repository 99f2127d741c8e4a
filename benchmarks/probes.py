"""What visual probes add to the forward pass of the tower that they read, at reduced depth; and what a step of training costs where the tower ran before."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foveal.models import VisualProbes

from ._harness import Row, check_equal, paired_ratio

LAYERS, DIM, HEADS, TOKENS, PROBES = 2, 1152, 16, 1024, 16
LIMIT = 1.15


class _Tower(nn.Module):
    """Layers of VideoLLaMA 3's, whose tokens go to probes as they come out."""

    def __init__(self) -> None:
        from transformers.models.video_llama_3 import VideoLlama3VisionConfig
        from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3VisionEncoderLayer

        super().__init__()
        config = VideoLlama3VisionConfig(
            hidden_size=DIM, intermediate_size=4304, num_attention_heads=HEADS, num_hidden_layers=LAYERS, attn_implementation="sdpa"
        )
        self.layers = nn.ModuleList(VideoLlama3VisionEncoderLayer(config) for _ in range(LAYERS))
        turned = torch.randn(TOKENS, DIM // HEADS)
        self.options: dict[str, Any] = {"cu_seqlens": torch.tensor([0, TOKENS]), "position_embeddings": (turned.cos(), turned.sin())}

    def forward(self, x: Tensor, probes: VisualProbes | None = None) -> Tensor:
        read = None if probes is None else probes.begin(1)
        for index, layer in enumerate(self.layers):
            out = layer(x, **self.options)
            x = out[0] if isinstance(out, tuple) else out
            read = None if probes is None or read is None else probes.read(index, read, x[None])
        return x if read is None else read


def _call(module: nn.Module, *inputs: Any) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return module(*inputs)

    return call


def rows() -> Iterator[Row]:
    tower, x = _Tower().eval().requires_grad_(False), torch.randn(TOKENS, DIM)
    for attention in ("softmax", "denoising"):
        for form in ("published", "residual"):
            probes = VisualProbes(DIM, HEADS, range(LAYERS), PROBES, attention, form).eval()
            made = VisualProbes(DIM, HEADS, range(LAYERS), PROBES, attention, form).eval()
            made.load_state_dict(probes.state_dict())
            for one in made.attentions:
                one.few_queries = False
            check_equal(_call(tower, x, probes), _call(tower, x, made))
            # the two forms make the same keys and values
            others = [] if form == "published" else [(made, ", keys and values of all tokens made")]
            for which, what in [(probes, ""), *others]:
                ours, theirs, ratio = paired_ratio(_call(tower, x, which), _call(tower, x))
                setting = f"{LAYERS} layers × {DIM} × {TOKENS:,} tokens, {PROBES} {attention} probes, {form}{what}"
                target = "not taken" if which is made else f"≤ {LIMIT}"
                yield Row(
                    "a tower with probes, against the tower",
                    setting,
                    f"{1e3 * ours:.0f} ms",
                    f"{1e3 * theirs:.0f} ms",
                    ratio,
                    target,
                    which is made or ratio <= LIMIT,
                )
    yield _step()


def _step() -> Row:
    """A step on questions about clips, with features out of the file and with the tower run on the frames."""
    from foveal.lab.recipes import get_recipe
    from foveal.lab.training import build_model, load_data
    from foveal.models.video_language import read_tower

    recipe = get_recipe("clip-questions")
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle)
    inputs, targets = recipe.task.collate([bundle.train[n] for n in range(recipe.batch_size)])
    frames = inputs["clip"].flatten(0, 1)

    def step(given: dict[str, Tensor]) -> None:
        loss, _ = recipe.task.step(model, model, given, targets, bundle)
        loss.backward()
        model.zero_grad()

    def seen() -> dict[str, Tensor]:
        with torch.no_grad():
            layers = torch.stack(read_tower(bundle.tower, frames).layers)
        return inputs | {"layers": layers.unflatten(1, inputs["clip"].shape[:2]).transpose(0, 1)}

    check_equal(lambda: seen()["layers"], lambda: inputs["layers"])
    ours, theirs, ratio = paired_ratio(lambda: step(inputs), lambda: step(seen()))
    setting = f"a step of {recipe.batch_size} clips of {bundle.num_frames} frames, denoising probes"
    return Row("features of the frozen tower kept, against run each step", setting, f"{1e3 * ours:.0f} ms", f"{1e3 * theirs:.0f} ms", ratio, "< 1", ratio < 1)
