"""A processor of VideoLLaMA 3 for a closed vocabulary and small frames: transformers' own, with nothing to download."""

from collections.abc import Iterable
from typing import Any

from ...._errors import missing_extra

__all__ = ["tiny_processor"]

_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|video_pad|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
_FORM = ("<|pad|>", "<|unknown|>", "<|end|>", "<|image_pad|>", "<|video_pad|>", "user", "assistant", "Time", "s", ":", ".", ",", "?")
_PATCH = 4


def tiny_processor(words: Iterable[str], side: int) -> Any:
    """For these words and square frames of a side, in patches of 4×4 pixels of which 2×2 make a visual token."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, VideoLlama3ImageProcessor, VideoLlama3Processor, VideoLlama3VideoProcessor
    except ImportError as error:
        raise missing_extra("transformers", "hf", "conversations about clips") from error
    known = dict.fromkeys([*_FORM, *map(str, range(10)), *words])
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<|unknown|>"))
    # digits apart, as times of frames are numbers
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|pad|>", unk_token="<|unknown|>", eos_token="<|end|>", additional_special_tokens=["<|image_pad|>", "<|video_pad|>"]
    )
    size = {"shortest_edge": side * side, "longest_edge": 64 * side * side}
    return VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(patch_size=_PATCH, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=VideoLlama3VideoProcessor(patch_size=_PATCH, merge_size=2, size=size, use_token_compression=False),
        chat_template=_TEMPLATE,
    )
