"""Small random models as Hugging Face folders, tokenizer and all: stand-ins for a person's own base."""

from pathlib import Path
from typing import Any

WORDS = "the customer asked for a refund and the desk sent a friendly answer on monday about the parcel invoice plan"


def make_llama(path: Path, **changes: Any) -> Path:
    """A Llama with a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**{"vocab_size": 400, "max_position_embeddings": 512, **shape, **changes})
    return _save(LlamaForCausalLM, config, path, chat=True)


def make_qwen2(path: Path, **changes: Any) -> Path:
    """A Qwen2 (biases, grouped heads) with a chat template."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(
        **{"vocab_size": 400, "max_position_embeddings": 512, "num_key_value_heads": 2, **shape, **changes}
    )
    return _save(Qwen2ForCausalLM, config, path, chat=True)


def make_gpt2(path: Path, **changes: Any) -> Path:
    """A GPT-2: learned positions, no chat template, no pad token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(
        **{"vocab_size": 400, "n_positions": 512, "n_embd": 32, "n_layer": 2, "n_head": 4, **still, **changes}
    )
    return _save(GPT2LMHeadModel, config, path, chat=False)


def make_mistral(path: Path, **changes: Any) -> Path:
    """A Mistral, whose attention looks back only a few tokens."""
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "sliding_window": 16, "max_position_embeddings": 512, "vocab_size": 400}
    return _save(MistralForCausalLM, MistralConfig(**{**more, **shape, **changes}), path, chat=True)


def make_gemma2(path: Path, **changes: Any) -> Path:
    """A Gemma 2: every other layer looks back only a few tokens."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16, "max_position_embeddings": 512}
    return _save(Gemma2ForCausalLM, Gemma2Config(**{**more, "vocab_size": 400, **shape, **changes}), path, chat=True)


def _save(kind: Any, config: Any, path: Path, chat: bool) -> Path:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = _tokenizer(chat)
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model, generator = kind(config), torch.Generator().manual_seed(5)
    for _, weight in sorted(model.named_parameters()):  # our own draw: the same whatever the library's version
        if weight.dim() > 1:
            weight.data.normal_(0, 0.1, generator=generator)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _tokenizer(chat: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"] if chat else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 3, trainer)
    if not chat:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    wrapped.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    return wrapped
