"""`slipway canary simulate`: how the canary policy behaves on candidates whose truth is known."""

import json as json_module
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from slipway import atomic, settings
from slipway.errors import UsageError
from slipway.release import policy as policies
from slipway.release.planning import Design
from slipway.release.policy import Canary

MOST_CANARIES = 1_000_000


def simulate(canaries: int, seed: int, file: Path | None, metric: str | None, plot: Path | None, json: bool) -> int:
    if not 1 <= canaries <= MOST_CANARIES:
        raise UsageError(f"--canaries is {canaries}; give a number from 1 to {MOST_CANARIES:,}")
    if seed < 0:
        raise UsageError(f"--seed is {seed}; give a number from 0 on")
    if plot is not None and plot.suffix != ".svg":
        raise UsageError(f"--plot is {plot}; the picture is SVG, so name a file that ends in .svg")
    path = file or settings.find_root() / policies.FILE
    policy = Canary.load(path)
    name = metric or next(iter(policy.primary))
    design = policy.design(name)
    found = _simulated(design, canaries, seed)
    if plot is not None:
        from slipway.report import canary_picture

        atomic.write_text(plot, canary_picture.svg(design, *found))
    if json:
        told = {
            "policy": str(path), "metric": name, "low": design.question.low, "high": design.question.high,
            "alpha": design.alpha, "beta": design.beta, "canaries": canaries, "seed": seed,
            "scenarios": found[0], "rules": found[1],
        }  # fmt: skip
        print(json_module.dumps(told, indent=2))
    else:
        _tell(policy, name, design, canaries, *found)
    return 0


def _simulated(design: Design, canaries: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every truth and every rule, a process for each split: scenarios have their own random numbers, so the figures are the same."""
    from concurrent.futures import ProcessPoolExecutor

    from slipway.release import rivals, simulating

    truths = simulating.grid(design.question)
    if not truths:
        raise UsageError(
            f"no champion at {simulating.BASES[0]:.0%} or above can be better by {100 * design.question.high:g} points; "
            f"lower `expected`"
        )
    print(f"slipway: {len(truths)} truths, {canaries:,} canaries of each; at 2,000 it takes a minute", file=sys.stderr)
    splits = list(dict.fromkeys(truth.split for truth in truths))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        tried = [
            pool.submit(simulating.simulate, design, [t for t in truths if t.split == split], canaries, seed)
            for split in splits
        ]
        rules = rivals.simulate(design, canaries, seed)
        found = [one for part in tried for one in part.result()]
    return sorted(found, key=lambda one: simulating.BASES.index(one["base"])), rules


def _tell(
    policy: Canary,
    name: str,
    design: Design,
    canaries: int,
    scenarios: list[dict[str, Any]],
    rules: list[dict[str, Any]],
) -> None:
    low, high = 100 * design.question.low, 100 * design.question.high
    print(
        f"{name}: promoted where better than {low:+g} points, not rolled back at {high:+g} or better; wrongly promoted at most "
        f"{100 * design.alpha:g} %,\nwrongly rolled back at most {100 * design.beta:.2g} % (1 of {len(policy.watched)} "
        f"metrics that share {100 * policy.beta:g} %). Looked at after every block.\n"
        f"Requests are the candidate's. Wald: what no test with these errors can do without.\n"
    )
    print("champion  split  drifts  truth   promoted  rolled back  undecided   mean    90 %    Wald  ratio")
    for one in scenarios:
        print(
            f"{one['base']:>8.0%}  {one['split']:<6} {'yes' if one['drifting'] else 'no':<6} {100 * one['effect']:>+6.1f} "
            f"{one['promoted']:>10.1%} {one['rolled_back']:>12.1%} {one['undecided']:>10.1%} {one['mean_requests']:>7,.0f} "
            f"{one['p90_requests']:>7,.0f} {one['wald_bound']:>7,.0f} {one['ratio']:>6.2f}"
        )
    print("\nOther rules, on the same truths at 50:50:\n")
    print("rule           champion   truth   promoted  rolled back  undecided   mean")
    for one in rules:
        print(
            f"{one['rule']:<14} {one['base']:>8.0%}  {100 * one['effect']:>+6.1f} {one['promoted']:>10.1%} "
            f"{one['rolled_back']:>12.1%} {one['undecided']:>10.1%} {one['mean_requests']:>7,.0f}"
        )
    up = [one for one in scenarios if one["effect"] <= design.question.low]
    back = [one for one in scenarios if one["effect"] >= design.question.high]
    print(
        f"\nWrongly promoted at most {max(one['promoted'] for one in up):.1%}, wrongly rolled back at most "
        f"{max(one['rolled_back'] for one in back):.1%} of {canaries:,}."
    )
    above = sum(one["promoted_interval"][0] > design.alpha for one in up)
    above += sum(one["rolled_back_interval"][0] > design.beta for one in back)
    print(f"Truths on which it is more often wrong than promised, luck excluded (97.5 %): {above or 'none'}.")
