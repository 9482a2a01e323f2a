"""`slipway policy power | aa | backtest`: can this data decide, how often is the verdict luck, what would have been?"""

import dataclasses
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import digest, params, records, settings, strict
from slipway.artifacts import Scorecard
from slipway.errors import UsageError
from slipway.governance import policy as policies

if TYPE_CHECKING:
    from slipway.governance.evidence import Places
    from slipway.governance.power import Plan
    from slipway.governance.selftest import Trials

MARGIN, RATE = 0.02, 0.9  # what the shipped policy asks
SEED = 7
_NO_SCORECARD = "there is no scorecard here yet; `slipway run` makes one"


# --- power ----------------------------------------------------------------------------------------------------------


def power(rows: int | None, margin: float | None, discordance: float | None, rate: float | None, json: bool) -> int:
    """Can the test rows decide a margin and a minimum, and how many would?"""
    from slipway.governance import power as planner

    _check_shares({"--margin": margin, "--discordance": discordance, "--rate": rate})
    if rows is not None and rows < 1:
        raise UsageError(f"--rows is {rows}; give a number of rows from 1 on")
    card = _last_scorecard()
    right = card.metrics["tuned"]["exact_match"].value if card else None
    rows = rows or (card.items if card else None)
    apart = discordance if discordance is not None else _discordance(card)
    plans: list[Plan] = []
    if apart is not None:
        plans.append(planner.of_margin(margin or MARGIN, apart, rows))
    if right is not None:
        plans.append(planner.of_rate(right, rate or RATE, rows))
    if not plans:
        raise UsageError(f"{_NO_SCORECARD}, or give --discordance (and --rows)")
    if json:
        told = [{"decides": p.decides, **dataclasses.asdict(p), "sentence": p.sentence} for p in plans]
        print(json_module.dumps({"plans": told}, indent=2))
    else:
        print(*(plan.sentence for plan in plans), sep="\n")
    return 0


def _check_shares(given: dict[str, float | None]) -> None:
    for name, share in given.items():
        if share is not None and not (0 < share < 1 or (share == 0 and name == "--discordance")):
            raise UsageError(f"{name} is {share}; give a share between 0 and 1, as 0.02 for 2 points")


def _last_scorecard() -> Scorecard | None:
    path = settings.find_root() / _paths(settings.find_root())["scorecard"]
    return Scorecard.load(path) if path.is_file() else None


def _discordance(card: Scorecard | None) -> float | None:
    """As seen between the tuned model and a champion; the base is no rival, so there the worst of two equals."""
    from slipway.governance import power as planner

    if card is None:
        return None
    if card.champion.kind == "base":
        return planner.worst_discordance(card.metrics["tuned"]["exact_match"].value)
    pairs = card.comparisons["champion"]
    return (pairs.only_tuned + pairs.only_other) / card.items


def _paths(root: Path) -> dict[str, str]:
    paths: dict[str, str] = strict.read_yaml(root / "dvc.yaml")["vars"][0]["path"]
    return paths


# --- A/A ------------------------------------------------------------------------------------------------------------


def aa(trials: int, json: bool) -> int:
    """The gate on models that do not differ: how often does it contradict itself?"""
    from slipway.evaluation import predictions, scoring, slices, testset
    from slipway.governance import evidence, selftest
    from slipway.governance.judge import Evidence, judge

    if trials < 2:
        raise UsageError(f"--trials is {trials}; it takes at least 2 to contradict each other")
    root = settings.find_root()
    places = evidence.Places.of(root, _paths(root))
    if not places.scorecard.is_file() or not places.scan.is_file():
        raise UsageError(_NO_SCORECARD)
    card, asked = Scorecard.load(places.scorecard), params.load_all(root / "params.yaml").evaluate
    tests = testset.load(places.prepared, asked.max_rows)
    _check_same(card, places, tests.digest, len(tests.rows))
    named = params.load_all(root / "params.yaml").gate.policy
    policy, policy_digest = policies.Policy.load(root / named), digest.of_file(root / named)
    scored = evidence.of_scorecard(card)
    fixed = {name: found for name, found in evidence.gather(places).measures.items() if name not in scored}

    def judged(drawn: Scorecard) -> Any:
        seen = Evidence(card.identity, {}, fixed | evidence.of_scorecard(drawn))
        return judge(seen, policy, policy_digest)

    models = predictions.read(places.predictions, tests)
    tables = {model: scoring.table(tests, answers) for model, answers in models.items()}
    by = slices.values(places.prepared, tests, asked.slices)
    found = selftest.run(card, tables, by, judged, trials, SEED)
    _tell_trials(found, card, named, json)
    return 0


def _check_same(card: Scorecard, places: "Places", test_digest: str, rows: int) -> None:
    """What lies here must be of one run, or the trials speak of nothing."""
    same = (card.test_digest, card.items) == (test_digest, rows)
    if not same or digest.of_file(places.predictions) != card.predictions_sha256:
        raise UsageError(f"{places.scorecard} is not of the test rows and predictions beside it; `slipway run` first")


def _tell_trials(found: "Trials", card: Scorecard, policy: str, json: bool) -> None:
    if json:
        told = dataclasses.asdict(found) | {"flips": found.flips.model_dump(), "rows": card.items, "seed": SEED}
        print(json_module.dumps(told | {"policy": policy}, indent=2))
        return
    against = "the champion" if card.champion.kind == "version" else "an equally good model that errs independently"
    print(f"{found.trials:,} runs of {policy}, tuned model against {against}, {card.items} rows each:")
    print("  " + " · ".join(f"{verdict} {_percent(n / found.trials)}" for verdict, n in found.verdicts.items()))
    ends = f"{_percent(found.flips.low)} to {_percent(found.flips.high)}"
    print(f"  two runs on identical models disagree {_percent(found.flips.value)} of the time ({ends})")
    shaky = {rule: seen for rule, seen in found.rules.items() if max(seen.values()) < found.trials}
    if shaky:
        width = max(map(len, shaky))
        print("Rules that do not always say the same:")
        for rule, seen in sorted(shaky.items(), key=lambda one: (max(one[1].values()), one[0])):
            print(f"  {rule:<{width}}  " + " · ".join(f"{v} {_percent(n / found.trials)}" for v, n in seen.items()))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# --- backtest -------------------------------------------------------------------------------------------------------


def backtest(file: Path | None, json: bool) -> int:
    """Every past release, judged again by a policy."""
    from slipway.governance import backtest as backtests

    root = settings.find_root()
    path = file or root / params.load_all(root / "params.yaml").gate.policy
    policy, policy_digest = policies.Policy.load(path), digest.of_file(path)
    releases = list(records.newest_first(root))
    if not releases:
        raise UsageError("no release here yet; `slipway run` makes one")
    found = [backtests.again(records.folder_of(root, r.id), r, policy, policy_digest) for r in releases]
    if json:
        told = [dataclasses.asdict(one) | {"differs": one.differs} for one in found]
        print(json_module.dumps({"policy": str(path), "releases": told}, indent=2))
        return 0
    print(f"{'release':<22}  {'decided':<20}  {'would':<10}  because")
    for one in found:
        decided = f"{one.decided} ({one.act})" if one.decided else one.outcome
        print(f"{one.release:<22}  {decided:<20}  {one.would or '–':<10}  {one.because}")
    judged, differing = sum(one.would is not None for one in found), sum(one.differs for one in found)
    print(f"{len(found)} releases, {judged} judged again, {differing} with another verdict")
    return 0
