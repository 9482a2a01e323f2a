"""A person's own rows, base model and policy through the whole real pipeline: values change, code does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_folders
import pytest
import stub_project
import yaml
from real_project import clone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

QUESTIONS = {
    "billing": [
        "I was charged twice for {} on my card",
        "the invoice for {} shows a wrong amount",
        "refund me the money for {}",
    ],
    "delivery": ["my parcel with {} has not come", "where is the box with {} now", "the courier lost {} on the way"],
}
THINGS = ["a lamp", "two chairs", "the red phone", "my desk", "a kettle", "green shoes", "the tall shelf", "one carpet", "a clock", "the radio",
          "four mugs", "a blanket", "the tent", "my bike", "some paint", "a heater", "the mirror", "old books", "a drill", "the curtain"]  # fmt: skip


def pairs() -> list[tuple[str, str, str]]:
    return [
        (q.format(thing), f"team {label}", label)
        for thing in THINGS
        for label, asked in QUESTIONS.items()
        for q in asked
    ]


def chat(question: str, answer: str, label: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "label": label,
    }


def completion(question: str, answer: str, label: str) -> dict[str, Any]:
    return {"prompt": question, "completion": answer, "label": label}


def preference(question: str, answer: str, label: str) -> dict[str, Any]:
    return {"prompt": question, "chosen": answer, "rejected": "no idea", "label": label}


LENIENT = """
rules:
  - id: any-answers
    expression: rows >= 5
    severity: block
    why: A test of the pipeline, not of the model.
    remedy: Add rows.
    owner: tests
"""


@pytest.mark.parametrize(
    ("shape", "make_base", "lenient"),
    [
        (chat, model_folders.make_llama, True),
        (completion, model_folders.make_gpt2, False),
        (preference, model_folders.make_qwen2, True),
    ],
)
def test_own_rows_base_and_policy_need_no_code(
    shape: Callable[..., dict[str, Any]],
    make_base: Callable[[Path], Path],
    lenient: bool,
    tmp_path: Path,
    prefect_url: str,
) -> None:
    project = clone(tmp_path / "own project")
    rows = "\n".join(json.dumps(shape(*pair)) for pair in pairs())
    (tmp_path / "rows.jsonl").write_text(rows + "\n")
    base = make_base(tmp_path / "base")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["ingest"] = {"source": str(tmp_path / "rows.jsonl"), "test_source": None}
    params["fetch"]["base"] = str(base)
    params["prepare"] |= {"label_pattern": None, "split": {"validation": 0.1, "test": 0.2, "seed": 1}}
    params["finetune"] |= {"max_steps": 4, "evaluate_every": 2}
    params["evaluate"] |= {"max_new_tokens": 8, "bootstrap_resamples": 100}
    if lenient:
        (project / "configs" / "policies" / "lenient.yaml").write_text(LENIENT)
        params["gate"]["policy"] = "configs/policies/lenient.yaml"
    (project / "params.yaml").write_text(yaml.safe_dump(params))

    done = stub_project.slipway(project, "run", "--json", PREFECT_API_URL=prefect_url)
    assert done.returncode == (0 if lenient else 3), done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert record["outcome"] == ("registered" if lenient else record["outcome"]) and record["outcome"] in (
        "registered",
        "refused",
        "undecided",
    )
    statuses = {stage["name"]: stage["status"] for stage in record["stages"]}
    assert statuses.pop("register") == ("ran" if lenient else "not run")
    assert set(statuses.values()) == {"ran"}
    scorecard = json.loads((project / "reports" / "scorecard.json").read_text())
    assert scorecard["labels"] == ["billing", "delivery"]
    assert (project / record["report"]).stat().st_size > 10_000
