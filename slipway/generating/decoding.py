"""The running answers of one loaded model: rows join, grow together by one token a step, and leave when they end.

    batch.admit(rows)        their prompts wait to be read
    batch.advance(memory)    read a part of the prompts that wait, then one step of all that run

No thread, lock or clock is in here: whoever owns the batch calls it, and gets back what happened to whom.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from slipway.errors import SlipwayError, StageError
from slipway.evaluation import inference
from slipway.generating.answer_text import AnswerText
from slipway.generating.jobs import Finish, Piece
from slipway.generating.networks import Network
from slipway.generating.sampling import Chooser, choose
from slipway.generating.slots import Slots
from slipway.generating.tickets import Ticket

_PADDING = 256  # tokens of padding that a pass may have whatever it reads: a pass of its own costs more
_TRY_AGAIN = 200  # steps after which a batch that memory cut short may grow by one


@dataclass(eq=False)
class Row:
    """One answer in the making."""

    ticket: Ticket
    adapter: str
    room: int  # tokens the answer may have
    text: AnswerText
    chooser: Chooser
    tokens: list[int] = field(default_factory=list)
    queued_seconds: float = 0.0

    @property
    def read(self) -> list[int]:
        """Everything before the next token: what the model must have read."""
        return [*self.ticket.job.prompt, *self.tokens]


Happened = tuple[Row, Piece | SlipwayError]


@dataclass(eq=False)
class _Reading:
    """A prompt too long for one pass, read in parts."""

    row: Row
    tokens: list[int]
    cache: DynamicCache
    done: int = 0


class Batch:
    """What runs on one network, and what waits to run there."""

    def __init__(self, network: Network, most: int, prefill_tokens: int) -> None:
        self.network, self.most, self.prefill_tokens = network, most, prefill_tokens
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []  # a row's place here is its slot
        self.limit = most  # what memory allows for now
        self.preempted = 0
        self.sizes: Counter[int] = Counter()  # how many steps had how many rows
        self._slots = Slots(network.layers, network.windows, network.model.dtype)
        self._reading: _Reading | None = None
        self._good_steps = 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running or self._reading)

    @property
    def cache_bytes(self) -> int:
        return self._slots.bytes

    def rows(self) -> list[Row]:
        """Every row that is here."""
        return [*self.running, *([self._reading.row] if self._reading else []), *self.waiting]

    def drop(self, gone: Sequence[Row]) -> None:
        """Take rows out at once, wherever they are."""
        out = set(map(id, gone))
        for slot in reversed(range(len(self.running))):
            if id(self.running[slot]) in out:
                self._leave(slot)
        if self._reading and id(self._reading.row) in out:
            self._reading = None
        self.waiting = deque(row for row in self.waiting if id(row) not in out)
        self._free_if_idle()

    def advance(self) -> list[Happened]:
        """Read what fits of the waiting prompts, then grow every running answer by a token."""
        happened = [*self._prefill(), *self._step()]
        self._free_if_idle()
        return happened

    def _free_if_idle(self) -> None:
        """What one large batch has needed is not kept when nobody is left."""
        if not self.running and not self._reading:
            self._slots.free()

    # --- prompts ----------------------------------------------------------------------------------------------------

    def _prefill(self) -> list[Happened]:
        if self._reading is None and self.waiting and len(self.running) < self.limit:
            if len(self.waiting[0].read) > self.prefill_tokens:
                row = self.waiting.popleft()
                self._reading = _Reading(row, row.read, DynamicCache())
            else:
                return self._read_together(self._group())
        return self._read_on() if self._reading else []

    def _group(self) -> list[Row]:
        """The next rows whose prompts, padded to one width, are a pass's worth and not mostly padding."""
        group: list[Row] = []
        width = read = 0
        while self.waiting and len(self.running) + len(group) < self.limit:
            length = len(self.waiting[0].read)
            width, read = max(width, length), read + length
            padded = width * (len(group) + 1)
            if group and (padded > self.prefill_tokens or padded > 2 * read + _PADDING):
                break
            group.append(self.waiting.popleft())
        return group

    def _read_together(self, group: list[Row]) -> list[Happened]:
        reads = [row.read for row in group]

        def read() -> tuple[torch.Tensor, DynamicCache]:
            inputs: dict[str, Any] = inference.padded(self.network.model, reads)
            cache = DynamicCache()
            logits = self.network.forward([row.adapter for row in group], **inputs, past_key_values=cache)
            self._slots.join(cache, [len(tokens) for tokens in reads])
            return logits, cache

        done = inference.attempted(read)
        if isinstance(done, str):
            return self._too_much(group, done)
        self.running.extend(group)
        return self._chosen(done[0], len(self.running) - len(group))

    def _read_on(self) -> list[Happened]:
        """The next part of a long prompt; after the last one the row runs."""
        reading = self._reading
        assert reading is not None
        part = reading.tokens[reading.done : reading.done + self.prefill_tokens]
        end = reading.done + len(part)

        def read() -> torch.Tensor:
            device = self.network.device
            inputs = {
                "input_ids": torch.tensor([part], device=device),
                "attention_mask": torch.ones((1, end), dtype=torch.long, device=device),
                "position_ids": torch.arange(reading.done, end, device=device)[None],
            }
            logits = self.network.forward([reading.row.adapter], **inputs, past_key_values=reading.cache)
            if end == len(reading.tokens):
                self._slots.join(reading.cache, [end])
            return logits

        logits = inference.attempted(read)
        if isinstance(logits, str):
            self._reading = None
            return self._too_much([reading.row], logits)
        reading.done = end
        if end < len(reading.tokens):
            return []
        self._reading = None
        self.running.append(reading.row)
        return self._chosen(logits, len(self.running) - 1)

    # --- steps ------------------------------------------------------------------------------------------------------

    def _step(self) -> list[Happened]:
        if not self.running:
            return []
        rows = self.running

        def step() -> torch.Tensor:
            inputs = self._slots.step(self.network.device)
            tokens = torch.tensor([[row.tokens[-1]] for row in rows], device=self.network.device)
            return self.network.forward([row.adapter for row in rows], input_ids=tokens, **inputs)

        logits = inference.attempted(step)
        if isinstance(logits, str):
            return self._too_many(logits)
        self._slots.wrote()
        self.sizes[len(rows)] += 1
        self._good_steps += 1
        if self.limit < self.most and self._good_steps % _TRY_AGAIN == 0:
            self.limit += 1
        return self._chosen(logits, 0)

    def _chosen(self, logits: torch.Tensor, first: int) -> list[Happened]:
        """The next token of the running rows from `first` on; rows that end leave."""
        rows = self.running[first:]
        tokens = choose(logits, [row.chooser for row in rows])
        happened = [(row, self._grown(row, token)) for row, token in zip(rows, tokens, strict=True)]
        for slot in reversed(range(first, len(self.running))):
            piece = happened[slot - first][1]
            if not isinstance(piece, Piece) or piece.finish:
                self._leave(slot)
        return happened

    def _grown(self, row: Row, token: int | None) -> Piece | SlipwayError:
        if token is None:
            return StageError(
                f"{row.ticket.job.served.name} gives no numbers for this prompt (NaN); it was not answered"
            )
        finish: Finish | None = None
        text = ""
        if token in self.network.stops:
            finish = "stop"
        else:
            row.tokens.append(token)
            text = row.text.grown(row.tokens)
            if row.text.stopped:
                finish = "stop"
            elif len(row.tokens) >= row.room:
                finish = "length"
        if finish:
            text += row.text.end()
        return Piece(text, 1, finish, row.queued_seconds)

    def _leave(self, slot: int) -> None:
        self._slots.leave(slot)
        self.running[slot] = self.running[-1]
        self.running.pop()

    # --- memory -----------------------------------------------------------------------------------------------------

    def _too_many(self, reason: str) -> list[Happened]:
        """The running rows do not fit: the newer half waits again, with what it has written, and the rest go on."""
        count = len(self.running)
        if count == 1:
            (row,) = self.running
            self._leave(0)
            return [(row, _does_not_fit(row, reason))]
        self.limit = max(1, count // 2)
        for row in reversed(self.running[self.limit :]):
            self.waiting.appendleft(row)
        kept = self.running[: self.limit]
        self.preempted += count - len(kept)
        # The slots themselves are what is too large; everybody is read again, in groups that fit.
        self.waiting.extendleft(reversed(kept))
        self.running.clear()
        self._slots.free()
        self._say(count, reason)
        return []

    def _too_much(self, group: list[Row], reason: str) -> list[Happened]:
        """These prompts do not fit beside what runs: fewer at once, or later; alone, never."""
        for slot in reversed(range(len(self.running), len(self._slots))):
            self._slots.leave(slot)
        if len(group) == 1 and not self.running:
            return [(group[0], _does_not_fit(group[0], reason))]
        self.limit = max(1, len(self.running) + len(group) // 2)
        self.preempted += len(group)
        self.waiting.extendleft(reversed(group))
        self._say(len(self.running) + len(group), reason)
        return []

    def _say(self, count: int, reason: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"serve: {count} answers at once do not fit in memory ({reason}); going on with {self.limit}", flush=True)


def _does_not_fit(row: Row, reason: str) -> StageError:
    return StageError(
        f"out of memory with this request alone ({reason}): {len(row.read)} tokens are more than the device holds; "
        f"send a shorter prompt, or serve on a larger device"
    )


def grow(batch: Batch) -> Iterator[Happened]:
    """Everything that happens until nothing is left to do."""
    while batch.busy:
        yield from batch.advance()
