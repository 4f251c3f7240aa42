"""A model's tokenizer, loaded as its rows are cut: whole, with a chat template, and with a token of its own to pad."""

from typing import Any

from launch.errors import MusterError, UsageError
from launch.wording import first_line
from training.data.encoding.template import ChatFiles

# A byte-level vocabulary has one for each byte, one of pieces thousands.
LEAST_TOKENS = 256


def load_chat_files(variant: str) -> ChatFiles:
    return ChatFiles.of(load_tokenizer(variant))


def load_tokenizer(variant: str) -> Any:
    """The model's tokenizer (a PreTrainedTokenizerFast) with its chat template. Raises UsageError where it cannot be
    loaded, and where it has no chat template or no tokenizer.json."""
    from transformers import AutoTokenizer

    from launch.model.files import hub_name
    from training.original.importing import is_chat, original_directory
    from training.original.tokenizer import original_tokenizer

    original = original_directory(variant, weights=False)
    try:
        if original is not None:
            tokenizer = original_tokenizer(original, is_chat(original))
        else:
            tokenizer = AutoTokenizer.from_pretrained(hub_name(variant), trust_remote_code=False)
    except MusterError:
        raise
    except Exception as error:  # noqa: BLE001 - files that hold something else break in as many ways as there are
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"model.variant {variant}: no tokenizer could be loaded: {reason}") from None
    if not tokenizer.chat_template:
        raise UsageError(
            f"model.variant {variant}: its tokenizer has no chat template; use the instruct or chat variant"
        )
    # Without its file transformers makes one of special tokens alone, for which a text has hardly any tokens.
    if not tokenizer.is_fast or tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False) < LEAST_TOKENS:
        raise UsageError(f"model.variant {variant}: has no tokenizer.json, which muster reads its tokens from")
    # Lengths are ours to decide. A truncation saved with a tokenizer would cut in silence, and calling the tokenizer
    # changes it, so that ranks which have tokenised and ranks which have not would see different ones.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        special = [token for token in tokenizer.get_added_vocab() if token != tokenizer.bos_token]
        tokenizer.pad_token = padding_token(special, tokenizer.eos_token)
    return tokenizer


def padding_token(special: list[str], end: str) -> str:
    """A token to pad with that ends nothing: one that is called so, else the last special one; the end without any.

    Base models of Qwen2.5 pad with <|endoftext|>, which is what they end a text with.
    """
    others = [token for token in special if token not in (end, "<|im_end|>", "<|eot_id|>", "<|endoftext|>")]
    return next((token for token in others if "pad" in token), others[-1] if others else end)
