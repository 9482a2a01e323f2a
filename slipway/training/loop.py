"""Tune a base on packed documents: a short loop whose every step is a function of the seed and the step's number.

Killed and started again, it goes on from its newest checkpoint and ends in the same bytes.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from slipway.errors import StageError
from slipway.progress import Progress
from slipway.training import forward, model
from slipway.training.checkpoints import Checkpoints, Tensors
from slipway.training.determinism import reproducible
from slipway.training.packs import Batch, Order, Packs
from slipway.training.schedule import learning_rate_share

if TYPE_CHECKING:
    from slipway.params import FinetuneParams

Result = TypeVar("Result")
Report = Callable[[Mapping[str, float], int], None]
POINTS = 200  # a loss curve has about this many, however long the training


@dataclass
class State:
    """Where a training stands, beside its tensors; all of it goes into each checkpoint."""

    device: str
    micro_batch: int
    step: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    best_loss: float | None = None
    without_improvement: int = 0
    finished: bool = False


@dataclass
class Tuned:
    """What a training came to: the model with the kept weights, and its loss curve."""

    model: model.Tunable
    state: State

    @property
    def train_loss(self) -> float:
        return self.state.records[-1]["train_loss"]

    @property
    def kept_step(self) -> int:
        """The step whose weights were kept."""
        return self.state.best_step or self.state.step


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device (CUDA and MPS say so in words or by type) or the host ran out of memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


class Curve:
    """The loss curve as it grows: a point is the mean since the last one; timings go to the report, never into it."""

    def __init__(self, records: list[dict[str, float]], report: Report) -> None:
        self.records, self.report = records, report
        self.losses: list[float] = []
        self.tokens, self.since = 0, time.monotonic()

    def add(self, loss: float, tokens: int) -> None:
        self.losses.append(loss)
        self.tokens += tokens

    def record(self, step: int, rate: float, norm: float, held_out: float | None) -> None:
        point = {"train_loss": sum(self.losses) / len(self.losses), "learning_rate": rate}
        if held_out is not None:
            point["validation_loss"] = held_out
        now = time.monotonic()
        self.report(point | {"grad_norm": norm, "tokens_per_second": self.tokens / max(now - self.since, 1e-9)}, step)
        self.records.append({"step": step, **point})
        self.losses, self.tokens, self.since = [], 0, now


class Training:
    """One training: model, data, optimizer and state."""

    def __init__(self, base: Path, tokens: Path, params: "FinetuneParams", checkpoints: Path, report: Report) -> None:
        self.params, self.report = params, report
        self.packs, self.held_out = Packs(tokens / "train.safetensors"), Packs(tokens / "validation.safetensors")
        if not len(self.packs):
            raise StageError(
                f"{tokens / 'train.safetensors'} holds no document; the reasons stand in {tokens.parent / 'drops.parquet'}"
            )
        self.order = Order(len(self.packs), params.batch_size, params.epochs, params.max_steps, params.seed)
        torch.manual_seed(params.seed)  # LoRA's first weights
        self.model = model.prepare(base, params)
        self.forward = forward.probe(self.model.causal)
        self.parameters = self.model.parameters
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            params.learning_rate,
            weight_decay=params.weight_decay,
            fused=self.model.device.type == "cuda",
        )
        self.best: Tensors = {}
        self.checkpoints = Checkpoints(checkpoints)
        self.state = State(self.model.device.type, min(params.micro_batch_size, params.batch_size))
        self._resume()

    # --- the steps ---

    def run(self) -> Tuned:
        """Train to the end, or to the end of patience.

        The weights with the lowest held-out loss are kept; the last, where there are no held-out rows.
        """
        progress = Progress(self.order.steps, done=self.state.step)
        curve = Curve(self.state.records, self.report)
        while self.state.step < self.order.steps and not self.state.finished:
            rate = self.params.learning_rate * self._share()
            loss, norm, tokens = self._step(rate)
            self.state.step += 1
            curve.add(loss, tokens)
            held_out = self._evaluate_when_due()
            progress.at(self.state.step, loss=loss, **({} if held_out is None else {"held_out": held_out}))
            if self._at_mark() or self.state.step % max(1, self.order.steps // POINTS) == 0:
                curve.record(self.state.step, rate, norm, held_out)
            if self._at_mark():
                self._checkpoint()
        self._restore(self.best)
        return Tuned(self.model, self.state)

    def _share(self) -> float:
        return learning_rate_share(self.state.step, self.order.steps, self.params.warmup_share, self.params.schedule)

    def _at_mark(self) -> bool:
        """Whether this is a step after which to look at held-out loss and keep a checkpoint."""
        return self.state.step % self.params.evaluate_every == 0 or self.state.step == self.order.steps

    def _step(self, rate: float) -> tuple[float, float, int]:
        """One optimizer step: mean loss a token, gradient norm, and tokens seen."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        packs = self.order.at(self.state.step)
        loss, tokens = self._with_less_memory(lambda size: self._gradients(packs, size))
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.params.max_grad_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise StageError(
                f"step {self.state.step + 1} of {self.order.steps}: loss is {loss}, gradient norm {norm}, "
                f"so no adapter is made; lower finetune.learning_rate (now {self.params.learning_rate}) or look at the rows of that step"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm, tokens

    def _gradients(self, packs: list[int], size: int) -> tuple[float, int]:
        """Accumulate the gradient of the mean loss a token over all packs, `size` of them at a time.

        Dividing by the tokens of the whole batch gives the same gradient whatever the size.
        """
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(self.params.seed * 1_000_003 + self.state.step)  # dropout: nothing to save or restore
        batches = [self.packs.batch(packs[start : start + size]) for start in range(0, len(packs), size)]
        targets = max(sum(batch.target_count for batch in batches), 1)
        total = 0.0
        for batch in batches:
            loss = self._loss_sum(batch) / targets
            loss.backward()
            total += float(loss.detach())
        return total, sum(batch.input_ids.numel() for batch in batches)

    def _loss_sum(self, batch: Batch) -> torch.Tensor:
        with self.model.autocast():
            return self.forward.loss_sum(self.model.causal, batch.to(self.model.device))

    def _with_less_memory(self, work: Callable[[int], Result]) -> Result:
        """The work at the largest micro-batch that fits; what was half done is begun again."""
        while True:
            try:
                return work(self.state.micro_batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            self._halve(reason)  # outside the handler, where the failed pass's tensors are gone

    def _halve(self, reason: str) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        size = self.state.micro_batch
        if size == 1:
            raise StageError(
                f"step {self.state.step + 1} of {self.order.steps}: "
                f"out of memory with one packed sequence at a time ({reason}); lower prepare.max_length, tune a smaller base, or use a larger device"
            )
        self.state.micro_batch = size // 2
        print(
            f"out of memory with {size} packed sequences at once; going on with {size // 2}, the same batch a step",
            flush=True,
        )

    # --- held-out loss, patience, checkpoints ---

    def _evaluate_when_due(self) -> float | None:
        if not self._at_mark() or not len(self.held_out):
            return None
        loss: float = self._with_less_memory(self._held_out_loss)
        state = self.state
        if not math.isfinite(loss):
            raise StageError(
                f"step {state.step}: held-out loss is {loss}, so no adapter is made; "
                f"lower finetune.learning_rate (now {self.params.learning_rate})"
            )
        if state.best_loss is None or loss < state.best_loss:
            state.best_step, state.best_loss, state.without_improvement = state.step, loss, 0
            self.best = {name: p.detach().to("cpu", copy=True) for name, p in self.parameters.items()}
        else:
            state.without_improvement += 1
            state.finished = self.params.patience is not None and state.without_improvement >= self.params.patience
        return loss

    def _held_out_loss(self, size: int) -> float:
        """The mean loss a token over the whole validation split."""
        self.model.causal.eval()
        total, targets = 0.0, 0
        try:
            with torch.no_grad():
                for packs in self.held_out.in_order(size):
                    batch = self.held_out.batch(packs)
                    total += float(self._loss_sum(batch))
                    targets += batch.target_count
        finally:
            self.model.causal.train()
        return total / max(targets, 1)

    def _checkpoint(self) -> None:
        optimizer = {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        weights = {name: parameter.data for name, parameter in self.parameters.items()}
        groups = {"weights": weights, "optimizer": optimizer} | ({"best": self.best} if self.best else {})
        self.checkpoints.save(self.state.step, asdict(self.state), groups)

    def _resume(self) -> None:
        found = self.checkpoints.newest()
        if found is None:
            return
        state, tensors = found
        if state["device"] != self.state.device:
            print(f"checkpoint not used: it was made on {state['device']}, this is {self.state.device}", flush=True)
            return
        self.state = State(**state)
        self.best = tensors.get("best", {})
        self._restore(tensors["weights"])
        for place, value in tensors["optimizer"].items():
            key, _, name = place.partition("/")
            parameter = self.parameters[name]
            on = parameter.device if key != "step" or self.model.device.type == "cuda" else torch.device("cpu")
            self.optimizer.state[parameter][key] = value.clone().to(on)
        print(f"going on from the checkpoint after step {self.state.step}", flush=True)

    def _restore(self, weights: Tensors) -> None:
        for name, value in weights.items():
            self.parameters[name].data.copy_(value)


def train(base: Path, tokens: Path, params: "FinetuneParams", checkpoints: Path, report: Report) -> Tuned:
    """The base tuned on `tokens` as params say; `report` is told the live figures, none of which is in the result."""
    with reproducible(params.deterministic, params.threads):
        return Training(base, tokens, params, checkpoints, report).run()
