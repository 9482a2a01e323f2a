"""Everything that is known of one version, in the order in which people ask: does it serve, may it, is it good, what is it."""

from collections.abc import Iterator, Sequence

from slipway.artifacts import Json
from slipway.documents.text import plain
from slipway.errors import size_text
from slipway.registry import comparing
from slipway.registry.catalog import Happening, Known
from slipway.report import columns, figures, words

_STAGES = {"model_registered": "registered", "model_promoted": "promoted", "rolled_back": "rolled back to"}
_TOLD = (
    "from", "to", "verdict", "act", "version", "previous", "generation", "expires", "outcome", "rule",
)  # of an event, in this order  # fmt: skip
_SHOWN_PARAMS = 14


def lines(known: Known) -> Iterator[str]:
    """For a terminal."""
    yield from _head(known)
    parts: dict[str, Sequence[Sequence[str]]] = {
        "Metrics": _metrics(known),
        "Hardware": _hardware(known),
        "Time and cost": _cost(known),
        "Data and base": _data(known),
        "Parameters": _params(known),
        "Made by": _made(known),
        "History (UTC)": _history(known.history),
        "Approvals": [_approval(one) for one in known.approvals],
        "Files": [[file.path, size_text(file.bytes), words.short(file.sha256)] for file in known.version.files],
    }
    for heading, rows in parts.items():
        if rows:
            wide = max(map(len, rows))
            yield from ("", heading)
            whole = [[f"  {row[0]}", *row[1:], *[""] * (wide - len(row))] for row in rows]
            yield from columns.lines([], whole)


def _head(known: Known) -> Iterator[str]:
    version = known.version
    marks = f" · {', '.join(known.marks)}" if known.marks else ""
    state = "" if version.state == "present" else f", {version.state}"
    yield f"{version.name} (#{version.serial}) · {version.stage}{state}{marks}"
    if about := version.metadata.get("description"):
        yield f"  {plain(about)}"
    rows = [["  serves", _serves(known)], ["  decision", _decided(known)], ["  release", version.release]]
    if version.report:
        rows.append(["  report", version.report])
    rows += [["  identity", version.identity], ["  came from", _above(known)], ["  led to", _below(known)]]
    yield from columns.lines([], rows)
    yield from (f"  ! {path} is missing from the store (`slipway models verify`)" for path in known.problems)


def _serves(known: Known) -> str:
    if not known.served:
        return "never yet"
    last = known.served[-1]
    more = f"; {words.count(len(known.served), 'time')} in all" if len(known.served) > 1 else ""
    if last.until is None:
        return f"now, 100 % since {when(last.since)} UTC (generation {last.generation}){more}"
    return f"not now; last from {when(last.since)} to {when(last.until)} UTC{more}"


def _decided(known: Known) -> str:
    return known.decision.summary if known.decision else "its decision is not kept here"


def _above(known: Known) -> str:
    version = known.version
    parent = f"compared with {version.parent}" if version.parent else "compared with the base model"
    source = (
        version.sources[0].path + (f" and {len(version.sources) - 1} more" if len(version.sources) > 1 else "")
        if version.sources
        else "no raw data"
    )
    return f"{version.base_source}, {source}, commit {(version.commit or 'none')[:12]}; {parent}"


def _below(known: Known) -> str:
    children = (
        f"{words.count(len(known.children), 'version')} compared with it: {', '.join(known.children[:5])}"
        if known.children
        else "no version was compared with it"
    )
    return f"{words.count(len(known.served), 'deployment')}; {children}"


def when(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _metrics(known: Known) -> list[list[str]]:
    """Headline metrics, with the interval where the scorecard is still there."""
    estimates = known.scorecard.metrics.get("tuned", {}) if known.scorecard else {}
    rows = []
    for name in sorted(known.version.metrics, key=comparing.place_of):
        estimate = estimates.get(name.removeprefix("tuned."))
        measured = estimate is not None and estimate.value == known.version.metrics[name]
        between = f"({figures.interval(name, estimate.low, estimate.high)})" if estimate and measured else ""
        rows.append([figures.label(name), figures.show(name, known.version.metrics[name]), between])
    return rows


def _hardware(known: Known) -> list[list[str]]:
    found = known.version.metadata.get("hardware")
    stated = [[str(name), str(value)] for name, value in found.items()] if isinstance(found, dict) else []
    targets = known.version.metadata.get("deployment_targets")
    return stated + (
        [["deployment targets", ", ".join(map(str, targets))]] if isinstance(targets, list) and targets else []
    )


def _cost(known: Known) -> list[list[str]]:
    version = known.version
    rows = [["all stages", words.duration(sum(version.seconds.values()))]] if version.seconds else []
    rows += [[stage, words.duration(seconds)] for stage, seconds in version.seconds.items()]
    return rows + ([["cost", words.number(version.cost)]] if version.cost is not None else [])


def _data(known: Known) -> list[list[str]]:
    version = known.version
    counted = ", ".join(f"{count:,} {split}" for split, count in known.rows.counts.items()) if known.rows else ""
    rows = [["data", f"{version.data_version or 'no version stated'}", version.data_digest]]
    rows += [["rows", counted, known.rows.sha256 if known.rows else ""]] if counted else []
    rows += [[file.path, size_text(file.bytes), file.sha256] for file in version.sources]
    return [*rows, ["base", version.base_source, version.base_digest]]


def _params(known: Known) -> list[list[str]]:
    found = [[name, figures.show("", value)] for name, value in comparing.flattened(known.version.params).items()]
    trained = [row for row in found if row[0].startswith("finetune.")] or found
    hidden = len(found) - len(trained[:_SHOWN_PARAMS])
    return trained[:_SHOWN_PARAMS] + ([[f"and {hidden} more (`--json`)"]] if hidden else [])


def _made(known: Known) -> list[list[str]]:
    version, about = known.version, known.version.metadata
    rows = [[name, str(about[name])] for name in ("author", "team", "licence") if about.get(name)]
    tags = about.get("compliance_tags")
    rows += [["compliance tags", ", ".join(map(str, tags))]] if isinstance(tags, list) and tags else []
    rows += [["commit", version.commit or "not in git"], ["git tag", version.tag or "none"]]
    rows += [["MLflow version", version.mlflow_version]] if version.mlflow_version else []
    return [*rows, ["evidence", version.evidence_digest], ["policy", version.policy_digest]]


def _history(found: Sequence[Happening]) -> list[list[str]]:
    return [[when(one.at), _STAGES.get(one.kind, words.title(one.kind).lower()), _told(one), _by(one)] for one in found]


def _told(one: Happening) -> str:
    if one.kind == "stage_transition":
        return f"{one.payload.get('from')} → {one.payload.get('to')}"
    if one.kind == "stage_finished":
        return f"{one.payload.get('stage')} {one.payload.get('status')}"
    told = ", ".join(f"{name} {one.payload[name]}" for name in _TOLD if one.payload.get(name) is not None)
    return plain(told)[:60]


def _by(one: Happening) -> str:
    said = f": “{one.reason}”" if one.reason else ""
    return f"{one.who or 'erased'} ({one.via}){said}"


def _approval(one: Json) -> list[str]:
    told = (one.get("act"), one.get("answer"), one.get("by"), one.get("state"))
    until = f"until {when(str(one['expires']))}" if one.get("expires") else ""
    return [*(str(value) if value is not None else "–" for value in told), until]


def as_json(known: Known) -> Json:
    """For machines: nothing shortened."""
    intervals = known.scorecard.metrics.get("tuned", {}) if known.scorecard else {}
    return known.version.model_dump(mode="json") | {
        "marks": known.marks,
        "served": [vars(one) for one in known.served],
        "history": [vars(one) for one in known.history],
        "approvals": known.approvals,
        "decision": known.decision.summary if known.decision else None,
        "verdict": known.decision.verdict if known.decision else None,
        "intervals": {f"tuned.{name}": [one.low, one.high] for name, one in intervals.items()},
        "rows": known.rows.rows if known.rows else None,
        "children": known.children,
        "missing": known.problems,
    }
