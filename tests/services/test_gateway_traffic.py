"""Steady traffic while weights move, candidates are killed and everything goes to the candidate and back: nothing is lost."""

import asyncio
import json
import random
import time
from pathlib import Path

import pytest
from conftest import wait_for
from gateways import Rig, need_haproxy, rigged
from made_replica import MODEL, Process
from soaking import Seen, Soak, flipped_back

from slipway.errors import UsageError
from slipway.gateway import traffic
from slipway.gateway.traffic import Plan, Prompt, Tally, Traffic

need_haproxy()
PROMPTS = [Prompt([{"role": "user", "content": f"question {number}"}], "hello", None) for number in range(50)]


def ramp(rig: Rig, soak: Soak, chance: random.Random, steps: int, pause: float = 0.02) -> None:
    """Up in steps, and back by one rollback: users may come back then, and only then."""
    for weight in sorted(chance.sample(range(1, 100), steps - 1)):
        rig.split(weight)
        time.sleep(pause)
    with soak.going_back():
        rig.split(0)


def kill(rig: Rig, soak: Soak) -> None:
    """SIGKILL while it has half of the users, and requests of theirs; they are asked for again elsewhere."""
    rig.split(50)
    time.sleep(0.1)
    with soak.going_back():
        rig.candidate.kill()
        wait_for(lambda: rig.gateway.weights(MODEL)["candidate"] == 0, 3, "the breaker")
    rig.candidate.again()
    wait_for(lambda: rig.gateway.arms(MODEL)["candidate"]["up"], 5, "the candidate")


def all_and_back(rig: Rig, soak: Soak, pause: float = 0.1) -> None:
    rig.split(100)
    time.sleep(pause)
    with soak.going_back():
        rig.split(0)


def begun(rig: Rig, plan: Plan) -> Soak:
    return Soak(f"http://127.0.0.1:{rig.port}", PROMPTS, plan)


def check(soak: Soak, summary: dict[str, object], sent: int) -> None:
    assert summary["sent"] == sent
    assert (summary["errors"], summary["lost"], summary["cut_streams"]) == (0, 0, 0), summary
    assert summary["resent"] == 0, "nor made good by the client in silence"
    assert set(summary["versions"]) == {"1.0.0", "2.0.0"}  # type: ignore[call-overload]
    assert soak.flipped_back("1.0.0") == []


def soaked(folder: Path, plan: Plan, ramps: int, steps: int, kills: int, moves: int) -> dict[str, object]:
    """Kills come while nothing is streamed by the candidate: a stream whose process is killed is cut, by design (case G2)."""
    chance = random.Random(1)
    with rigged(folder) as rig, begun(rig, plan) as soak:
        for _ in range(ramps):
            ramp(rig, soak, chance, steps)
        for _ in range(moves):
            all_and_back(rig, soak)
        for _ in range(kills):
            kill(rig, soak)
        assert soak.going, "the traffic went on to the end"
        summary = soak.end()
    check(soak, summary, plan.count)
    return summary


def test_nothing_is_lost_while_weights_move_and_everything_goes_there_and_back(tmp_path: Path) -> None:
    plan = Plan(rate=100, seconds=6, stream=0.3, users=60, feedback=0.2)
    soaked(tmp_path / "gateway", plan, ramps=2, steps=10, kills=0, moves=4)


def test_nothing_is_lost_while_candidates_are_killed(tmp_path: Path) -> None:
    plan = Plan(rate=100, seconds=9, stream=0, users=60, feedback=0.2)
    soaked(tmp_path / "gateway", plan, ramps=0, steps=1, kills=3, moves=0)


def test_users_never_flip_back_while_the_weight_rises(tmp_path: Path) -> None:
    plan = Plan(rate=100, seconds=4, stream=0.2, users=40)
    with rigged(tmp_path / "gateway") as rig, begun(rig, plan) as soak:
        for weight in range(5, 101, 5):
            rig.split(weight)
            time.sleep(0.15)
        summary = soak.end()
    check(soak, summary, 400)
    assert summary["flips_back"] == 0 and int(str(summary["flips"])) > 10


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_the_whole_soak(tmp_path: Path) -> None:
    """200 requests a second; 100 weight changes, 20 moves there and back, streams among them; 20 kills."""
    plan = Plan(rate=200, seconds=60, stream=0.2, users=200, feedback=0.1)
    first = soaked(tmp_path / "one", plan, ramps=10, steps=10, kills=0, moves=20)
    plan = Plan(rate=200, seconds=75, users=200, feedback=0.1)
    second = soaked(tmp_path / "two", plan, ramps=0, steps=1, kills=20, moves=0)
    plan = Plan(rate=200, seconds=30, stream=0.2, users=200)
    with rigged(tmp_path / "three") as rig, begun(rig, plan) as soak:
        for weight in range(1, 101):
            rig.split(weight)
            time.sleep(0.2)
        third = soak.end()
    check(soak, third, 6_000)
    assert third["flips_back"] == 0
    print(json.dumps([first, second, third], indent=1))


@pytest.mark.chaos
def test_half_a_million_requests_across_a_thousand_switches(tmp_path: Path) -> None:
    plan = Plan(rate=800, seconds=625, stream=0.05, users=200, feedback=0)
    chance, switches = random.Random(1), 0
    limits = {"requests_per_minute": 1_000_000, "connections_per_address": 4096}  # one address sends all of it
    with rigged(tmp_path / "gateway", limits=limits) as rig, begun(rig, plan) as soak:
        while soak.going:
            ramp(rig, soak, chance, steps=10, pause=0.3)
            all_and_back(rig, soak, pause=0.3)
            switches += 12
        summary = soak.end()
    print(json.dumps({**summary, "switches": switches}, indent=1))
    check(soak, summary, 500_000)
    assert switches >= 1000


# --- what the counting is worth ---------------------------------------------------------------------------------------


def test_a_cut_stream_and_a_lost_request_are_counted(tmp_path: Path) -> None:
    replica = Process("1.0.0")
    try:
        for mode, stream, wanted in (
            ("cut-stream", 1.0, "cut"),
            ("nothing", 0.0, "lost"),
            ("cut", 0.0, "cut"),
            ("500", 0.0, None),
            ("garbage", 0.0, None),
            ("empty", 0.0, None),
        ):
            replica.fault(mode)
            replay = Traffic(f"http://{replica.address}", PROMPTS, Plan(rate=100, seconds=0.05, stream=stream))
            summary = asyncio.run(replay.run())
            assert (summary["sent"], summary["ok"], summary["errors"]) == (5, 0, 5), mode
            counted = {"cut": summary["cut_streams"], "lost": summary["lost"]}
            assert counted == {name: 5 if name == wanted else 0 for name in counted}, mode
    finally:
        replica.kill()


def test_a_request_that_is_sent_twice_is_counted() -> None:
    """A server that closes a kept connection on a request, and answers the one that comes again."""

    async def replayed() -> dict[str, object]:
        answer = b'{"id": "x", "choices": [{"message": {"content": "hello"}}]}'
        heard = 0

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal heard
            for _ in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
                heard += 1
                if heard != 2:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
                else:
                    writer.close()
                    return

        server = await asyncio.start_server(served, "127.0.0.1", 0)
        url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
        return await Traffic(url, PROMPTS, Plan(rate=20, seconds=0.1, users=1, feedback=0)).run()

    summary = asyncio.run(replayed())
    assert (summary["sent"], summary["ok"], summary["resent"]) == (2, 2, 1), summary


def test_a_flip_back_is_counted() -> None:
    tally = Tally()
    tally.by_user["a"] = ["1", "2"]
    tally.by_user["b"] = ["1", "2", "1"]
    assert (tally.flips, tally.flips_back) == (3, 1)


def seen(user: str, at: float, version: str, failover: bool = False) -> Seen:
    return Seen(user, at, at + 0.1, at + 0.2, version, True, failover)


def test_a_way_back_excuses_who_goes_it_and_nobody_else() -> None:
    back = [(5.0, 6.0)]
    asked = [seen("a", 1, "1"), seen("a", 2, "2"), seen("a", 3, "1"), seen("b", 4, "2"), seen("b", 5.5, "1")]
    asked += [seen("b", 7, "1"), seen("c", 7, "2"), seen("c", 8, "1", failover=True), seen("c", 9, "1")]
    assert [(one.user, one.begun) for one in flipped_back(asked, back, "1")] == [("a", 3), ("c", 9)]
    assert flipped_back(asked[2:6], back, "1") == []


def test_prompts_are_read_as_people_have_them(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "user": "ada"}
    path.write_text("\n".join([json.dumps(chat), "", json.dumps({"prompt": "p", "answer": 7})]))
    first, second = traffic.read(path)
    assert (first.messages, first.answer, first.user) == ([{"role": "user", "content": "q"}], "a", "ada")
    assert (second.messages[0]["content"], second.answer, second.user) == ("p", "7", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no prompts"), ("{}", "neither"), ("[1]", "neither"), ("{", ":1: no JSON"), ('{"prompt": NaN}', "no JSON")],
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        traffic.read(path)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": float("nan")}, {"seconds": -1}, {"stream": 2}, {"users": 0}])
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Plan(**{"rate": 1, "seconds": 1, **wrong}).checked()  # type: ignore[arg-type]
