"""Steady traffic that real models answer, while weights move and candidates are killed: nothing is lost that could be kept."""

import json
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import wait_for
from forked_slipway import Forks, forks
from gateways import need_haproxy
from real_release import CANDIDATE, CHAMPION, Release, running
from soaking import Soak

from slipway.gateway.traffic import Plan, Prompt

need_haproxy()
TOKENS = 64


@dataclass(frozen=True)
class Size:
    """How much is done; the traffic goes on until all of it is."""

    ramps: int  # of ten changes of weight each
    moves: int
    kills: int
    restarts: int


@pytest.fixture(scope="module")
def children() -> Iterator[Forks]:
    with forks() as made:
        yield made


def answers(release: Release, asked: int) -> tuple[list[Prompt], dict[str, set[str]]]:
    """Questions that both versions answer, each with words of its own, and what each of them says."""
    prompts: list[Prompt] = []
    said: dict[str, set[str]] = {CHAMPION: set(), CANDIDATE: set()}
    for number in range(asked):
        messages = [{"role": "user", "content": f"question {number} about the parcel"}]
        first, second = (one.ask(messages, max_tokens=TOKENS) for one in (release.champion, release.candidate))
        if first and second and first[:1] != second[:1]:
            prompts.append(Prompt(messages, None, None))
            said[CHAMPION].add(first)
            said[CANDIDATE].add(second)
    assert len(prompts) >= 5
    return prompts, said


# --- the acts of a release --------------------------------------------------------------------------------------------


def ramp(release: Release, soak: Soak, chance: random.Random) -> None:
    """Nine steps up and one back."""
    for weight in sorted(chance.sample(range(1, 100), 9)):
        release.split(weight)
        time.sleep(0.1)
    back(release, soak)


def back(release: Release, soak: Soak) -> None:
    with soak.going_back():
        release.split(0)


def all_and_back(release: Release, soak: Soak) -> None:
    release.split(100)
    time.sleep(0.2)
    back(release, soak)


def kill(release: Release, soak: Soak) -> tuple[float, float]:
    """SIGKILL while it has half of the users, streams of theirs among them; when that was, and when it was found out."""
    release.split(50)
    time.sleep(0.4)
    with soak.going_back():
        begun = time.perf_counter()
        release.candidate.end(signal.SIGKILL)
        wait_for(lambda: release.model["weights"]["candidate"] == 0, 3, "the breaker")
        ended = time.perf_counter()
    again(release)
    return begun, ended


def restart(release: Release, soak: Soak) -> None:
    """SIGTERM while it has half of the users: it finishes what it has."""
    release.split(50)
    time.sleep(0.4)
    with soak.going_back():
        assert release.candidate.end(signal.SIGTERM) == 0
        wait_for(lambda: release.model["weights"]["candidate"] == 0, 3, "the candidate to be taken out")
    again(release)


def again(release: Release) -> None:
    release.candidate.start()
    release.candidate.ready()
    wait_for(lambda: release.up("candidate"), 5, "the candidate")


def soaked(release: Release, size: Size) -> None:
    begun = time.perf_counter()
    prompts, said = answers(release, 12)
    rate = min(20.0, 36 / (time.perf_counter() - begun))  # half as many again as one asker gets who waits for each
    plan = Plan(rate, seconds=3600, stream=0.5, users=40, max_tokens=TOKENS)
    chance = random.Random(1)
    with Soak(release.url, prompts, plan) as soak:
        acts = [lambda: ramp(release, soak, chance)] * size.ramps + [lambda: all_and_back(release, soak)] * size.moves
        acts += [lambda: restart(release, soak)] * size.restarts
        killed: list[tuple[float, float]] = []
        acts += [lambda: killed.append(kill(release, soak))] * size.kills
        chance.shuffle(acts)
        for act in acts:
            act()
            assert soak.going, "the traffic ended before the acts of the release"
        summary = soak.stop()
    print(json.dumps({**summary, "planned_rate": round(rate, 1), "on_killed": len(soak.cut)}, indent=1))
    check(soak, summary, killed, said)


def check(soak: Soak, summary: dict[str, object], killed: list[tuple[float, float]], said: dict[str, set[str]]) -> None:
    """Nothing is lost, nobody moves back, no words are mixed; cut are the streams of a killed process, and no others."""
    assert int(str(summary["sent"])) > 50 and summary["lost"] == 0
    assert summary["errors"] == len(soak.cut), summary["problems"]
    assert set(summary["versions"]) == {CHAMPION, CANDIDATE}  # type: ignore[call-overload]
    for cut in soak.cut:
        seen = cut.seen
        assert seen.version == CANDIDATE and any(seen.begun <= a <= seen.ended <= b for a, b in killed), cut
        assert b"[DONE]" not in cut.body
    assert soak.spliced(said) == []
    assert soak.flipped_back(CHAMPION) == []


# --- how much of it ---------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_nothing_is_lost_while_real_models_answer(children: Forks, tmp_path: Path) -> None:
    with running(children, tmp_path / "a project") as release:
        soaked(release, Size(ramps=1, moves=2, kills=1, restarts=1))


@pytest.mark.chaos
def test_the_whole_soak_under_real_generation(children: Forks, tmp_path: Path) -> None:
    """100 weight changes, 20 moves to 100 % and back, 20 kills, 5 restarts."""
    with running(children, tmp_path / "a project") as release:
        soaked(release, Size(ramps=10, moves=20, kills=20, restarts=5))
