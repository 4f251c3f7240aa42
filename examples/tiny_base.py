"""Makes the small base model that examples/demo.yaml fine-tunes, in about a minute on two CPU cores.

    python examples/tiny_base.py DIR

A Qwen2 of 2.3 million parameters with its own byte-level tokenizer and Qwen's chat template. It has read the training
documents of security-rag and nothing else: no question, no answer, no chat, no evaluation document. What it learns is
to continue text, above all text that stands earlier in the same context, since answering from documents needs that.

The same machine and number of threads give the same bytes. A DIR that this script has already made is left as it is.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

RAG = Path(__file__).resolve().parent / "security-rag"
SEED = 42
VOCABULARY = 3072
HIDDEN, HEAD, LAYERS = 256, 64, 2
# Steps, sequences a step, tokens of each, documents in it, sentences of each. Copying is learnt on short texts, then
# stretched to the length of the rows.
PHASES = ((140, 4, 288, 2, 2), (80, 2, 1024, 4, 4))
LEARNING_RATE = 3e-3
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Both as in Qwen2.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Document = dict[str, str]
# torch and transformers are imported where they are used: to find that nothing is to be done takes no seconds then.


def training_documents() -> list[Document]:
    """The documents that build.py leaves to training.

    Its folder has a dash in its name, so it is loaded by its path.
    """
    spec = importlib.util.spec_from_file_location("security_rag_build", RAG / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return [document for name, document in build.documents().items() if name not in build.EVALUATION]


def make_tokenizer(documents: list[Document]) -> Any:
    """Byte-level BPE in Qwen2's manner, learnt from the documents."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), bytes_only])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator([f"[{known['id']}] {known['title']}\n{known['text']}" for known in documents], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


class Passages:
    """Endless text to copy from: documents under their ids, then sentences out of them again, each with its id."""

    def __init__(self, documents: list[Document], tokenizer: Any):
        self.documents, self.tokenizer, self.random = documents, tokenizer, random.Random(SEED)
        self.sentences = [_sentences(document["text"]) for document in documents]
        self.words = sorted(
            {word for sentences in self.sentences for sentence in sentences for word in sentence.split()}
        )

    def draw(self, length: int, documents: int, sentences: int) -> tuple[list[int], int]:
        """`length` tokens, and how many of them are the documents."""
        shown = [self._document(sentences) for _ in range(documents)]
        head = "\n\n".join(f"[{name}] {title}\n{' '.join(text)}" for name, title, text in shown)
        pairs = [(name, sentence) for name, _, text in shown for sentence in text]
        # Each sentence once before any comes twice, so that it is the documents which are copied.
        again = self.random.sample(pairs, len(pairs)) + self.random.choices(pairs, k=length // 10)
        text = head + "\n" + "".join(f"\n{sentence.rstrip('.')} [{name}]." for name, sentence in again)
        ids = [self.tokenizer(part, truncation=True, max_length=length)["input_ids"] for part in (text, head)]
        return ids[0], len(ids[1])

    def _document(self, size: int) -> tuple[str, str, list[str]]:
        """An id, a title and some sentences of a document in their order.

        A fifth of the words and most ids are made up, so that they can only be copied and not be known by heart.
        """
        index = self.random.randrange(len(self.documents))
        document, sentences = self.documents[index], self.sentences[index]
        start = self.random.randrange(len(sentences))
        mixed = [
            " ".join(self._word() if self.random.random() < 0.2 else word for word in sentence.split())
            for sentence in sentences[start : start + size]
        ]
        name = document["id"]
        if self.random.random() < 0.7:
            name = "-".join(re.sub("[^a-z]", "", self._word().lower()) or "x" for _ in range(2))
        return name, document["title"], mixed

    def _word(self) -> str:
        """A word of the documents, or parts of two: evaluation brings words that were never seen."""
        word = self.random.choice(self.words)
        if self.random.random() < 0.7:
            return word
        return word[: self.random.randint(1, len(word))] + self.random.choice(self.words)[-self.random.randint(1, 6) :]


def _sentences(text: str) -> list[str]:
    lines = [re.sub(r"^(#+|-|\d+\.) +", "", line) for line in text.split("\n")]
    return [sentence for line in lines for sentence in re.split(r"(?<=[.?!])\s+", line) if len(sentence.split()) > 4]


def make_model(tokenizer: Any) -> Any:
    """The untrained model. Its embeddings are tied, so that a token which training rarely meets can still be copied."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=640,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // HEAD,
        num_key_value_heads=HIDDEN // HEAD,
        max_position_embeddings=2048,
        rope_theta=1e6,
        tie_word_embeddings=True,
        initializer_range=0.015,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        # Tokens must stand out from what the random layers add to them.
        model.model.embed_tokens.weight.mul_(4)
        lay_copying_heads(model.model)
    return model


def lay_copying_heads(model: Any) -> None:
    """Sets the first head of both layers so that together they continue a repeated text; training does the rest.

    The first looks one token back and notes that token; the second looks for a note of the current token and copies
    what stands there. Without it, a minute of training did not find the pair.
    """
    import torch

    first, second = (layer.self_attn for layer in model.layers)
    match, note, copied = (torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))[0] for _ in range(3))
    half = HEAD // 2
    # One token back: biases of rotary pairs, the fast half of them, whose angles agree at distance 1.
    angle, fast = model.rotary_emb.inv_freq[: half // 2], half // 2
    first.q_proj.bias[:fast] = 9.0
    first.k_proj.bias[:fast] = 9.0 * angle.cos()
    first.k_proj.bias[half : half + fast] = 9.0 * angle.sin()
    first.v_proj.weight[:HEAD] = 0
    first.v_proj.weight[:half] = 0.25 * match[:half]
    first.o_proj.weight[:, :half] = note[:half].T
    # The slow half hardly turns over a context, so it can compare tokens that are far apart.
    slow = [*range(fast, half), *range(half + fast, HEAD)]
    for projection, direction in ((second.q_proj, match), (second.k_proj, note)):
        projection.weight[:HEAD] = 0
        projection.weight[slow] = 2 * direction[:half]
    second.v_proj.weight[:HEAD] = 0.5 * copied[:HEAD]
    second.o_proj.weight[:, :HEAD] = 0.5 * copied[:HEAD].T


def train(model: Any, passages: Passages) -> None:
    """Plain language modelling, but a token of the documents counts a third of a repeated one: little predicts it."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    shapes = [shape for steps, *shape in PHASES for _ in range(steps)]
    began = time.monotonic()
    for step, (sequences, *shape) in enumerate(shapes):
        drawn = [passages.draw(*shape) for _ in range(sequences)]
        ids = torch.tensor([ids for ids, _ in drawn])
        weights = torch.ones(ids[:, 1:].shape)
        for row, (_, documents) in enumerate(drawn):
            weights[row, :documents] = 0.3
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        losses = losses.view(weights.shape)
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 15) * (1 - 0.9 * step / len(shapes))
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 20 == 0:
            repeated, seconds = losses[weights == 1].mean().item(), time.monotonic() - began
            report(f"step {step + 1} of {len(shapes)}: loss of repeated text {repeated:.2f}, {seconds:.0f} s")


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fingerprint(documents: list[Document]) -> str:
    return hashlib.sha256(Path(__file__).read_bytes() + json.dumps(documents).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the small base model that examples/demo.yaml fine-tunes.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    target = parser.parse_args().directory.resolve()
    documents = training_documents()
    # Taken before training: an edit meanwhile must not pass for what was trained.
    mark, made_from = target / "fingerprint", fingerprint(documents)
    if mark.is_file() and mark.read_text() == made_from:
        report(f"{target} is up to date")
        return
    if target.exists() and not mark.is_file():
        raise SystemExit(f"{target} exists and was not made by this script; give another directory")
    make(documents, target, made_from)


def make(documents: list[Document], target: Path, made_from: str) -> None:
    """Puts the trained model at `target`, under that name only when it is complete."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, imported with the model, says that it chose so
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = make_tokenizer(documents)
    model = make_model(tokenizer)
    train(model, Passages(documents, tokenizer))
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / "fingerprint").write_text(made_from)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    report(f"{target}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
