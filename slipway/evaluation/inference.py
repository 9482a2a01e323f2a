"""Run causal language models: load base and tuned once, and ask each for its greedy answers and its losses.

for model in models(base, adapter, full, identities, params, wanted):
    say(model, tests)            the test rows; suites and safety ask the same loaded model
"""

import contextlib
import inspect
import json
import platform
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slipway.artifacts import Json
from slipway.errors import StageError
from slipway.evaluation.predictions import Answer, Answers
from slipway.evaluation.testset import Row, TestSet
from slipway.params import EvaluateParams
from slipway.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """A row in tokens."""

    row: Row
    prompt: list[int]  # what the model is asked
    context: list[int]  # the same, cut as it is where the answer follows: a token may span their edge
    answer: list[int]  # with the token that ends the turn

    @property
    def length(self) -> int:
        return max(len(self.prompt), len(self.context) + len(self.answer))


@dataclass(frozen=True)
class Limits:
    batch_size: int
    max_new_tokens: int
    positions: int | None  # the longest sequence that the model was built for


@dataclass(frozen=True)
class Model:
    """A loaded model, ready to be asked; whoever asks does so inside `computing`."""

    name: str  # base | tuned
    identity: str
    network: "PreTrainedModel"  # with its adapter on top, where it has one
    tokenizer: "PreTrainedTokenizerBase"
    limits: Limits


@dataclass(frozen=True)
class Question:
    """Something to find out about any model, told from all other questions by its facts; the answer is plain JSON."""

    name: str
    facts: Json
    ask: Callable[[Model], Any]


# --- loading --------------------------------------------------------------------------------------------------------


def device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"{folder} has no tokenizer that loads ({reason}); give fetch.base a complete model") from None


def load_model(folder: Path) -> "PreTrainedModel":
    """A model ready to answer: in its own precision on an accelerator, in fp32 on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would be one bar a load among our own lines
    place = device()
    precision: Any = torch.float32 if place == "cpu" else "auto"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=precision, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return model.to(place).eval()


def add_adapter(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """The model with a LoRA adapter on top; the model itself is changed by it."""
    from peft import PeftModel

    with warnings.catch_warnings():  # PEFT's own affair, and the first line that `slipway serve` would say
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return PeftModel.from_pretrained(model, str(folder), is_trainable=False).eval()


def positions_of(model: "PreTrainedModel") -> int | None:
    names = ("max_position_embeddings", "n_positions", "max_sequence_length")
    return next((int(n) for name in names if isinstance(n := getattr(model.config, name, None), int)), None)


def models(
    base: Path,
    adapter: Path,
    full: bool,
    identities: Mapping[str, str],
    params: EvaluateParams,
    wanted: Collection[str],
) -> Iterator[Model]:
    """The base, then the tuned model, as far as they are wanted; with a LoRA adapter the weights are loaded once.

    Let go of one model before asking for the next: two of them may not fit in memory.
    """
    if not wanted:
        return
    tokenizer = load_tokenizer(base)

    def ready(name: str, network: "PreTrainedModel") -> Model:
        limits = Limits(params.batch_size, params.max_new_tokens, positions_of(network))
        return Model(name, identities[name], network, tokenizer, limits)

    if full:
        folders = {"base": base, "tuned": adapter}
        yield from (ready(name, load_model(folders[name])) for name in folders if name in wanted)
        return
    network = load_model(base)
    if "base" in wanted:
        yield ready("base", network)
    if "tuned" in wanted:
        yield ready("tuned", add_adapter(network, adapter))


def hardware() -> dict[str, str]:
    """What a model runs on here, as far as it may move the last digits of a number."""
    import torch

    place = device()
    name = torch.cuda.get_device_name() if place == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": place, "name": name, "machine": platform.machine()}


# --- tokens ---------------------------------------------------------------------------------------------------------


def encode(tokenizer: "PreTrainedTokenizerBase", tests: TestSet, positions: int | None) -> list[Example]:
    """Every row in tokens, the shortest prompts first; a row that the model has no positions for is an error."""
    examples = [_example(tokenizer, row) for row in tests.rows]
    longest = max(examples, key=lambda example: example.length)
    if positions is not None and longest.length > positions:
        raise StageError(
            f"test row {longest.row.id} has {longest.length} tokens with its answer, more than the model's "
            f"{positions} positions; lower prepare.max_length to {positions} or choose a base with more"
        )
    return sorted(examples, key=lambda example: (len(example.prompt), example.row.id))


def _example(tokenizer: "PreTrainedTokenizerBase", row: Row) -> Example:
    """Prompt and answer tokenised as one text, as in training, and told apart by character offsets."""
    text = conversation(tokenizer, row)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    edge, stop = len(row.prompt), len(text.rstrip())
    spans = list(enumerate(encoded["offset_mapping"]))
    first = next((i for i, (start, end) in spans if end > max(start, edge)), len(spans))
    last = next((i for i, (start, _) in spans if start >= stop), len(spans))
    tokens = list(encoded["input_ids"])
    prompt = list(tokenizer(row.prompt, add_special_tokens=False)["input_ids"])
    return Example(row, prompt, tokens[:first], tokens[first:last])


def conversation(tokenizer: "PreTrainedTokenizerBase", row: Row) -> str:
    """The row's prompt, then what the chat template writes for the wanted answer (without one: answer and EOS)."""
    if tokenizer.chat_template:
        messages = json.loads(row.messages)
        asked = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
        if whole.startswith(str(asked)):  # by length: a template may write today's date into both
            return row.prompt + whole[len(str(asked)) :]
    return f"{row.prompt}{row.answer}{tokenizer.eos_token or ''}"


def end_of_turn(tokenizer: "PreTrainedTokenizerBase", example: Example) -> int | None:
    """The token that ends the wanted answer when it is a token of its own; else the tokenizer's EOS."""
    if example.answer and example.answer[-1] in tokenizer.get_added_vocab().values():
        return example.answer[-1]
    return tokenizer.eos_token_id  # type: ignore[no-any-return]


def stop_tokens(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", example: Example) -> set[int]:
    """Whatever ends an answer: the model's and the tokenizer's EOS, the template's end of turn."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    stops = configured if isinstance(configured, list) else [configured]
    return {int(stop) for stop in (*stops, tokenizer.eos_token_id, end_of_turn(tokenizer, example)) if stop is not None}


def warn_of_long_answers(tokenizer: "PreTrainedTokenizerBase", examples: list[Example], max_new_tokens: int) -> None:
    """One line when wanted answers are longer than an answer may be: no model can give them."""
    lengths = [len(e.answer) - (e.answer[-1:] == [end_of_turn(tokenizer, e)]) for e in examples]
    if count := sum(length > max_new_tokens for length in lengths):
        print(
            f"warning: {count} of {len(examples)} wanted answers are longer than {max_new_tokens} tokens, so no model "
            f"can give them; raise evaluate.max_new_tokens",
            flush=True,
        )


# --- running --------------------------------------------------------------------------------------------------------


def padded(model: "PreTrainedModel", sequences: list[list[int]]) -> "dict[str, torch.Tensor]":
    """A batch padded on the left, so that all rows end at one edge; each row's positions count from its own start."""
    import torch

    width = max(map(len, sequences))
    batch = {
        name: torch.zeros((len(sequences), width), dtype=torch.long)
        for name in ("input_ids", "attention_mask", "position_ids")
    }
    for i, tokens in enumerate(sequences):
        start = width - len(tokens)
        batch["input_ids"][i, start:] = torch.tensor(tokens)
        batch["attention_mask"][i, start:] = 1
        batch["position_ids"][i, start:] = torch.arange(len(tokens))
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def forward(model: "PreTrainedModel", **inputs: Any) -> Any:
    """One pass, leaving out what this kind of model does not take (positions, where attention is by distance)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(inner.forward).parameters
    return model(**{name: value for name, value in inputs.items() if name in known})


def losses(model: "PreTrainedModel", batch: list[Example]) -> list[float]:
    """The summed negative log-likelihood of each wanted answer, given its prompt."""
    import torch

    longest = max(len(e.answer) for e in batch)
    inputs = padded(model, [e.context + e.answer for e in batch])
    # Only the answers' logits: a full batch of them would not fit where the vocabulary is large.
    logits = forward(model, **inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, -longest - 1 : -1]
    targets = inputs["input_ids"][:, -longest:]
    each = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").double().cpu()
    return [float(row[longest - len(e.answer) :].sum()) for row, e in zip(each, batch, strict=True)]


def answers(model: "PreTrainedModel", batch: list[Example], limits: Limits, stops: set[int]) -> list[list[int]]:
    """Greedy answers in tokens, without the token that ended them."""
    import torch

    inputs: dict[str, Any] = padded(model, [e.prompt for e in batch])
    last = (limits.positions or 10**9) - 1
    room = [min(limits.max_new_tokens, last + 1 - len(e.prompt)) for e in batch]
    written: list[list[int]] = [[] for _ in batch]
    growing = [n > 0 for n in room]
    while any(growing):
        out = forward(model, **inputs, use_cache=True, logits_to_keep=1)
        chosen = out.logits[:, -1].argmax(dim=-1)
        for i, token in enumerate(chosen.tolist()):
            if growing[i] and (token in stops or len(written[i]) == room[i]):
                growing[i] = False
            elif growing[i]:
                written[i].append(token)
                growing[i] = len(written[i]) < room[i]
        mask = inputs["attention_mask"]
        inputs = {
            "input_ids": chosen[:, None],
            "attention_mask": torch.cat([mask, mask.new_ones((len(batch), 1))], dim=1),
            # A finished row goes on in step with its batch; its position must stay one that the model has.
            "position_ids": (inputs["position_ids"][:, -1:] + 1).clamp(max=last),
            "past_key_values": out.past_key_values,
        }
    return written


@contextlib.contextmanager
def computing(threads: int) -> Iterator[None]:
    """No gradients, and as many threads as params say."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def question(tests: TestSet, params: EvaluateParams) -> Question:
    """What does a model say to the test rows?"""

    def ask(model: Model) -> list[Json]:
        with computing(params.threads):
            return [vars(answer) for answer in say(model, tests)]

    decides = params.model_dump(include={"max_new_tokens", "batch_size", "threads"})
    return Question("answers", decides | {"test": tests.digest, "rows": len(tests.rows)}, ask)


def say(model: Model, tests: TestSet) -> Answers:
    """What a model says to every row of the test set, in the test set's order."""
    network, tokenizer, limits = model.network, model.tokenizer, model.limits
    examples = encode(tokenizer, tests, limits.positions)
    if model.name == "tuned":
        warn_of_long_answers(tokenizer, examples, limits.max_new_tokens)
    stops = stop_tokens(tokenizer, network, examples[0])
    progress = Progress(len(examples), f"evaluate {model.name}: row")
    found: dict[str, Answer] = {}

    def answered(batch: list[Example]) -> list[tuple[list[int], float]]:
        return list(zip(answers(network, batch, limits, stops), losses(network, batch), strict=True))

    for e, (tokens, loss) in as_memory_allows(examples, limits.batch_size, answered):
        found[e.row.id] = Answer(e.row.id, tokenizer.decode(tokens, skip_special_tokens=True), loss, len(e.answer))
        progress.at(len(found))
    return [found[row.id] for row in tests.rows]


def as_memory_allows(
    examples: list[Example], size: int, work: Callable[[list[Example]], list[T]]
) -> Iterator[tuple[Example, T]]:
    """Each example with what became of it; a batch that does not fit in memory is halved, and the rest go on so."""
    at = 0
    while at < len(examples):
        batch = examples[at : at + size]
        done = attempted(work, batch)
        if isinstance(done, str):
            size = halved(batch, done)  # after the failed pass, whose tensors are gone by now
            continue
        yield from zip(batch, done, strict=True)
        at += len(batch)


def attempted(work: Callable[..., T], *args: Any) -> T | str:
    """What the work gives; or, where it does not fit in memory, what was said about that."""
    try:
        return work(*args)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return (str(error).splitlines() or ["no memory left"])[0]


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether the device or the host ran out of memory; torch says so by type or in words."""
    import torch

    text = str(error)
    by_type = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return by_type or "out of memory" in text or "can't allocate memory" in text


def halved(batch: list[Example], reason: str) -> int:
    """Half the size of a batch that did not fit in memory; a single row that does not is an error."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    size = len(batch)
    if size == 1:
        raise StageError(
            f"out of memory with one test row at a time ({reason}), at row {batch[0].row.id}: no evaluate.batch_size is "
            f"small enough; lower prepare.max_length or evaluate.max_new_tokens, or use a larger device"
        )
    print(f"out of memory with {size} test rows at once; going on with {size // 2}", flush=True)
    return size // 2
