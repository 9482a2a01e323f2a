"""Suites: strict files, the harness's own scores on real small models, and no score where something is wrong."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_folders
import numpy as np
import pytest

from slipway.artifacts import Benchmarks
from slipway.data import corpus
from slipway.errors import StageError, UsageError
from slipway.evaluation import inference, sandbox, scoring, suite_engine, suite_files, suites
from slipway.evaluation.inference import Limits, Model
from slipway.evaluation.suite_results import TaskResults, TaskRows

EVALS = Path(__file__).resolve().parents[2] / "configs" / "evals"
SMOKE = EVALS / "smoke"
WHO = {"base": "b" * 64, "tuned": "t" * 64}

TASKS = {
    "prose": "{task: prose, kind: perplexity, doc_to_target: text}",
    "letters": (
        '{task: letters, kind: choice, num_fewshot: 1, doc_to_text: "{{question}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\n'
        'Answer:", doc_to_choice: [A, B], doc_to_target: answer}'
    ),
    "endings": "{task: endings, kind: choice, doc_to_text: context, doc_to_choice: endings, doc_to_target: '{{label}}'}",
    "truth": (
        "{task: truth, kind: choice, doc_to_text: question, doc_to_choice: choices, doc_to_target: right, "
        "metric_list: [{metric: mc2}]}"
    ),
    "facts": (
        "{task: facts, kind: generate, doc_to_text: begun, doc_to_target: end, "
        "generation_kwargs: {until: ['.'], max_gen_toks: 4}}"
    ),
    "code": "{task: code, kind: code, generation_kwargs: {until: [\"\\ndef\"], max_gen_toks: 8}}",
}  # fmt: skip
ROWS: dict[str, list[dict[str, Any]]] = {
    "prose": [{"text": "the customer asked for a refund"}, {"text": "the desk sent a friendly answer on monday"}],
    "letters": [
        {"question": "who asked?", "choices": ["customer", "desk"], "answer": 0, "shot": True},
        {"question": "who sent?", "choices": ["customer", "desk"], "answer": 1},
        {"question": "about what?", "choices": ["parcel", "moon"], "answer": 0},
    ],
    "endings": [
        {"context": "the customer asked for", "endings": ["a refund", "the desk and the parcel"], "label": 0},
        {"context": "the desk sent", "endings": ["monday", "a friendly answer"], "label": 1},
    ],
    "truth": [
        {"question": "the", "choices": ["customer", "desk", "parcel"], "right": [0, 1]},
        {"question": "a", "choices": ["refund", "asked"], "right": [0]},
    ],
    "facts": [{"begun": "the customer asked for a", "end": "refund"}, {"begun": "answer on", "end": "monday"}],
    "code": [
        {"prompt": "def one():\n", "test": "def check(c):\n    assert c() == 1\n", "entry_point": "one"},
        {"prompt": "def two():\n", "test": "def check(c):\n    assert c() == 2\n", "entry_point": "two"},
    ],
}


def write(folder: Path, *names: str, tasks: str | None = None, rows: list[Any] | None = None) -> Path:
    """A suite of some of the tasks above, or of whatever is given."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = tasks if tasks is not None else "".join(f"  - {TASKS[name]}\n" for name in names or TASKS)
    (folder / "suite.yaml").write_text(f"description: for a test\ntasks:\n{listed}")
    given = rows if rows is not None else [{"task": n, **row} for n in names or TASKS for row in ROWS[n]]
    (folder / "rows.jsonl").write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in given))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    makers: dict[str, Callable[..., Path]] = {"llama": model_folders.make_llama, "qwen2": model_folders.make_qwen2}
    paths = {name: make(folder / name) for name, make in makers.items()}
    paths["gpt2"] = model_folders.make_gpt2(folder / "gpt2", n_positions=64)
    found = {}
    for name, path in paths.items():
        network = inference.load_model(path)
        limits = Limits(16, 8, inference.positions_of(network))
        found[name] = Model("base", WHO["base"], network, inference.load_tokenizer(path), limits)
    return found


def tuned(results: TaskResults) -> TaskResults:
    return results.model_copy(update={"identity": WHO["tuned"]})


# --- the shipped suites -----------------------------------------------------------------------------------------------


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", EVALS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_smoke_rows_are_what_the_generator_writes() -> None:
    made = generator()
    assert (SMOKE / "rows.jsonl").read_text(encoding="utf-8") == made.text() == made.text()


def test_smoke_has_every_kind_and_metric_and_a_few_hundred_rows() -> None:
    suite = suites.load(SMOKE)
    metrics = {metric for task in suite.tasks for metric in task.spec.metrics}
    assert metrics == {metric for known in suite_files.METRICS.values() for metric in known}
    assert {task.spec.kind for task in suite.tasks} == set(suite_files.METRICS)
    assert 300 <= sum(len(task.items) for task in suite.tasks) <= 600
    assert min(len(task.items) for task in suite.tasks) >= 20


def test_the_smoke_answers_are_true_in_the_support_desks_world() -> None:
    suite = {task.spec.task: task for task in suites.load(SMOKE).tasks}
    asked = 0
    for name in ("knowledge", "truth_mc1"):
        for item in suite[name].items:
            intent = next(x for x in corpus.INTENTS if x in item.query)
            assert isinstance(item.target, int)
            options = item.choices if name == "truth_mc1" else [x[3:] for x in item.query.splitlines()[1:5]]
            assert [corpus.TEAMS[intent] in option for option in options].index(True) == item.target
            assert sum(corpus.TEAMS[intent] in option for option in options) == 1
            asked += 1
    assert asked == 100


def test_no_smoke_row_is_text_that_the_tiny_base_was_pretrained_on() -> None:
    pretraining = corpus.documents(8)  # fetch.seed + 1
    known = {next(pretraining) for _ in range(4000)}
    texts = [item.target for item in suites.load(SMOKE).tasks[0].items]
    assert len(texts) == 40
    assert not known & set(texts)


SOLUTIONS = {
    "double": "return 2 * n", "is_even": "return n % 2 == 0", "larger": "return max(a, b)",
    "total": "return sum(numbers)", "backwards": "return text[::-1]", "last": "return items[-1]",
    "vowels": "return sum(c in 'aeiou' for c in text.lower())", "words": "return len(text.split())",
    "squares": "return [i * i for i in range(n)]", "unique": "return list(dict.fromkeys(items))",
    "initials": "return ''.join(word[0] for word in name.split())", "mean": "return sum(numbers) / len(numbers)",
    "factorial": "import math; return math.factorial(n)", "smallest_two": "return tuple(sorted(numbers)[:2])",
    "count": "import collections; return collections.Counter(items)", "clip": "return min(max(n, low), high)",
    "evens": "return [n for n in numbers if n % 2 == 0]", "is_palindrome": "return text == text[::-1]",
    "digits": "return sum(map(int, str(n)))", "swap": "return pair[1], pair[0]",
}  # fmt: skip


@pytest.mark.skipif(sandbox.unusable() is not None, reason=f"no sandbox: {sandbox.unusable()}")
def test_every_smoke_program_can_be_written_and_none_passes_empty() -> None:
    items = next(task for task in suites.load(SMOKE).tasks if task.spec.task == "code").items
    problems = {item.problem["entry_point"]: sandbox.Problem(**item.problem) for item in items}
    assert problems.keys() == SOLUTIONS.keys()
    for name, problem in problems.items():
        assert sandbox.judge(problem, f"    {SOLUTIONS[name]}\n") == "passed", name
        assert sandbox.judge(problem, "    return None\n") == "failed", name


def test_full_names_the_hubs_tasks() -> None:
    full = suites.load(EVALS / "full")
    kinds = {task.spec.hub: task.spec.kind for task in full.tasks}
    assert kinds == {
        "mmlu": "choice", "hellaswag": "choice", "truthfulqa_mc1": "choice", "truthfulqa_mc2": "choice",
        "humaneval": "code", "wikitext": "perplexity",
    }  # fmt: skip


# --- files ------------------------------------------------------------------------------------------------------------

ENDINGS = {"task": "endings", **ROWS["endings"][0]}
BAD_SUITES = {
    "  - {task: a, kind: choice}": "suite.yaml:3: task a: a choice task needs doc_to_choice",
    "  - {task: a, kind: magic}": "suite.yaml:3: tasks.0.kind: Input should be",
    "  - {task: Not-a-name, kind: code}": "suite.yaml:3: tasks.0.task: String should match",
    "  - {task: a, kind: perplexity}": "doc_to_target is missing",
    "  - {task: a, kind: code}": "generation_kwargs is missing",
    "  - {task: a, kind: code, process_results: f}": "suite.yaml:3: tasks.0.process_results: Extra inputs",
    "  - {task: a, kind: code, process_results: !function utils.f}": "suite.yaml:3: the tag !function is not allowed",
    "  - {task: a, kind: code, dataset_path: x/y}": "tasks.0.dataset_path: Extra inputs",
    "  - {task: a, kind: code, unsafe_code: true}": "tasks.0.unsafe_code: Extra inputs",
    "  - {task: a, kind: perplexity, doc_to_target: t, metric_list: [{metric: code_eval}]}": "not code_eval",
    "  - {task: a, kind: perplexity, doc_to_target: t, metric_list: [{metric: bits_per_byte, hf_evaluate: true}]}":
        "hf_evaluate: Extra inputs",
    "  - {task: a, kind: perplexity, doc_to_target: t, num_fewshot: 2}": "num_fewshot is for choice and generate",
    "  - {task: a, kind: generate, doc_to_target: t, generation_kwargs: {until: [x], max_gen_toks: 4, do_sample: true}}":
        "do_sample: Extra inputs",
    "  - {task: a, kind: choice, hub: mmlu, doc_to_text: x}": "it comes from the hub as it is, so doc_to_text",
    "  - {task: a, kind: code, hub: x}\n  - {task: a, kind: code, hub: x}": "suite.yaml:4: task a: its name stands twice",
    "  - {task: a, kind: perplexity, doc_to_target: t}": "rows.jsonl:1: the row's task is 'endings'; suite.yaml has a",
    "  []": "tasks: List should have at least 1 item",
}  # fmt: skip


@pytest.mark.parametrize("tasks", BAD_SUITES)
def test_a_bad_suite_is_an_error_with_its_line(tasks: str, tmp_path: Path) -> None:
    folder = write(tmp_path, tasks=tasks + "\n", rows=[ENDINGS])
    with pytest.raises(UsageError) as caught:
        suites.load(folder)
    assert BAD_SUITES[tasks] in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_ROWS: dict[str, Any] = {
    "rows.jsonl:2: not a JSON row": "{torn",
    "rows.jsonl:2: not a JSON row: NaN": '{"task": "endings", "label": NaN}',
    "the key 'label' stands twice": '{"task": "endings", "label": 0, "label": 1}',
    "rows.jsonl:2: the row's task is 'other'": {"task": "other"},
    "rows.jsonl:2: the row's task is None": [1],
    "rows.jsonl:2: the row's task is ['endings']": {"task": ["endings"]},
    "rows.jsonl:2: task endings: no column 'context'": {"task": "endings", "endings": ["a", "b"], "label": 0},
    "doc_to_choice gives ['a'], not two texts": {**ENDINGS, "endings": ["a"]},
    "a choice is ' ', not a text with something": {**ENDINGS, "endings": ["a", " "]},
    "doc_to_target gives 2, not the place of one of 2 choices": {**ENDINGS, "label": 2},
    "doc_to_target gives -1, not the place": {**ENDINGS, "label": -1},
    "doc_to_text gives a int, not text": {**ENDINGS, "context": 5},
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_a_bad_row_is_an_error_with_its_line(message: str, tmp_path: Path) -> None:
    folder = write(tmp_path, "endings", rows=[ENDINGS, BAD_ROWS[message]])
    with pytest.raises(UsageError) as caught:
        suites.load(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_that_would_measure_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no row of the task prose, so it would measure nothing"):
        suites.load(write(tmp_path / "a", "prose", "endings", rows=[ENDINGS]))
    with pytest.raises(UsageError, match="has no row but solved examples"):
        suites.load(write(tmp_path / "b", "endings", rows=[{**ENDINGS, "shot": True}]))
    with pytest.raises(UsageError, match='num_fewshot of letters is 1, its rows with "shot": true are 0'):
        suites.load(write(tmp_path / "c", "letters", rows=[{"task": "letters", **ROWS["letters"][1]}]))
    with pytest.raises(UsageError, match=r"suite\.yaml does not exist"):
        suites.load(tmp_path / "nowhere")
    (tmp_path / "c" / "rows.jsonl").unlink()
    with pytest.raises(UsageError, match="does not exist, and letters have their rows there"):
        suites.load(tmp_path / "c")
    with pytest.raises(UsageError, match="mc2 needs a list of places, and a choice that is wrong"):
        suites.load(write(tmp_path / "d", "truth", rows=[{"task": "truth", **ROWS["truth"][0], "right": [0, 1, 2]}]))


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch planted').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch planted') }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ lipsum.__globals__['os'].system('touch planted') }}",
    "{{ endings.append('x') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
)


@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_choice", "doc_to_target", "description"])
@pytest.mark.parametrize("template", ESCAPES)
def test_case_E11_a_template_reaches_no_code(
    template: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"doc_to_text": "context", "doc_to_choice": "endings", "doc_to_target": "label", key: template}
    folder = write(
        tmp_path / "s", tasks=f"  - {json.dumps({'task': 'endings', 'kind': 'choice', **given})}\n", rows=[ENDINGS]
    )
    with pytest.raises(UsageError, match=r"rows\.jsonl:1: task endings"):
        suites.load(folder)
    assert not (tmp_path / "planted").exists()


def test_case_E11_a_row_is_text_and_never_a_template(tmp_path: Path, models: dict[str, Model]) -> None:
    text = "{{ 7 * 7 }} {% raw %} {{ ''.__class__ }}"
    rows = [{"task": "endings", "context": text, "endings": [text, "__import__('os')"], "label": 0}] * 2
    suite = suites.load(write(tmp_path, "endings", rows=rows))
    assert suite.tasks[0].items[0].query == suite.tasks[0].items[0].choices[0] == text
    (part,) = suite_engine._parts(suite.tasks[0], models["llama"]).values()
    part.build_all_requests(limit=None)
    assert [request.args for request in part.instances[:2]] == [(text, " " + text), (text, " __import__('os')")]


# --- scores -----------------------------------------------------------------------------------------------------------


def stock(task: dict[str, Any], rows: list[dict[str, Any]], model: Model) -> dict[str, Any]:
    """What lm-eval itself makes of a task, with its own model class and its own templates."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    class Plain(ConfigurableTask):  # type: ignore[misc]
        def download(self, *_: Any, **__: Any) -> None:
            self.dataset = {
                "test": Dataset.from_list([row for row in rows if not row.get("shot")]),
                "shots": Dataset.from_list([row for row in rows if row.get("shot")]),
            }

    part = Plain(config={"test_split": "test", **task})
    part.set_fewshot_seed(1)
    engine = HFLM(pretrained=model.network, tokenizer=model.tokenizer, max_length=model.limits.positions, batch_size=1)
    with suite_engine._quiet(), inference.computing(1):
        found = evaluate(
            engine, {"tasks": {task["task"]: part}}, bootstrap_iters=10 if "choice" in task["output_type"] else 0
        )
    assert found is not None
    return dict(found["results"][task["task"]]) | {"samples": found["samples"][task["task"]]}


PLAIN: dict[str, dict[str, Any]] = {
    "prose": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"},
    "letters": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nAnswer:",
        "doc_to_choice": ["A", "B"], "doc_to_target": "answer",
        "num_fewshot": 1, "fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"},
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "endings": {
        "output_type": "multiple_choice", "doc_to_text": "context", "doc_to_choice": "endings",
        "doc_to_target": "{{label}}", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "facts": {
        "output_type": "generate_until", "doc_to_text": "begun", "doc_to_target": "end",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_scores_and_prompts_are_lm_evals_own(
    name: str, tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["llama"]
    suite = suites.load(write(tmp_path, name))
    results = suites.score(suite, model, 1)
    found = suites.compare(suite, {"base": results, "tuned": tuned(results)}, WHO).scores["base"][name]
    theirs = stock({"task": name, **PLAIN[name]}, ROWS[name], model)
    checked = 0
    for metric, estimate in found.metrics.items():
        assert estimate.value == pytest.approx(theirs[f"{metric},none"], rel=1e-5, abs=1e-6)
        if found.kind == "choice":
            assert found.standard_errors[metric] == pytest.approx(theirs[f"{metric}_stderr,none"], abs=1e-6)
        checked += 1
    assert checked == len(suite.tasks[0].spec.metrics)
    captured: list[Any] = []
    tampered(monkeypatch, each_sample(captured.append))
    suites.score(suite, model, 1)
    assert [s["arguments"] for s in captured] == [s["arguments"] for s in theirs["samples"]]


def test_mc2_is_truthfulqas_own(tmp_path: Path, models: dict[str, Model]) -> None:
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    likelihoods = [(-3.2, False), (-1.1, True), (-7.5, False)]
    theirs = process_results_mc2({"mc2_targets": {"labels": [1, 0, 1]}}, likelihoods)["acc"]
    item = suite_files.Item(1, "q", [0, 2], ["a", "b", "c"], "", {})
    assert suite_engine._mass({"filtered_resps": likelihoods}, item) == pytest.approx(theirs)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_every_kind_is_scored_on_every_family(name: str, tmp_path: Path, models: dict[str, Model]) -> None:
    suite = suites.load(write(tmp_path))
    results = suites.score(suite, models[name], 1)
    benchmarks = suites.compare(suite, {"base": results, "tuned": tuned(results)}, WHO)
    assert benchmarks.items == benchmarks.expected_items == dict.fromkeys(TASKS, 2)
    deltas = [delta for task in benchmarks.deltas.values() for delta in task.values()]
    assert len(deltas) == 10 - len(benchmarks.missing)
    assert all(delta.value == 0 for delta in deltas)
    assert results == suites.score(suite, models[name], 1)


def test_rows_longer_than_the_model_are_cut_on_the_left_as_lm_eval_does(models: dict[str, Model]) -> None:
    """The shipped suite on a base of 64 positions: every row has its value."""
    suite = suites.load(SMOKE)
    small = replace(
        suite, tasks=[replace(task, items=task.items[:6]) for task in suite.tasks if task.spec.kind != "code"]
    )
    results = suites.score(small, models["gpt2"], 1)
    assert {name: task.scored for name, task in results.tasks.items()} == {t.spec.task: 6 for t in small.tasks}


def test_a_chat_template_is_used_and_kept_where_the_suite_asks_for_it(tmp_path: Path, models: dict[str, Model]) -> None:
    folder = write(tmp_path, "endings")
    (folder / "suite.yaml").write_text("chat_template: true\n" + (folder / "suite.yaml").read_text())
    suite = suites.load(folder)
    asked = suites.score(suite, models["llama"], 1)
    assert asked.template_hash is not None
    plain = suites.score(suites.load(write(tmp_path / "plain", "endings")), models["llama"], 1)
    assert (plain.template_hash, plain.hashes == asked.hashes) == (None, False)
    with pytest.raises(UsageError, match="the base has none"):
        suites.score(suite, models["gpt2"], 1)


def test_white_space_around_an_answer_does_not_count(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.evaluation.harness import Harness

    monkeypatch.setattr(Harness, "generate_until", lambda *_, **__: [" refund\n", " a monday"])
    results = suites.score(suites.load(write(tmp_path, "facts")), models["llama"], 1)
    assert results.tasks["facts"].values == {"exact_match": [(1.0, 1.0), (0.0, 1.0)]}


# --- generated code -----------------------------------------------------------------------------------------------------


def test_without_a_sandbox_code_is_missing_and_never_run(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "unusable", lambda: "bubblewrap (bwrap) is not installed")
    monkeypatch.setattr(sandbox, "judge", lambda *_: pytest.fail("generated code was run"))
    suite = suites.load(write(tmp_path, "prose", "code"))
    results = suites.score(suite, models["llama"], 1)
    benchmarks = suites.compare(suite, {"base": results, "tuned": tuned(results)}, WHO)
    assert benchmarks.missing == {"code.pass_at_1": "bubblewrap (bwrap) is not installed"}
    assert benchmarks.scores["tuned"]["code"].metrics == {} == benchmarks.deltas["code"]
    assert benchmarks.items["code"] == 0
    asked = suites.question(suite, 16, 1).facts
    monkeypatch.setattr(sandbox, "unusable", lambda: None)
    assert suites.question(suite, 16, 1).facts != asked  # what was missing is not remembered for ever


def hub(monkeypatch: pytest.MonkeyPatch, name: str, rows: list[dict[str, Any]]) -> None:
    """The harness's own task of this name, on rows that need no hub."""
    import datasets
    import lm_eval.tasks

    splits = ("train", "validation", "test")
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=Path(lm_eval.tasks.__file__).parent / name)
    monkeypatch.setattr(suite_engine, "_manager", lambda: manager)
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: dict.fromkeys(splits, datasets.Dataset.from_list(rows)))


@pytest.mark.skipif(sandbox.unusable() is not None, reason=f"no sandbox: {sandbox.unusable()}")
def test_the_hubs_humaneval_runs_in_the_sandbox_and_never_in_the_harness(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"task_id": "0", "canonical_solution": "", **row} for row in ROWS["code"]]
    hub(monkeypatch, "humaneval", rows)
    suite = suites.load(write(tmp_path, tasks="  - {task: humaneval, kind: code, hub: humaneval}\n", rows=[]))
    results = suites.score(suite, models["llama"], 1)
    assert results.tasks["humaneval"].values == {"pass_at_1": [(0.0, 1.0), (0.0, 1.0)]}
    assert results.tasks["humaneval"].version == "1.0"
    from slipway.evaluation.harness import Harness

    monkeypatch.setattr(Harness, "generate_until", lambda self, requests, **_: ["    return 1\n" for _ in requests])
    results = suites.score(suite, models["llama"], 1)
    assert results.tasks["humaneval"].values == {"pass_at_1": [(1.0, 1.0), (0.0, 1.0)]}
    assert "lm_eval.tasks.humaneval.utils" not in sys.modules  # which loads the scorer that runs code bare
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    wrong = suites.load(write(tmp_path / "w", tasks="  - {task: humaneval, kind: generate, hub: humaneval}\n", rows=[]))
    with pytest.raises(UsageError, match="runs generated code by itself; give it kind: code"):
        suites.score(wrong, models["llama"], 1)


def test_the_hubs_choices_are_scored_with_the_harnesss_own_functions(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "activity_label": "Desk",
        "ctx_a": "The desk",
        "ctx_b": "it sent",
        "endings": ["a refund", "b", "c", "d"],
        "label": "0",
    }
    hub(monkeypatch, "hellaswag", [row, {**row, "label": "1"}])
    suite = suites.load(write(tmp_path, tasks="  - {task: swag, kind: choice, hub: hellaswag}\n", rows=[]))
    results = suites.score(suite, models["llama"], 1)
    assert sorted(results.tasks["swag"].values) == ["acc", "acc_norm"]
    assert (results.tasks["swag"].expected, results.tasks["swag"].scored) == (2, 2)
    wrong = suites.load(write(tmp_path / "w", tasks="  - {task: swag, kind: perplexity, hub: hellaswag}\n", rows=[]))
    with pytest.raises(UsageError, match="it is not of the kind perplexity"):
        suites.score(wrong, models["llama"], 1)
    nameless = suites.load(write(tmp_path / "n", tasks="  - {task: swag, kind: choice, hub: no_such}\n", rows=[]))
    with pytest.raises(UsageError, match="has no task 'no_such'"):
        suites.score(nameless, models["llama"], 1)


# --- closed when something is wrong -----------------------------------------------------------------------------------------


def tampered(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """lm-eval's evaluate, with its results changed on their way to us."""
    import lm_eval.evaluator

    original = lm_eval.evaluator.evaluate
    monkeypatch.setattr(lm_eval.evaluator, "evaluate", lambda *args, **more: change(original(*args, **more)))


def raising(error: Exception) -> Callable[[Any], Any]:
    def fail(_: Any) -> Any:
        raise error

    return fail


def each_sample(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
    def changed(found: Any) -> Any:
        for samples in found["samples"].values():
            for sample in samples:
                change(sample)
        return found

    return changed


def without_last(found: Any) -> Any:
    found["samples"] = {name: samples[:-1] for name, samples in found["samples"].items()}
    return found


def twice_the_first(found: Any) -> Any:
    found["samples"] = {name: [samples[0], samples[0]] for name, samples in found["samples"].items()}
    return found


GARBAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "it raises": (
        raising(RuntimeError("engine gone\nwith a trace")),
        r"RuntimeError: engine gone\); correct the suite",
    ),
    "nothing": (lambda _: None, "scored 0 rows of endings with the base model where 2 were to be scored"),
    "no samples": (lambda found: found | {"samples": {}}, "scored 0 rows of endings"),
    "fewer rows": (without_last, "scored 1 rows of endings with the base model where 2"),
    "a row twice": (twice_the_first, "scored 2 rows of endings"),
    "not a number": (each_sample(lambda s: s.update(acc=math.nan)), "acc of the base model is not a number in row 0"),
    "a text": (each_sample(lambda s: s.update(acc="0.9")), "acc of the base model is not a number in row 0"),
    "no value": (each_sample(lambda s: s.pop("acc")), "acc of the base model is not a number in row 0"),
    "infinite": (
        each_sample(lambda s: s.update(filtered_resps=[(-math.inf, False), (-1.0, True)])),
        "a choice's likelihood of the base model is not a number in row 0 of endings",
    ),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_case_E8_a_harness_that_fails_or_talks_nonsense_gives_no_score(
    what: str, tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = GARBAGE[what]
    suite = suites.load(write(tmp_path, "endings"))
    tampered(monkeypatch, change)
    with pytest.raises(StageError, match=message) as caught:
        suites.score(suite, models["llama"], 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["endings", "prose", "truth"])
def test_case_E8_a_broken_model_gives_no_score(name: str, tmp_path: Path, models: dict[str, Model]) -> None:
    import copy

    network = copy.deepcopy(models["llama"].network)
    network.get_input_embeddings().weight.data.fill_(math.nan)
    suite = suites.load(write(tmp_path, name))
    with pytest.raises(StageError, match=r"^base model, suite .* its weights are broken") as caught:
        suites.score(suite, replace(models["llama"], network=network), 1)
    assert "\n" not in str(caught.value)


def test_case_E8_without_a_hub_it_is_a_hiccup_in_one_line_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """In a process of its own: an empty home, an empty folder, the hub switched off; a local suite still runs."""
    program = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import model_folders
from slipway.errors import SlipwayError
from slipway.evaluation import inference, suite_engine, suites
from slipway.evaluation.inference import Limits, Model
base = model_folders.make_llama(Path({str(tmp_path / "base")!r}))
model = Model("base", "b", inference.load_model(base), inference.load_tokenizer(base), Limits(8, 8, 512))
print(suites.score(suites.load(Path({str(write(tmp_path / "own", "prose", "endings"))!r})), model, 1).tasks.keys())
import lm_eval.tasks
only = Path(lm_eval.tasks.__file__).parent / "hellaswag"
manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=only)
suite_engine._manager = lambda: manager
try:
    suites.score(suites.load(Path({str(write(tmp_path / "hub", tasks="  - {task: h, kind: choice, hub: hellaswag}", rows=[]))!r})), model, 1)
except SlipwayError as error:
    print(type(error).__name__, error.exit_code, error)
"""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, cwd=here, timeout=120, check=True,
        env=kept | {"HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(EVALS.parents[1])},
    )  # fmt: skip
    lines = found.stdout.splitlines()
    assert "dict_keys(['prose', 'endings'])" in lines
    assert lines[-1].startswith("Transient 75 the hub gave no rows of hellaswag (")
    assert "set evaluate.suite to smoke, which needs none" in lines[-1]
    assert found.stderr == ""
    assert [path for folder in (home, here) for path in folder.rglob("*") if path.is_file()] == []


# --- comparison ---------------------------------------------------------------------------------------------------------


def results_of(suite: suites.Suite, model: str, **values: list[tuple[float, float]]) -> TaskResults:
    tasks = {
        task.spec.task: TaskRows(
            kind=task.spec.kind, version="1", hash="h", expected=len(task.items),
            values={m: values[m] for m in task.spec.metrics},
        )
        for task in suite.tasks
    }  # fmt: skip
    return TaskResults(
        suite_digest=suite.digest, identity=WHO[model], harness="0", template_hash=None, tasks=tasks, missing={}
    )


def compared(suite: suites.Suite, base: Any, other: Any) -> Benchmarks:
    return suites.compare(
        suite, {"base": results_of(suite, "base", **base), "tuned": results_of(suite, "tuned", **other)}, WHO
    )


@pytest.fixture
def forty(tmp_path: Path) -> suites.Suite:
    """Forty rows of one choice task, with a rate and a share."""
    task = TASKS["truth"].replace("[{metric: mc2}]", "[{metric: acc}, {metric: mc2}]")
    return suites.load(write(tmp_path, tasks=f"  - {task}\n", rows=[{"task": "truth", **ROWS["truth"][0]}] * 40))


def ones(count: int) -> list[tuple[float, float]]:
    return [(float(i < count), 1.0) for i in range(40)]


def test_rates_have_wilsons_interval_and_tangos_difference(forty: suites.Suite) -> None:
    shares = [(i / 40, 1.0) for i in range(40)]
    found = compared(forty, {"acc": ones(30), "mc2": shares}, {"acc": ones(24), "mc2": shares})
    acc = found.scores["tuned"]["truth"].metrics["acc"]
    assert (acc.value, acc.rows) == (0.6, 40)
    assert (acc.low, acc.high) == pytest.approx(scoring.wilson(24, 40), abs=1e-6)
    delta = found.deltas["truth"]["acc"]
    assert delta.value == -0.15
    assert (delta.low, delta.high) == pytest.approx(scoring.tango(0, 6, 40), abs=1e-6)
    assert found.scores["base"]["truth"].standard_errors["acc"] == pytest.approx(math.sqrt(0.75 * 0.25 / 39), abs=1e-6)


def test_shares_have_students_interval_paired_by_row(forty: suites.Suite) -> None:
    random = np.random.default_rng(3)
    one, noise = random.random(40), random.random(40) / 10
    base, other = [(float(x), 1.0) for x in one], [(float(x - y), 1.0) for x, y in zip(one, noise, strict=True)]
    found = compared(forty, {"acc": ones(9), "mc2": base}, {"acc": ones(9), "mc2": other})
    delta = found.deltas["truth"]["mc2"]
    reach = 2.0227 * noise.std(ddof=1) / math.sqrt(40)  # Student's t at 39 degrees of freedom
    assert delta.value == pytest.approx(-noise.mean(), abs=2e-6)
    assert (delta.low, delta.high) == pytest.approx((-noise.mean() - reach, -noise.mean() + reach), abs=5e-6)


def test_perplexity_is_weighted_and_its_interval_is_the_bootstraps(tmp_path: Path) -> None:
    suite = suites.load(write(tmp_path, "prose", rows=[{"task": "prose", "text": "the desk"}] * 60))
    random = np.random.default_rng(4)
    size = random.integers(50, 300, 60).astype(float)
    loss, less = size * random.normal(1.0, 0.1, 60), size * random.normal(0.9, 0.1, 60)
    base, other = ([(float(x), float(n)) for x, n in zip(xs, size, strict=True)] for xs in (loss, less))
    names = suite_files.METRICS["perplexity"]
    found = compared(suite, dict.fromkeys(names, base), dict.fromkeys(names, other))
    metric = found.scores["base"]["prose"].metrics["byte_perplexity"]
    assert metric.value == pytest.approx(math.exp(loss.sum() / size.sum()), abs=1e-6)
    bits = found.scores["base"]["prose"].metrics["bits_per_byte"].value
    assert 2**bits == pytest.approx(metric.value, rel=1e-5)
    drawn = random.integers(0, 60, (4000, 60))
    ones_, others = (np.exp(xs[drawn].sum(axis=1) / size[drawn].sum(axis=1)) for xs in (loss, less))
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(ones_, (0.025, 0.975))), abs=0.02)
    delta = found.deltas["prose"]["byte_perplexity"]
    assert (delta.low, delta.high) == pytest.approx(tuple(np.quantile(others - ones_, (0.025, 0.975))), abs=0.02)
    assert found.scores["base"]["prose"].standard_errors["byte_perplexity"] == pytest.approx(ones_.std(), rel=0.15)


def test_case_E6_one_row_of_a_score_tells_no_spread(tmp_path: Path) -> None:
    suite = suites.load(write(tmp_path, "prose", rows=[{"task": "prose", "text": "the desk"}]))
    values = {name: [(3.0, 8.0)] for name in suite_files.METRICS["perplexity"]}
    found = compared(suite, values, values)
    assert found.missing == {f"prose.{name}": "one row tells no spread; add rows" for name in sorted(values)}
    assert found.scores["tuned"]["prose"].metrics == {} == found.deltas["prose"]


def changed(results: TaskResults, **task: Any) -> TaskResults:
    return results.model_copy(update={"tasks": {"truth": results.tasks["truth"].model_copy(update=task)}})


GOOD = {"acc": ones(30), "mc2": ones(20)}
DISAGREEMENTS: dict[str, tuple[Callable[[TaskResults], TaskResults], str]] = {
    "another suite": (lambda r: r.model_copy(update={"suite_digest": "x"}), "of another suite or model"),
    "another model": (lambda r: r.model_copy(update={"identity": "x"}), "of another suite or model"),
    "another version of the harness": (lambda r: r.model_copy(update={"harness": "9"}), "not asked the same"),
    "another chat template": (lambda r: r.model_copy(update={"template_hash": "x"}), "not asked the same"),
    "other prompts": (lambda r: changed(r, hash="x"), "not asked the same"),
    "a task less": (lambda r: r.model_copy(update={"tasks": {}}), "not scored on every task"),
    "fewer rows": (lambda r: changed(r, values=GOOD | {"acc": ones(30)[:39]}), "acc on truth has 39 rows .* where 40"),
    "no rows": (lambda r: changed(r, values=GOOD | {"acc": []}), "acc on truth has 0 rows"),
    "fewer expected": (lambda r: changed(r, expected=3, values={"acc": ones(3)[:3], "mc2": ones(3)[:3]}), "3 rows .* where 40"),
    "no metric": (lambda r: changed(r, values={"acc": ones(30)}), "has no mc2 on truth, and nothing says why"),
    "NaN": (lambda r: changed(r, values=GOOD | {"acc": [(math.nan, 1.0)] * 40}), "acc of the tuned model is not a number"),
    "infinity": (lambda r: changed(r, values=GOOD | {"mc2": [(math.inf, 1.0)] * 40}), "mc2 of the tuned model is not"),
    "a row of no weight": (lambda r: changed(r, values=GOOD | {"mc2": [(1.0, 0.0)] * 40}), "mc2 of the tuned model is not"),
}  # fmt: skip


@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_case_E5_results_that_do_not_fit_are_compared_with_nothing(what: str, forty: suites.Suite) -> None:
    change, message = DISAGREEMENTS[what]
    base, other = results_of(forty, "base", **GOOD), results_of(forty, "tuned", **GOOD)
    assert suites.compare(forty, {"base": base, "tuned": other}, WHO).items == {"truth": 40}
    with pytest.raises(StageError, match=message):
        suites.compare(forty, {"base": base, "tuned": change(other)}, WHO)


def test_a_perplexity_beyond_any_number_is_an_error(tmp_path: Path) -> None:
    suite = suites.load(write(tmp_path, "prose"))
    values = {name: [(1e6, 1.0), (2e6, 1.0)] for name in suite_files.METRICS["perplexity"]}
    with pytest.raises(StageError, match="of the base model on prose is beyond any number"):
        compared(suite, values, values)


def test_results_survive_plain_json_to_the_last_bit(forty: suites.Suite) -> None:
    both = {model: results_of(forty, model, acc=ones(7), mc2=[(1 / (i + 3), 1.0) for i in range(40)]) for model in WHO}
    kept = {
        model: TaskResults.of_json(json.loads(json.dumps(found.model_dump(mode="json"))))
        for model, found in both.items()
    }
    assert kept == both
    assert suites.compare(forty, kept, WHO) == suites.compare(forty, both, WHO)
    with pytest.raises(StageError, match="kept benchmark scores are damaged"):
        TaskResults.of_json({"tasks": {}})
