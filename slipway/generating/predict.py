"""Answer many prompts offline, through the engine that serves: in shards, each written whole, so that a kill costs no row.

OUT/predict.json       what is answered, by which version and how; written first
OUT/part-00000.jsonl   the answers to a shard's rows, in their order; written when the last one is there
OUT/summary.json       written last
"""

import asyncio
import contextlib
import fcntl
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slipway import atomic, digest
from slipway.artifacts import Json
from slipway.errors import Refused, SlipwayError, Transient, UsageError
from slipway.generating import prediction_rows
from slipway.generating.jobs import Engine, Job, Sampling, Served
from slipway.generating.prediction_rows import Faults, Plan, PromptRow, Shard
from slipway.progress import Progress

SUMMARY = "summary.json"
_OURS = (Plan.FILE, SUMMARY, "part-", ".")


@dataclass(frozen=True)
class Order:
    """What somebody wants answered."""

    given: Path
    out: Path
    sampling: Sampling
    shard_rows: int = 256
    in_flight: int = 64  # rows that the engine has at once; what runs and what waits behind it


def run(engine: Engine, order: Order) -> Json:
    """Answer every row that has no answer yet; what came of all of them. Transient: run it again to go on."""
    _check_out(order)
    files, faults = prediction_rows.files_of(order.given), Faults()
    if unread := prediction_rows.unread(order.given):
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        print(f"predict: not read, since no name of theirs ends in .jsonl: {', '.join(unread[:5])}{more}", flush=True)
    shards = prediction_rows.shards_of(files, order.shard_rows, faults)
    faults.refuse()
    with _alone(order.out):
        return asyncio.run(_run(engine, order, files, shards))


async def _run(engine: Engine, order: Order, files: dict[str, Path], shards: list[Shard]) -> Json:
    await engine.start()
    try:
        served = engine.served[0]
        plan = _plan(order, served, shards)
        _go_on_only_with_the_same(order.out, plan)
        left = [number for number, shard in enumerate(shards) if not _answered(order.out, number, shard)]
        _check_lengths(engine, served, files, [shards[number] for number in left])
        plan.save(order.out / Plan.FILE)
        await _answer_shards(engine, order, files, plan, left)
    finally:
        await engine.stop()
    summary = _summed(order.out, plan)
    atomic.write_json(order.out / SUMMARY, summary)
    return summary | {"answered_now": sum(shards[number].rows for number in left)}


# --- may it begin? ----------------------------------------------------------------------------------------------------


def _check_out(order: Order) -> None:
    out = order.out.resolve()
    if order.given.is_dir() and out.is_relative_to(order.given.resolve()):
        raise UsageError(
            f"{order.out} lies within {order.given}, so its answers would be prompts; name a folder elsewhere"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"{order.out} is a file; name a folder for the answers")
    strangers = [path.name for path in out.glob("*") if not path.name.startswith(_OURS)] if out.is_dir() else []
    if strangers:
        raise UsageError(f"{order.out} has {min(strangers)}, which no prediction wrote; name a folder of its own")


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process answers into a folder; the kernel frees a dead one's place."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Transient(f"another process answers into {out}; wait for it, or name another folder") from None
        for left in out.glob(".*.partial"):  # of a writer that was killed; nobody else writes here now
            left.unlink()
        yield


def _plan(order: Order, served: Served, shards: list[Shard]) -> Plan:
    sampling = {**vars(order.sampling), "stop": list(order.sampling.stop)}
    return Plan(
        model=served.model, version=served.version, identity=served.identity, sampling=sampling,
        shard_rows=order.shard_rows, shards=shards,
    )  # fmt: skip


def _go_on_only_with_the_same(out: Path, plan: Plan) -> None:
    if not (out / Plan.FILE).exists():
        if parts := sorted(path.name for path in out.glob("part-*")):
            raise Refused(f"{out} has {parts[0]} but no {Plan.FILE}, so nobody knows what made it; name another folder")
        return
    if why := prediction_rows.difference(Plan.load(out / Plan.FILE), plan):
        raise Refused(f"{out} cannot be gone on with: {why}, or answer into another folder")


def _check_lengths(engine: Engine, served: Served, files: dict[str, Path], shards: list[Shard]) -> None:
    """Every prompt has room for an answer, and the template takes it."""
    faults = Faults()
    for shard in shards:
        for row in prediction_rows.read(files, shard):
            try:
                length = len(engine.encode(served, row.prompt))
            except UsageError as error:
                faults.add(row.source, str(error))
                continue
            if not length:
                faults.add(row.source, "no token is left of this prompt")
            if length >= served.context:
                faults.add(row.source, f"{length} tokens; {served.name} takes {served.context} with the answer")
    faults.refuse()


# --- answering --------------------------------------------------------------------------------------------------------


async def _answer_shards(engine: Engine, order: Order, files: dict[str, Path], plan: Plan, left: list[int]) -> None:
    """All rows of all shards through the engine, a shard's file as soon as its last row is there."""
    place = asyncio.Semaphore(order.in_flight)
    progress = Progress(plan.rows, "predict: row", done=(done := plan.rows - sum(plan.shards[n].rows for n in left)))
    progress.last = progress.start  # the first line comes when there is something to say

    async def answered(row: PromptRow, number: int, at: int, answers: dict[int, Json]) -> None:
        nonlocal done
        try:
            answers[at] = await _answer(engine, engine.served[0], row, _seeded(order.sampling, row))
        finally:
            place.release()
        done += 1
        progress.at(done)
        if len(answers) == plan.shards[number].rows:
            lines = (json.dumps(answers[i], ensure_ascii=False, sort_keys=True) + "\n" for i in range(len(answers)))
            await asyncio.to_thread(atomic.write_text, _part(order.out, number), "".join(lines))

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in left:
                answers: dict[int, Json] = {}
                for at, row in enumerate(prediction_rows.read(files, plan.shards[number])):
                    await place.acquire()
                    tasks.create_task(answered(row, number, at, answers))
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _answer(engine: Engine, served: Served, row: PromptRow, sampling: Sampling) -> Json:
    prompt = engine.encode(served, row.prompt)
    text, tokens, finish = "", 0, None
    try:
        async for piece in engine.generate(Job(row.source, served, prompt, sampling, math.inf)):
            text, tokens, finish = text + piece.text, tokens + piece.tokens, piece.finish
    except SlipwayError as error:
        raise type(error)(f"{row.source}: {error}") from None
    made_by = {"model": served.model, "version": served.version, "identity": served.identity}
    counted = {"prompt_tokens": len(prompt), "answer_tokens": tokens, "finish": finish}
    return {"id": row.id, "source": row.source, "answer": text, **counted, **made_by}


def _seeded(sampling: Sampling, row: PromptRow) -> Sampling:
    """Rows that are drawn do not all draw the same; a row draws the same whenever the run goes on."""
    if sampling.seed is None or not sampling.temperature:
        return sampling
    return replace(sampling, seed=int(digest.of_value([sampling.seed, row.source])[:15], 16))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong, told once: of many rows that an engine took with it, the first."""
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    return group


# --- what is there ----------------------------------------------------------------------------------------------------


def _part(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.jsonl"


def _answered(out: Path, number: int, shard: Shard) -> bool:
    """Whether a shard's file is there; it is written whole or not at all."""
    path = _part(out, number)
    if not path.is_file():
        return False
    if (lines := path.read_bytes().count(b"\n")) != shard.rows:
        raise Refused(f"{path} has {lines} rows, {shard.rows} were written; remove it, and they are answered again")
    return True


def _summed(out: Path, plan: Plan) -> Json:
    """Counted from what lies there, not from what this process remembers."""
    finishes, tokens, rows = Counter[str](), Counter[str](), 0
    for number in range(len(plan.shards)):
        for line in _part(out, number).read_bytes().splitlines():  # of bytes: in a text U+2028 would end a line, too
            row = json.loads(line)
            rows += 1
            finishes[row["finish"]] += 1
            tokens.update({"prompt": row["prompt_tokens"], "answer": row["answer_tokens"]})
    if rows != plan.rows:
        raise Refused(
            f"{out} has {rows} answers to {plan.rows} rows; remove the odd files, and they are answered again"
        )
    return {
        "model": plan.model, "version": plan.version, "identity": plan.identity, "rows": rows,
        "files": len(plan.shards), "finish": dict(sorted(finishes.items())), "tokens": dict(sorted(tokens.items())),
    }  # fmt: skip
