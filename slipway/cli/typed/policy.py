"""Policies and what is asked with them: sound, what they would have done, known vulnerabilities."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from slipway.cli.typed.root import Json, app

_policy = App(name="policy", help="Is a policy sound, what would it have decided, and can this data decide at all?")
app.command(_policy)


@_policy.command
def check(file: Path | None = None, *, receipt: Path | None = None, json: Json = False) -> int:
    """Everything that is wrong with a policy, line by line; or whether a decision's evidence still leads to it.

    Parameters
    ----------
    file
        The policy; the project's own when none is named.
    receipt
        A decision.json to judge again, offline, from the evidence in this workspace.
    """
    from slipway.cli import policy

    return policy.check(file, receipt, json)


@_policy.command
def power(
    *,
    rows: int | None = None,
    margin: float | None = None,
    discordance: float | None = None,
    rate: float | None = None,
    json: Json = False,
) -> int:
    """How many test rows a margin or a rate needs before it can be decided.

    Parameters
    ----------
    rows
        The rows there are; the last scorecard's when not given.
    margin
        How much worse than the champion is still allowed.
    discordance
        The share of rows that only one of two models has right; the last scorecard's when not given.
    rate
        The rate that has to be reached.
    """
    from slipway.cli import policy_trials

    return policy_trials.power(rows, margin, discordance, rate, json)


@_policy.command
def aa(*, trials: int = 1000, json: Json = False) -> int:
    """How often the gate contradicts itself on two equally good models.

    Parameters
    ----------
    trials
        How often to judge.
    """
    from slipway.cli import policy_trials

    return policy_trials.aa(trials, json)


@_policy.command
def backtest(file: Path | None = None, *, json: Json = False) -> int:
    """What a policy would have decided on every past release, beside what was decided.

    Parameters
    ----------
    file
        The policy; the project's own when none is named.
    """
    from slipway.cli import policy_trials

    return policy_trials.backtest(file, json)


_advisories = App(name="advisories", help="Known vulnerabilities of the installed packages.")
app.command(_advisories)


@_advisories.command(name="check")
def advisories_check(*, json: Json = False) -> int:
    """Ask PyPI, then OSV, then the snapshot about every installed package. 3 when one is vulnerable."""
    from slipway.cli import advisories

    return advisories.check(json)


@_advisories.command(name="fetch")
def advisories_fetch(*, source: Annotated[str | None, Parameter(name="--from")] = None, json: Json = False) -> int:
    """Bring OSV's advisories about Python packages here, for when no service can be reached.

    Parameters
    ----------
    source
        Where the snapshot is; OSV's own when not given.
    """
    from slipway.cli import advisories

    return advisories.fetch(source, json)
