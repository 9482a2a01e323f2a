"""How likely a causal language model finds given answers: shared tokens read once, logits only where an answer is scored.

A tree of answers goes through the model as one row, whose attention mask lets each token see only its own ancestors.
Whether a model reads trees right is found by asking it, not by its name: see `Reader.reads_trees`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from slipway.errors import StageError
from slipway.evaluation import prefixes
from slipway.evaluation.inference import attempted
from slipway.evaluation.prefixes import Request, Stand, Tree
from slipway.progress import Progress

Score = tuple[float, bool]  # an answer's log-likelihood, and whether it is what the model would write greedily
Guess = tuple[int, float, bool]  # one token of it: the request, its log-likelihood, whether it is the likeliest

_LOGITS = 2**23  # numbers at once: a full batch of them would not fit where the vocabulary is large
_ROWS = 64  # of them turned to probabilities at once: a CPU's cache holds these
_CACHED = 1024  # tokens a batch on a CPU: more at once only leaves its cache
_PROOFS = 8  # last tokens of an answer that must come out the same both ways before trees are trusted
_UNABLE = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, MemoryError)


# --- what goes through the model ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Trees as the model takes them, padded on the right, and where in them something is scored."""

    inputs: dict[str, torch.Tensor]
    rows: torch.Tensor  # of every position that is scored
    columns: torch.Tensor
    guesses: list[tuple[int, int, int]]  # which of these positions, the token it should guess, the request


def batch_of(trees: list[Tree], shared: int, like: torch.Tensor) -> Batch:
    """Trees after so many shared tokens; the mask in the precision, and everything on the device, of `like`."""
    width = max(len(tree.tokens) for tree in trees)
    tokens = np.zeros((len(trees), width), dtype=np.int64)
    scored: list[tuple[int, int]] = []
    guesses = []
    for row, tree in enumerate(trees):
        tokens[row, : len(tree.tokens)] = tree.tokens
        for node, target, number in sorted(tree.wanted):
            if scored[-1:] != [(row, node)]:
                scored.append((row, node))
            guesses.append((len(scored) - 1, target, number))
    inputs = {"input_ids": torch.from_numpy(tokens)}
    if shared or any(tree.branches for tree in trees):  # else the model's own causal mask is right, and faster
        inputs |= _geometry(trees, shared, width, like.dtype)
    rows, columns = torch.tensor(scored).T
    place = like.device
    return Batch({name: t.to(place) for name, t in inputs.items()}, rows.to(place), columns.to(place), guesses)


def _geometry(trees: list[Tree], shared: int, width: int, precision: torch.dtype) -> dict[str, torch.Tensor]:
    """Each token's position in its own sequence, and a mask under which it sees the shared tokens and its ancestors."""
    positions = np.zeros((len(trees), width), dtype=np.int64)
    visible = np.zeros((len(trees), 1, width, shared + width), dtype=bool)
    visible[..., :shared] = True
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        positions[row, :size] = tree.depths
        visible[row, 0, :size, shared : shared + size] = _ancestors(tree)
    mask = torch.zeros(visible.shape, dtype=precision)
    # Added to the attention's scores; finite, so that padding, which sees nothing, does not become NaN.
    mask.masked_fill_(torch.from_numpy(~visible), torch.finfo(precision).min)
    return {"position_ids": torch.from_numpy(positions), "attention_mask": mask}


def _ancestors(tree: Tree) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each node, which nodes lie on its way to the root, itself among them."""
    size, straight = len(tree.tokens), tree.straight
    seen = np.eye(size, dtype=bool)
    seen[:straight, :straight] = np.tri(straight, dtype=bool)
    for node in range(straight, size):
        seen[node] |= seen[tree.parents[node]]
    return seen


class _Trunk(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values of tokens that all rows share: read, never grown."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What a pass attends to: the trunk before its own tokens, for each of its rows."""
        return _after(self.keys, keys), _after(self.values, values)


def _after(trunk: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat([trunk.expand(len(own), -1, -1, -1), own], dim=-2)


# --- the model ------------------------------------------------------------------------------------------------------


class Reader:
    """A model that reads batches, the fastest way that it proves right."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.causal = network.get_base_model() if hasattr(network, "get_base_model") else network
        self.like = torch.empty(0, dtype=self.causal.dtype, device=next(iter(network.parameters())).device)
        self.vocabulary = int(self.causal.config.get_text_config().vocab_size)
        self.head_alone = _proven(self._head_alone_alike)

    def read(self, inputs: dict[str, torch.Tensor], trunk: Cache | None) -> torch.Tensor:
        """For each token what the head is applied to; the logits themselves where the model must run whole."""
        past = {"use_cache": False} if trunk is None else {"use_cache": True, "past_key_values": trunk}
        found: torch.Tensor
        if self.head_alone:
            found = self.causal.base_model(**inputs, **past)[0]
        else:
            found = self.network(**inputs, **past).logits[:, -inputs["input_ids"].shape[1] :]  # after virtual tokens
        return found

    def logits(self, found: torch.Tensor) -> torch.Tensor:
        return (self.causal.get_output_embeddings()(found) if self.head_alone else found).float()

    def trunk(self, shared: Sequence[int]) -> Cache | None:
        """Keys and values of the tokens that many rows start with."""
        if not shared:
            return None
        model, tokens = self.causal.base_model, torch.tensor([shared], device=self.like.device)
        out = model(input_ids=tokens, use_cache=True, past_key_values=DynamicCache())
        return Cache(layers=[_Trunk(layer) for layer in out.past_key_values.layers])

    def _head_alone_alike(self) -> bool:
        """Whether the head can be applied to chosen positions: some models scale or cap what comes out of it."""
        tokens = torch.arange(1, 9, device=self.like.device)[None] % self.vocabulary
        head = self.causal.get_output_embeddings()
        return self._alike(head(self.causal.base_model(tokens)[0]), self.network(tokens).logits)

    def reads_trees(self, shared: tuple[int, ...], tree: Tree) -> bool:
        """Whether a tree's answers come out as they do when each is read by itself."""
        return _proven(lambda: self._same(shared, tree))

    def _same(self, shared: tuple[int, ...], tree: Tree) -> bool:
        batch = batch_of([tree], len(shared), self.like)
        found = self.read(batch.inputs, self.trunk(shared))[0]
        leaves = sorted(set(range(len(tree.tokens))) - set(tree.parents))
        together, alone = [], []
        for path in (tree.path(leaf) for leaf in {leaves[0], leaves[-1]}):
            sequence = [*shared, *(tree.tokens[node] for node in path)]
            single = self.read({"input_ids": torch.tensor([sequence], device=self.like.device)}, None)[0]
            last = min(len(path), _PROOFS)
            together.append(found[path[-last:]])
            alone.append(single[-last:])
        return self._alike(self.logits(torch.cat(together)), self.logits(torch.cat(alone)))

    def short_sighted(self, length: int) -> bool:
        """Whether some layer looks back less far than this: a mask of ours would let it see more."""
        text = self.causal.config.get_text_config()
        reach = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
        return any(isinstance(tokens, int) and tokens < length for tokens in reach)

    def _alike(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """The same but for rounding; in half precision rounding is coarse, and a leak coarser by far."""
        tolerance = 1e-4 if self.like.dtype in (torch.float32, torch.float64) else 5e-2
        scale = max(float(other.float().abs().max()), 1e-6)
        return one.shape == other.shape and float((one.float() - other.float()).abs().max()) <= tolerance * scale


def _proven(alike: Callable[[], bool]) -> bool:
    """Whether a faster way gives what the plain way does; a model that cannot go it at all does not."""
    try:
        with torch.inference_mode():
            return alike()
    except _UNABLE:
        return False


# --- scoring --------------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """What has been scored so far, by request."""

    count: int
    likelihoods: dict[int, float] = field(default_factory=dict)
    greedy: dict[int, bool] = field(default_factory=dict)

    def take(self, guesses: list[Guess]) -> None:
        for number, likelihood, likeliest in guesses:
            self.likelihoods[number] = self.likelihoods.get(number, 0.0) + likelihood
            self.greedy[number] = self.greedy.get(number, True) and likeliest

    def scores(self) -> list[Score]:
        broken = [n for n in range(self.count) if not math.isfinite(self.likelihoods[n])]
        if broken:
            raise StageError(
                f"the model's log-likelihood of request {broken[0]} is {self.likelihoods[broken[0]]} ({len(broken)} of "
                f"{self.count} such): its weights are broken; look at reports/loss.json"
            )
        return [(self.likelihoods[n], self.greedy[n]) for n in range(self.count)]


class Scorer:
    """Scores answers with one model."""

    def __init__(self, network: Any, positions: int, tokens_per_batch: int) -> None:
        self.reader, self.positions = Reader(network), positions
        self.tokens = min(tokens_per_batch, _CACHED) if self.reader.like.is_cpu else tokens_per_batch
        self.trees = True  # whether the last answers were read as trees

    def score(self, asked: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """The log-likelihood of every answer after its context, in the order given."""
        requests = [self._request(number, *pair) for number, pair in enumerate(asked)]
        found, progress = _Found(len(requests)), Progress(len(requests), "likelihood: answer")
        with torch.inference_mode():
            for stand in self._stands(requests):
                trunk, left = attempted(self.reader.trunk, stand.shared), prefixes.by_size(stand.trees)
                if isinstance(trunk, str):
                    raise too_large(len(stand.shared), trunk)
                while left:
                    trees = left[: prefixes.fitting(left, self.tokens)]
                    batch = batch_of(trees, len(stand.shared), self.reader.like)
                    done = attempted(self._scored, batch, trunk)
                    if isinstance(done, str):
                        self.tokens = halved(
                            len(trees), len(trees[0].tokens), done
                        )  # after the failed pass, whose tensors are gone by now
                        continue
                    found.take(done)
                    progress.at(len(found.likelihoods))
                    left = left[len(trees) :]
        return found.scores()

    def _request(self, number: int, context: Sequence[int], answer: Sequence[int]) -> Request:
        if not context or not answer or len(answer) > self.positions:
            raise StageError(
                f"request {number} has {len(context)} tokens of context and {len(answer)} to score, and the model has "
                f"{self.positions} positions; each needs at least one, and what is scored must fit: correct the suite"
            )
        return prefixes.window(number, context, answer, self.positions)

    def _stands(self, requests: list[Request]) -> list[Stand]:
        """What is read together; where the hardest of it would not be read right, every sequence by itself."""
        stands = prefixes.stands(prefixes.trees(requests, branching=True))
        hardest = _hardest(stands)
        far = max((tree.length for _, tree in hardest), default=0)
        self.trees = not self.reader.short_sighted(far) and all(self.reader.reads_trees(*hard) for hard in hardest)
        if not self.trees:
            print("this model would not read several answers at once as it reads each alone: one at a time", flush=True)
        return stands if self.trees else [Stand((), prefixes.trees(requests, branching=False))]

    def _scored(self, batch: Batch, trunk: Cache | None) -> list[Guess]:
        found = self.reader.read(batch.inputs, trunk)[batch.rows, batch.columns]
        places, targets, numbers = zip(*batch.guesses, strict=True)
        place, target = torch.tensor((places, targets), device=found.device)
        likelihoods: list[float] = []
        likeliest: list[bool] = []
        for start, logs in self._logs(found):
            here = (place >= start) & (place < start + len(logs))  # guesses are in order of place
            rows, tokens = place[here] - start, target[here]
            likelihoods += logs[rows, tokens].tolist()
            likeliest += (logs.argmax(dim=-1)[rows] == tokens).tolist()
        return list(zip(numbers, likelihoods, likeliest, strict=True))

    def _logs(self, found: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Log-probabilities of all tokens at some of the positions, and where these start."""
        step = max(1, _LOGITS // self.reader.vocabulary)
        for start in range(0, len(found), step):
            logits = self.reader.logits(found[start : start + step])
            for row in range(0, len(logits), _ROWS):
                yield start + row, functional.log_softmax(logits[row : row + _ROWS], dim=-1)


def too_large(width: int, reason: str) -> StageError:
    return StageError(
        f"out of memory with one row of {width} tokens ({reason}): no batch is small enough; "
        f"leave the suite's longest rows out, or use a larger device"
    )


def halved(rows: int, width: int, reason: str) -> int:
    """Half as many tokens a batch, where one did not fit in memory; a single row that does not is an error."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if rows == 1:
        raise too_large(width, reason)
    tokens = rows // 2 * width
    print(f"out of memory with {rows} rows of {width} tokens at once; going on with {tokens} tokens", flush=True)
    return tokens


def _hardest(stands: list[Stand]) -> list[tuple[tuple[int, ...], Tree]]:
    """The longest tree that branches, the longest on a trunk, and one that does both: if these are read right, so is all."""
    every = [(stand.shared, tree) for stand in stands for tree in stand.trees]
    branching = [pair for pair in every if pair[1].branches]
    on_trunk = [pair for pair in every if pair[0]]
    kinds = (branching, on_trunk, [pair for pair in branching if pair[0]])
    longest = [max(kind, key=lambda pair: pair[1].length) for kind in kinds if kind]
    return list({id(tree): (shared, tree) for shared, tree in longest}.values())
