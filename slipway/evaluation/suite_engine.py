"""Ask a model a whole suite with lm-evaluation-harness, in process and at once; generated code goes to the sandbox.

The harness is given finished text and metrics it has itself: it renders no template of ours, loads no metric from
elsewhere and runs no generated code. Whatever it leaves out or cannot say ends in an error, never in a score.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import logging
import math
from collections.abc import Iterator
from typing import Any

from slipway.artifacts import Json
from slipway.errors import SlipwayError, StageError, Transient, UsageError
from slipway.evaluation import sandbox
from slipway.evaluation.inference import Model, computing
from slipway.evaluation.sandbox import Problem, Verdict
from slipway.evaluation.suite_files import PROBLEM, Item, Kind, Suite, Task
from slipway.evaluation.suite_results import Rows, TaskResults, TaskRows, check_finite
from slipway.progress import Progress

OUTPUT_TYPES: dict[Kind, str] = {
    "perplexity": "loglikelihood_rolling",
    "choice": "multiple_choice",
    "generate": "generate_until",
    "code": "generate_until",
}
_AGGREGATIONS = {"byte_perplexity": "weighted_perplexity", "word_perplexity": "weighted_perplexity"}
_FILTERS = [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
_TOKENS_PER_ROW = 256  # evaluate.batch_size is in rows; the harness cuts its batches by tokens

Sample = Json  # what the harness logs of one row


def score(suite: Suite, model: Model, threads: int) -> TaskResults:
    """A model's value for every row of every task."""
    if suite.chat_template and not model.tokenizer.chat_template:
        raise UsageError(
            f"the suite {suite.name} asks in a chat template, and the base has none; set chat_template: false"
        )
    with computing(threads), _quiet():
        parts = {task.spec.task: _parts(task, model) for task in suite.tasks}
        samples = _ask(suite, model, {name: one for group in parts.values() for name, one in group.items()})
    tasks: dict[str, TaskRows] = {}
    missing: dict[str, str] = {}
    for task in suite.tasks:
        name = task.spec.task
        answered = [(_expected(part), part, samples[key]) for key, part in parts[name].items()]
        values, why = _values(task, model, [sample for _, _, rows in answered for sample in rows])
        tasks[name] = TaskRows(
            kind=task.spec.kind,
            version=str(answered[0][1].VERSION),
            hash=_hash([rows for _, _, rows in answered]),
            expected=sum(expected for expected, _, _ in answered),
            values=values,
        )
        missing |= {f"{name}.{metric}": reason for metric, reason in why.items()}
    return TaskResults(
        suite_digest=suite.digest,
        identity=model.identity,
        harness=importlib.metadata.version("lm-eval"),
        template_hash=_sha256(str(model.tokenizer.chat_template)) if suite.chat_template else None,
        tasks=tasks,
        missing=missing,
    )


# --- the harness ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness talks by logger, and draws bars on stderr; our own progress lines go to stdout."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


def _ask(suite: Suite, model: Model, tasks: dict[str, Any]) -> dict[str, list[Sample]]:
    """Every task's samples, in the order of its rows, none left out."""
    from lm_eval.evaluator import evaluate

    from slipway.evaluation.harness import Harness

    limits = model.limits
    try:
        engine = Harness(model.network, model.tokenizer, limits.positions, limits.batch_size * _TOKENS_PER_ROW)
        found = evaluate(
            engine,
            {"tasks": tasks},
            bootstrap_iters=0,  # its own would start processes; see suite_results
            log_samples=True,
            apply_chat_template=suite.chat_template,
            fewshot_as_multiturn=suite.chat_template,
        )
    except SlipwayError as error:
        raise type(error)(f"{model.name} model, suite {suite.name}: {error}") from None
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise StageError(
            f"lm-evaluation-harness failed on the suite {suite.name} with the {model.name} model "
            f"({type(error).__name__}: {reason}); correct the suite, or choose another in evaluate.suite"
        ) from error
    samples = (found or {}).get("samples") or {}
    return {name: _whole(name, model, _expected(task), samples.get(name) or []) for name, task in tasks.items()}


def _whole(name: str, model: Model, expected: int, samples: list[Sample]) -> list[Sample]:
    """The samples by row, when there is exactly one of each."""
    rows = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    if [sample["doc_id"] for sample in rows] != list(range(expected)):
        raise StageError(
            f"lm-evaluation-harness scored {len(rows)} rows of {name} with the {model.name} model where {expected} "
            f"were to be scored; run evaluate again"
        )
    return rows


def _expected(task: Any) -> int:
    return len(task.eval_docs)


def _hash(parts: list[list[Sample]]) -> str:
    """The harness's task hash: of every document, prompt and target."""
    hashes = [_sha256("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in rows)) for rows in parts]
    return hashes[0] if len(hashes) == 1 else _sha256("".join(hashes))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- tasks ----------------------------------------------------------------------------------------------------------


def _parts(task: Task, model: Model) -> dict[str, Any]:
    """The harness's task objects for one of ours: one, or the many of a group on the hub."""
    found = {task.spec.task: _local(task)} if task.spec.hub is None else _from_hub(task)
    wanted = OUTPUT_TYPES[task.spec.kind]
    for part in found.values():
        if wanted != part.OUTPUT_TYPE:
            raise UsageError(
                f"{part.task_name} gives {part.OUTPUT_TYPE}: it is not of the kind {task.spec.kind}; correct it"
            )
        part.set_fewshot_seed(seed=0)
        if part.get_config("num_fewshot") is None:
            part.set_config(key="num_fewshot", value=0)
        _fit(part, model)
    return found


def _fit(part: Any, model: Model) -> None:
    """An answer may take half of a small model's positions: the rest is for the question."""
    options = part.get_config("generation_kwargs")
    if options and model.limits.positions is not None:
        room = max(1, model.limits.positions // 2)
        part.set_config("generation_kwargs", {"max_gen_toks": min(room, int(options.get("max_gen_toks", room)))}, True)


def _local(task: Task) -> Any:
    """A task of this suite's own rows."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class Local(ConfigurableTask):  # type: ignore[misc]
        def download(self, *_: Any, **__: Any) -> None:
            splits = {"test": task.items, "shots": task.shots}
            self.dataset = {name: Dataset.from_list([i.document for i in items]) for name, items in splits.items()}

    spec = task.spec
    config = {
        "task": spec.task,
        "output_type": OUTPUT_TYPES[spec.kind],
        "test_split": "test",
        "doc_to_text": "query",
        "doc_to_target": "target",
        "doc_to_choice": "choices" if spec.kind == "choice" else None,
        "description": "description" if spec.description else "",
        "target_delimiter": spec.target_delimiter,
        "fewshot_delimiter": spec.fewshot_delimiter,
        "num_fewshot": spec.num_fewshot,
        "metric_list": _harness_metrics(task),
        "generation_kwargs": spec.generation_kwargs.model_dump() | {"do_sample": False}
        if spec.generation_kwargs
        else None,
        "filter_list": _FILTERS if spec.kind == "generate" else None,
        "metadata": spec.metadata.model_dump(),
    }
    shots = {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}} if task.shots else {}
    return Local(config=config | shots)


def _harness_metrics(task: Task) -> list[Json]:
    """What the harness itself measures. mc2 and pass_at_1 are made from what it logs."""
    spec = task.spec
    if spec.kind == "code":
        return [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}]
    listed = {metric.metric: metric for metric in spec.metric_list or []}
    metrics = [name for name in spec.metrics if name != "mc2"] or ["acc"]
    found: list[Json] = []
    for name in metrics:
        how = {"aggregation": _AGGREGATIONS.get(name, name if name == "bits_per_byte" else "mean")}
        options = {
            key: True for key in ("ignore_case", "ignore_punctuation") if name in listed and getattr(listed[name], key)
        }
        found.append({"metric": name, **how, "higher_is_better": spec.kind != "perplexity", **options})
    return found


def _from_hub(task: Task) -> dict[str, Any]:
    """The harness's own task of this name, or the tasks of its group, with rows from the hub."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    spec = task.spec
    assert spec.hub is not None
    manager = _manager()
    entry = manager.task_index.get(spec.hub)
    if entry is None:
        raise UsageError(f"lm-evaluation-harness has no task {spec.hub!r}, which {spec.task} names; correct suite.yaml")
    with _reaching(spec.hub):
        if spec.kind != "code":
            _refuse_code(spec.hub, manager)
            return dict(sorted(manager.load([spec.hub])["tasks"].items()))
        # Without the task's own functions: importing them alone readies a scorer that runs answers bare.
        config = load_yaml(entry.yaml_path, resolve_func=False)
        config |= {"metric_list": _harness_metrics(task), "filter_list": None, "unsafe_code": False}
        return {spec.task: ConfigurableTask(config={k: v for k, v in config.items() if k not in ("tag", "group")})}


@functools.cache
def _manager() -> Any:
    """The harness's index of all its tasks; ten seconds to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _refuse_code(name: str, manager: Any) -> None:
    """Raise where a task, or one of a group, would run generated code by itself."""
    entry = manager.task_index.get(name)
    config = (entry.cfg or {}) if entry else {}
    if config.get("unsafe_code"):
        raise UsageError(
            f"the hub's task {name} runs generated code by itself; give it kind: code, so the sandbox does"
        )
    below = config.get("task")
    members = (
        [m if isinstance(m, str) else m.get("group") or m.get("task") for m in below] if isinstance(below, list) else []
    )
    for member in [*members, *sorted(entry.tags if entry and not config else ())]:
        if isinstance(member, str) and member != name:
            _refuse_code(member, manager)


@contextlib.contextmanager
def _reaching(name: str) -> Iterator[None]:
    """Whatever keeps the hub's rows from us, in one line."""
    import httpx2  # what huggingface_hub speaks through
    from datasets.exceptions import DatasetNotFoundError

    try:
        yield
    except SlipwayError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
        away = isinstance(error, OSError | httpx2.TransportError) and not isinstance(error, DatasetNotFoundError)
        if away:
            raise Transient(
                f"the hub gave no rows of {name} ({reason}); try again where the hub answers, "
                f"or set evaluate.suite to smoke, which needs none"
            ) from None
        raise StageError(f"the hub's task {name} cannot be used ({reason}); remove it from the suite") from error


# --- values ---------------------------------------------------------------------------------------------------------


def _values(task: Task, model: Model, samples: list[Sample]) -> tuple[dict[str, Rows], dict[str, str]]:
    """Every metric's rows, and why others are missing."""
    spec = task.spec
    if spec.kind == "code":
        if reason := sandbox.unusable():
            return {}, {"pass_at_1": reason}
        return {"pass_at_1": [(float(verdict == "passed"), 1.0) for verdict in _verdicts(task, model, samples)]}, {}
    if spec.kind == "choice":  # numpy finds a likeliest choice among NaNs too
        sums = [(sum(float(response[0]) for response in sample["filtered_resps"]), 1.0) for sample in samples]
        check_finite(model.name, spec.task, "a choice's likelihood", sums)
    names = sorted({name for sample in samples for name in sample["metrics"]})
    values = {name: [_pair(sample.get(name)) for sample in samples] for name in names}
    if task.items:
        values = {name: rows for name, rows in values.items() if name in spec.metrics}
        if "mc2" in spec.metrics:
            values["mc2"] = [(_mass(s, item), 1.0) for s, item in zip(samples, task.items, strict=True)]
    for name, rows in values.items():
        check_finite(model.name, spec.task, name, rows)
    return values, {}


def _pair(value: Any) -> tuple[float, float]:
    """A metric of one row as a numerator and a denominator; a log-likelihood becomes a loss. NaN for anything else."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return -float(value[0]), float(value[1])
    return (float(value), 1.0) if isinstance(value, bool | int | float) or hasattr(value, "item") else (math.nan, 1.0)


def _mass(sample: Sample, item: Item) -> float:
    """TruthfulQA's mc2: the share of probability on the right choices."""
    likelihoods = [float(response[0]) for response in sample["filtered_resps"]]
    weights = [math.exp(one - max(likelihoods)) for one in likelihoods]
    assert isinstance(item.target, list)
    return sum(weights[place] for place in set(item.target)) / sum(weights)


def _verdicts(task: Task, model: Model, samples: list[Sample]) -> list[Verdict]:
    """What became of each row's generated code, every different program run once."""
    progress = Progress(len(samples), f"evaluate {model.name}: program of {task.spec.task}")
    known: dict[tuple[Problem, str], Verdict] = {}
    verdicts = []
    for row, sample in enumerate(samples):
        about = task.items[row].problem if task.items else sample["doc"]
        if lacking := [name for name in PROBLEM if not isinstance(about.get(name), str)]:
            raise UsageError(
                f"{task.spec.task} has no {lacking[0]} in its rows, so it is not of kind code; correct the suite"
            )
        program = (Problem(**{name: about[name] for name in PROBLEM}), str(sample["filtered_resps"][0]))
        if program not in known:
            known[program] = sandbox.judge(*program)
        verdicts.append(known[program])
        progress.at(row + 1)
    return verdicts
