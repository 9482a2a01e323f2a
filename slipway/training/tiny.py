"""The tiny base: a small Llama with its own tokenizer, pretrained here on the support desk's prose.

So a release can be shown from end to end with no download. It knows words, not the task.
"""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from slipway.data import corpus
from slipway.errors import StageError
from slipway.progress import Progress
from slipway.training.determinism import reproducible
from slipway.training.schedule import learning_rate_share

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from slipway.params import FetchParams, TinyParams

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_TOKENIZER_DOCUMENTS = 4000
_WARMUP_SHARE = 0.1


def _tokenizer(vocabulary: int, seed: int) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(corpus.documents(seed), _TOKENIZER_DOCUMENTS), trainer)
    return tokenizer


def _conversations(seed: int) -> Iterator[str]:
    """Prose in the shape of a chat: the first sentence as the user's turn, the rest as the answer."""
    for text in corpus.documents(seed):
        asked, _, answered = text.partition(". ")
        yield f"{START}user\n{asked}.{END}\n{START}assistant\n{answered}{END}\n"


def _sequences(tokenizer: "Tokenizer", seed: int, length: int) -> Iterator[list[int]]:
    """The conversations one after another, cut into sequences of one length."""
    waiting: list[int] = []
    for text in _conversations(seed):
        waiting += tokenizer.encode(text).ids
        while len(waiting) >= length:
            yield waiting[:length]
            waiting = waiting[length:]


def _model(tokenizer: "Tokenizer", tiny: "TinyParams") -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if tiny.hidden_size % (2 * tiny.heads):
        raise StageError(
            f"fetch.tiny.hidden_size is {tiny.hidden_size}, not a multiple of twice fetch.tiny.heads ({tiny.heads}); "
            f"correct one in params.yaml"
        )
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=tiny.hidden_size,
        intermediate_size=tiny.hidden_size * 8 // 3,
        num_hidden_layers=tiny.layers,
        num_attention_heads=tiny.heads,
        max_position_embeddings=tiny.max_length,
        initializer_range=tiny.hidden_size
        ** -0.5,  # the usual 0.02 is for wide models: here logits could not grow in time
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=tokenizer.token_to_id(START),
        eos_token_id=tokenizer.token_to_id(END),
    )
    return LlamaForCausalLM(config)


def _pretrain(model: Any, sequences: Iterator[list[int]], tiny: "TinyParams") -> float:
    """Plain next-token training on the CPU; gives the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), tiny.learning_rate, weight_decay=0.01, fused=True)
    progress, loss = Progress(tiny.steps), math.nan
    model.train()
    for step in range(tiny.steps):
        tokens = torch.tensor(list(islice(sequences, tiny.batch_size)))
        for group in optimizer.param_groups:
            group["lr"] = tiny.learning_rate * learning_rate_share(step, tiny.steps, _WARMUP_SHARE, "cosine")
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        output = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        output.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = float(output.detach())
        if not math.isfinite(loss):
            raise StageError(f"pretraining: loss is {loss} at step {step + 1}; lower fetch.tiny.learning_rate")
        progress.at(step + 1, loss=loss)
    return loss


def make(params: "FetchParams", folder: Path) -> float:
    """Write the tiny base as a Hugging Face folder; gives its last pretraining loss."""
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    tiny = params.tiny
    tokenizer = _tokenizer(tiny.vocabulary, params.seed)
    with reproducible(True, params.threads):
        torch.manual_seed(params.seed)
        model = _model(tokenizer, tiny)
        loss = _pretrain(model, _sequences(tokenizer, params.seed + 1, tiny.max_length), tiny)
        model.eval()
        model.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=tiny.max_length,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    return loss
