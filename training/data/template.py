"""Conversations -> token ids and the mask of what is trained on: the assistant's tokens and nothing else."""

from typing import Any

from training.data.formats import Conversation, RowError
from training.data.labels import IGNORED


def render(tokenizer: Any, conversation: Conversation) -> tuple[str, list[tuple[int, int]]]:
    """The model's own chat template, and the character spans of each answer with the token that ends it.

    Raises RowError when the template does not lay turns out one after the other, so that no span could be told.
    """
    messages = [{"role": role, "content": content} for role, content in conversation.messages]
    full = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        if not full.startswith(prompt):
            raise RowError("this chat template changes earlier turns, so the answer cannot be told from the prompt")
        content_end = full.index(message["content"], len(prompt)) + len(message["content"])
        end = (
            content_end + len(tokenizer.eos_token) if full.startswith(tokenizer.eos_token, content_end) else content_end
        )
        spans.append((len(prompt), end))
    return full, spans


def encode(
    tokenizer: Any, conversations: list[Conversation], max_length: int
) -> list[tuple[list[int], list[int], int]]:
    """(input_ids, labels, tokens cut off) of each conversation. Labels are IGNORED outside the assistant's tokens.

    The first label is always IGNORED: no token predicts it.
    """
    rendered = [render(tokenizer, conversation) for conversation in conversations]
    batch = tokenizer([text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True)
    encoded = []
    for ids, offsets, (_, spans) in zip(batch["input_ids"], batch["offset_mapping"], rendered, strict=True):
        labels = [IGNORED] * len(ids)
        for start, end in spans:
            for position, (left, right) in enumerate(offsets):
                if left >= start and right <= end and position > 0:
                    labels[position] = ids[position]
        encoded.append((ids[:max_length], labels[:max_length], max(0, len(ids) - max_length)))
    return encoded
