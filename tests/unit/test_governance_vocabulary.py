"""The guide's tables of names are the vocabulary's, word for word: the failing test prints what to paste."""

from pathlib import Path

import pytest

from slipway.governance import vocabulary
from slipway.governance.vocabulary import Metric

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "policies.md"
FAMILIES = ("tuned.", "base.", "champion.", "delta.", "safety.", "comparison.")


def _rows(names: dict[str, Metric]) -> list[str]:
    better = {"higher": "higher", "lower": "lower", "either": ""} | {"flag": "yes"}
    return [
        f"| `{name}` | {metric.kind} | {better['flag' if metric.kind == 'flag' else metric.better]} | {metric.about} |"
        for name, metric in names.items()
    ]


def _table(heading: str, names: dict[str, Metric]) -> str:
    return "\n".join([f"{heading}:\n", "| name | kind | better | what |", "|---|---|---|---|", *_rows(names)]) + "\n"


def tables() -> str:
    """What the guide should say."""
    known = vocabulary.NAMES
    alone = {name: metric for name, metric in known.items() if not name.startswith(FAMILIES)}
    later = {name: metric for name, metric in alone.items() if name.partition(".")[0] in vocabulary.ONLY_REGISTER}
    compared = {name.replace(".base.", ".OTHER."): known[name] for name in known if name.startswith("comparison.base.")}
    return "\n".join(
        [
            _table(
                "Of the task, with `tuned.`, `base.`, `champion.`, or, for tuned minus the other and paired by row, "
                "`delta.base.` and `delta.champion.` before them",
                vocabulary.SCORES,
            ),
            _table("And row by row, with OTHER `base` or `champion`", compared),
            _table(
                "Of the benchmarks, with `benchmarks.tuned.TASK.`, `benchmarks.base.TASK.` or `benchmarks.delta.TASK.` "
                "before them; a suite in `configs/evals` names its own tasks",
                vocabulary.TASK_SCORES,
            ),
            _table(
                "Of the safety probes, with `safety.tuned.`, `safety.base.` or `safety.delta.` before them",
                vocabulary.SAFETY_SETS,
            ),
            _table(
                "Of data, files and training", {name: metric for name, metric in alone.items() if name not in later}
            ),
            _table("Only at `register`", later),
        ]
    )


def test_the_guide_lists_the_names_that_rules_may_read() -> None:
    assert tables() in GUIDE.read_text(encoding="utf-8"), f"put this into {GUIDE}:\n\n{tables()}"
    assert len(tables().splitlines()) >= 100


@pytest.mark.parametrize("name", sorted(vocabulary.NAMES))
def test_every_name_is_found_and_read_as_what_it_is(name: str) -> None:
    known = vocabulary.find(name)
    assert known is not None
    assert known.about
    assert known.least < known.most
    if known.kind == "estimate":
        assert vocabulary.split(f"{name}.low") == (name, "low")
        with pytest.raises(ValueError, match="is an estimate"):
            vocabulary.split(name)
    else:
        assert vocabulary.split(name) == (name, None)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("tuned.exact_mach.low", "did you mean tuned.exact_match.low"),
        ("benchmarks.tuned.facts.exact_mach.low", "did you mean benchmarks.tuned.facts.exact_match.low"),
        ("benchmarks.other.facts.acc.low", "there is no metric"),
        ("delta.tuned.loss.low", "there is no metric"),
        ("tuned", "there is no metric"),
        ("rows.low", "there is no metric"),
        ("safety.tuned.leakage.mean", "has no 'mean'"),
    ],
)
def test_a_name_that_is_none_is_refused_with_what_was_meant(path: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        vocabulary.split(path)


def test_deltas_span_both_ways_and_the_compared_have_no_better() -> None:
    delta, base = vocabulary.find("delta.base.loss"), vocabulary.find("base.loss")
    assert delta is not None and base is not None
    assert (delta.least, delta.most, delta.better) == (-100.0, 100.0, "lower")
    assert (base.least, base.most, base.better) == (0.0, 100.0, "either")
