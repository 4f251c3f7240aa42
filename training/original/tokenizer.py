"""qwen.tiktoken -> a tokenizer that encodes as the original QWenTokenizer does.

The original normalises to NFC, takes its special tokens out of the text, and gives the rest to tiktoken.
"""

from pathlib import Path
from typing import Any

from launch.errors import UsageError
from launch.model.original import TOKENS
from launch.wording import first_line

# https://github.com/QwenLM/Qwen/blob/main/tokenization_note.md: 151,643 ordinary tokens, then the special ones.
ORDINARY = 151643
END_OF_TEXT, TURN_BEGINS, TURN_ENDS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_BEGINS, TURN_ENDS, *(f"<|extra_{number}|>" for number in range(205)))

# The expression by which the original cuts a text before it merges bytes: contractions, words, single digits, signs,
# line ends, spaces.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML as Qwen-7B-Chat's own code writes it, its default system message included. It knows no tool turns.
_CHAT_TEMPLATE = """\
{%- if tools %}{{ raise_exception('the original Qwen has no turns for tools') }}{% endif %}
{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['tool_calls'] %}{{ raise_exception('the original Qwen has no turns for tool calls') }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def original_tokenizer(directory: Path, chat: bool) -> Any:
    """The transformers tokenizer of an original checkpoint. A chat model ends a turn, a base model a text.

    Raises UsageError when qwen.tiktoken is missing or is not what it is called.
    """
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    path = directory / TOKENS
    try:
        built = TikTokenConverter(str(path), pattern=_PIECES, extra_special_tokens=list(SPECIAL)).converted()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as tokens: {first_line(error)}; download it again") from None
    if built.token_to_id(END_OF_TEXT) != ORDINARY:
        found = built.get_vocab_size() - len(SPECIAL)
        raise UsageError(f"{path}: holds {found:,} tokens, the original Qwen {ORDINARY:,}; download it again")
    built.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        eos_token=TURN_ENDS if chat else END_OF_TEXT,
        pad_token=END_OF_TEXT if chat else SPECIAL[-1],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
