"""Chat templates that behave like those of real models, and small tokenizers to go with them."""

from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from training.data.rows.samples import Document, Message, Sample

# Qwen2.5, Qwen3 and the original Qwen cut text with this.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = QWEN_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
CORPUS = [
    "The answer is admin. Which role is it? Documents below:\n\n[d1] A token, a session.\n\n\nQuestion: why?\n",
    '{"name": "lookup", "arguments": {"host": "a.b"}}\n<think>\n\n</think>\n\n system user assistant tool\n\n',
    "def f(x):\n    return x\n\n\n    # naïve café 日本語 русский\n  \n  \n it's I'll we're",
] * 3

_TOOL_TURN = """\
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
_TOOLS = """\
    {{- "# Tools\n\nFunctions within <tools></tools>:\n<tools>" }}
    {%- for tool in tools %}{{- "\n" + (tool | tojson) }}{%- endfor %}
    {{- "\n</tools>\n\nCall one within <tool_call></tool_call>.<|im_end|>\n" }}
"""
# A system turn of its own where there is none.
QWEN25 = (
    """\
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}
{%- else %}{%- set system = 'You are a helpful assistant.' %}{%- endif %}
{%- if tools %}
    {{- '<|im_start|>system\n' + system + '\n\n' }}
"""
    + _TOOLS
    + """\
{%- else %}{{- '<|im_start|>system\n' + system + '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
"""
    + _TOOL_TURN
)
# Without thoughts of its own the last answer gets an empty think block; earlier ones lose theirs.
QWEN3 = (
    """\
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
"""
    + _TOOLS
    + """\
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}
{%- set last = namespace(query=messages | length - 1, sought=true) %}
{%- for message in messages[::-1] %}
    {%- if last.sought and message.role == "user" and not (message.content.startswith('<tool_response>')
        and message.content.endswith('</tool_response>')) %}
        {%- set last.sought = false %}{%- set last.query = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" %}{{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}{%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}{%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > last.query and (loop.last or thoughts) %}
            {{- '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}{{- content }}{%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if content or not loop.first %}{{- '\n' }}{%- endif %}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
"""
    + _TOOL_TURN
)
# The original Qwen: a system turn that may be empty, no line end behind the last turn.
CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + (m['content'] | trim) + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# No generation cue: [/INST] ends the question. The system's turn stands inside the first question.
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + ns.system + m['content'] + ' [/INST]' }}{% set ns.system = '' %}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
TEMPLATES = {"qwen2.5": QWEN25, "qwen3": QWEN3, "chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL}
# What the template puts around an answer that is trained on.
AROUND = {
    "qwen2.5": ("", "<|im_end|>"),
    "qwen3": ("", "<|im_end|>"),
    "chatml": ("", "<|im_end|>"),
    "llama3": ("", "<|eot_id|>"),
    "mistral": (" ", "</s>"),
}
EMPTY_THOUGHTS = "<think>\n\n</think>\n\n"

SPECIAL = {
    "qwen2.5": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
}
# Tokens of their own that are no control tokens: the model writes them itself.
MARKUP = {
    "qwen2.5": ["<tool_call>", "</tool_call>"],
    "qwen3": ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"],
    "chatml": [],
    "llama3": [],
    "mistral": [],
}
_ENDS = {"llama3": ("<|begin_of_text|>", "<|eot_id|>"), "mistral": ("<s>", "</s>")}
_SPLITS = {"qwen2.5": QWEN_PATTERN, "qwen3": QWEN_PATTERN, "chatml": QWEN_PATTERN, "llama3": LLAMA3_PATTERN}


def byte_level(pattern: str | None, normalizer: Any = None) -> Tokenizer:
    """Byte-level BPE that cuts text by a regular expression, or as GPT-2 does where there is none."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=520, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """BPE of SentencePiece's kind: spaces are written as ▁, and one stands before the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def chat_tokenizer(kind: str, backend: Tokenizer) -> Any:
    """A transformers tokenizer with the control tokens and the template of one kind of model."""
    from transformers import AddedToken, PreTrainedTokenizerFast

    bos, eos = _ENDS.get(kind, (None, "<|im_end|>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    fast.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL[kind]], special_tokens=True)
    fast.add_tokens([AddedToken(name, special=False, normalized=False) for name in MARKUP[kind]])
    fast.chat_template = TEMPLATES[kind]
    return fast


@cache
def tokenizer_of(kind: str) -> Any:
    """The tokenizer that a model of this kind comes with, in small. Not to be changed: tests share it."""
    split = _SPLITS.get(kind)
    return chat_tokenizer(kind, byte_level(split, normalizers.NFC() if "qwen" in kind or kind == "chatml" else None))


def sample_of(
    *messages: Message, documents: tuple[Document, ...] = (), tools: tuple[dict[str, Any], ...] = ()
) -> Sample:
    return Sample("a", "rows.jsonl", 1, messages, documents, tools)


def talk(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """Question, answer, question, answer."""
    turns: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    turns += [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return tuple(turns)
