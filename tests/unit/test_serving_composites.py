"""Composites as served models: through a real replica over real HTTP, on real tiny models; faults on the made engine."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import served_models
from conftest import wait_for
from made_engine import SERVED, MadeEngine
from made_versions import MODEL
from pydantic import TypeAdapter
from served import Running, chat, events, project

from slipway.errors import UsageError
from slipway.generating.composite import CompositeEngine
from slipway.generating.composite_config import Composites
from slipway.generating.together import Together
from slipway.ledger import events as ledger_events
from slipway.ledger.database import Database
from slipway.serving import inference_log
from slipway.serving.config import FILE, ServingConfig
from slipway.serving.engines import open_engine

CHAMPION, NEXT, BASE = f"{MODEL}@champion", f"{MODEL}@1.1.0", f"{MODEL}@base"
MADE = [
    {"name": "careful", "kind": "cascade", "members": [BASE, CHAMPION], "escalate": "max_tokens > 8"},
    {"name": "many", "kind": "vote", "members": [NEXT, CHAMPION, f"{MODEL}@1.0.0"]},
    {"name": "likely", "kind": "best_of", "members": [CHAMPION, NEXT], "scorer": "loglikelihood", "judge": CHAMPION},
    {"name": "drawn", "kind": "best_of", "members": [NEXT], "samples": 4, "scorer": "length", "length": "longest"},
    {"name": "tiers", "kind": "tiered", "default": BASE, "tiers": [{"when": "user_group == 'staff'", "member": CHAMPION}]},
]  # fmt: skip
ANN = {"authorization": "Bearer ann"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = served_models.project(tmp_path_factory.mktemp("composites") / "a project")
    made.serve(made.version(whole=False))
    made.version(whole=False)
    return made.root


@pytest.fixture(scope="module")
def replica(root: Path) -> Iterator[Running]:
    """The command line names one version; all others are there because composites name them."""
    changes = {"composites": MADE, "batching": {"threads": 1}, "log": {"flush_seconds": 0.1}}
    config = ServingConfig.load(project(root, changes) / FILE)
    found = Running(root, open_engine(root, config, [NEXT]))
    try:
        yield found
    finally:
        found.stop()


def ask(
    replica: Running, model: str, text: str = "a refund", headers: dict[str, str] | None = None, **asked: Any
) -> Any:
    body = chat(text, **{"model": model, "temperature": 0, "max_tokens": 12, **asked})
    got = replica.http.post("/v1/chat/completions", json=body, headers=headers)
    assert got.status_code == 200, got.text
    return got.json()


def said(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def own(replica: Running) -> dict[str, str]:
    """What each version says by itself."""
    found = {name: said(ask(replica, name)) for name in (BASE, CHAMPION, NEXT)}
    assert len(set(found.values())) == 3
    return found


# --- each kind ---


def test_a_cascade_answers_with_the_first_that_is_good_enough(replica: Running, own: dict[str, str]) -> None:
    hard = ask(replica, "careful")
    assert said(hard) == own[CHAMPION]
    assert said(ask(replica, "careful", max_tokens=8)) == said(ask(replica, BASE, max_tokens=8))
    assert 12 < hard["usage"]["completion_tokens"] <= 24, "what the first one said was made, too"
    ways = replica.metric(f'llm_composite_answers_total{{member="{MODEL}@1.0.0",model="careful"}}')
    assert ways == 1 and replica.metric(f'llm_composite_answers_total{{member="{BASE}",model="careful"}}') == 1


def test_openais_client_is_answered_by_a_cascade_whole_and_streamed(replica: Running, own: dict[str, str]) -> None:
    with openai.OpenAI(base_url=f"{replica.url}/v1", api_key="a-key", max_retries=0) as client:
        listed = {one.id for one in client.models.list()}
        assert {"careful", "many", "likely", "drawn", "tiers", MODEL, f"{MODEL}@1.0.0", NEXT, BASE} <= listed
        question: Any = [{"role": "user", "content": "a refund"}]
        whole = client.chat.completions.create(model="careful", messages=question, temperature=0, max_tokens=12)
        assert whole.choices[0].message.content == own[CHAMPION] and whole.model.startswith("careful@")
        stream = client.chat.completions.create(
            model="careful", messages=question, temperature=0, max_tokens=11, stream=True
        )
        parts = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert own[CHAMPION].startswith("".join(parts)) and sum(map(bool, parts)) > 2, "the last member streams"


def test_a_vote_is_won_by_what_most_say(replica: Running, own: dict[str, str]) -> None:
    assert said(ask(replica, "many")) == own[CHAMPION] != own[NEXT], "two of three, though the first says otherwise"


def test_the_best_of_several_is_the_judges_choice(replica: Running, own: dict[str, str]) -> None:
    assert said(ask(replica, "likely")) == own[CHAMPION], "greedy answers are what their own version finds likeliest"
    drawn = ask(replica, "drawn", temperature=1.0, seed=3)
    alone = said(ask(replica, NEXT, temperature=1.0, seed=3))
    assert len(said(drawn)) >= len(alone) and drawn["usage"]["completion_tokens"] > 12
    assert said(ask(replica, "drawn", temperature=1.0, seed=3)) == said(drawn), "a seed makes it the same each time"


def test_a_tier_is_chosen_by_who_asks_and_never_known_to_another(replica: Running, own: dict[str, str]) -> None:
    for _ in range(2):  # the second time from memory
        assert said(ask(replica, "tiers", headers=ANN)) == own[BASE]
        assert said(ask(replica, "tiers", headers={**ANN, "x-user-group": "staff"})) == own[CHAMPION]
    assert said(ask(replica, "tiers", headers={**ANN, "x-user-group": "staff' || true"})) == own[BASE], (
        "no group at all"
    )


# --- never taken for another's ---


def test_its_answers_say_what_it_is_and_nothing_else(replica: Running, root: Path, own: dict[str, str]) -> None:
    served = {one.model: one for one in replica.replica.served if one.members}
    assert len({one.identity for one in replica.replica.served}) == 3 + len(MADE)
    got = replica.http.post("/v1/chat/completions", json=chat("an id", model="many", temperature=0, max_tokens=4))
    answer, many = got.json(), served["many"]
    assert (got.headers["x-slipway-model"], got.headers["x-slipway-version"]) == ("many", many.version)
    assert answer["model"] == many.name and answer["system_fingerprint"] == f"fp_{many.identity[:16]}"
    told = replica.http.post("/v1/feedback", json={"id": answer["id"], "label": "correct"}).json()
    assert (told["model"], told["version"]) == ("many", many.version)
    assert replica.metric(f'model_correct_predictions{{version="{many.version}"}}') == 1
    assert replica.metric('model_correct_predictions{version="1.1.0"}') == 0

    def logged() -> list[Any]:
        rows = inference_log.read(root, "many").to_pylist()
        return [row for row in rows if row["answer_id"] == answer["id"]]

    wait_for(lambda: bool(logged()), 20, "the row")
    (row,) = logged()
    assert (row["version"], row["identity"]) == (many.version, many.identity)


def test_known_answers_are_each_ones_own(replica: Running, own: dict[str, str]) -> None:
    for _ in range(2):
        assert said(ask(replica, "many", headers=ANN)) == own[CHAMPION]
        assert said(ask(replica, NEXT, headers=ANN)) == own[NEXT]


def test_the_ledger_and_ready_name_composites_and_their_members(replica: Running, root: Path) -> None:
    def told() -> dict[str, Any]:
        with Database.of(root).read() as connection:
            found = [event for event in ledger_events.read(connection) if event.kind == "inference_started"]
        return {event.model: event for event in found if event.model != MODEL}

    wait_for(lambda: len(told()) == len(MADE), 20, "the ledger to be told")
    careful = next(one for one in replica.replica.served if one.model == "careful")
    assert told()["careful"].payload["members"] == [BASE, f"{MODEL}@1.0.0"]
    assert told()["careful"].subject == careful.version
    ready = replica.http.get("/ready").json()["served"]
    assert {"model": "careful", "version": careful.version, "identity": careful.identity} in ready
    assert (ready[0]["version"], replica.http.get("/v1/models").json()["data"][0]["id"]) == ("1.1.0", "careful")


def test_without_a_name_what_was_asked_for_first_answers(replica: Running, root: Path) -> None:
    body = {"prompt": "x", "max_tokens": 2}
    assert replica.http.post("/v1/completions", json=body).json()["model"] == NEXT
    config = ServingConfig.load(root / FILE)
    named = open_engine(root, config, ["tiers", "many"])
    alone = open_engine(root, config.model_copy(update={"composites": []}), [CHAMPION])
    assert isinstance(named, Together) and not isinstance(alone, Together)
    assert [one.name for one in named._engines[1]._configured] == ["many", "tiers"], "and of the others none"  # type: ignore[attr-defined]


def test_a_composite_that_is_asked_for_first_is_the_default() -> None:
    engine = MadeEngine([SERVED, replace(SERVED, version="1.1.0", identity="2e" * 32)])
    vote = {"name": "vote", "kind": "vote", "members": ["desk@champion", "desk@1.1.0"]}
    composites = CompositeEngine([engine], TypeAdapter(Composites).validate_python([vote]))
    for wanted, first in ((["vote"], "vote"), (["desk@champion", "vote"], "desk"), ([], "desk")):
        both = Together([engine, composites], wanted)
        asyncio.run(both.start())
        assert both.served[0].model == first and len(both.served) >= 3
        composites = CompositeEngine([engine], composites._configured)


def test_what_was_started_before_one_that_does_not_is_stopped() -> None:
    engine = MadeEngine()
    engine.running = 1
    vote = {"name": "vote", "kind": "vote", "members": ["desk@1.0.0", "desk@9.0.0"]}
    composites = CompositeEngine([engine], TypeAdapter(Composites).validate_python([vote]))
    with pytest.raises(UsageError, match=r"names desk@9\.0\.0, which is not served"):
        asyncio.run(Together([engine, composites]).start())
    assert engine.running == 0


# --- what goes wrong ---


def made(folder: Path, engine: MadeEngine, changes: dict[str, Any], *configured: dict[str, Any]) -> Running:
    composites = TypeAdapter(Composites).validate_python(list(configured))
    return Running(project(folder, changes), Together([engine, CompositeEngine([engine], composites)]))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    engine = MadeEngine([SERVED, replace(SERVED, version="1.1.0", identity="2e" * 32)])
    times = {"first_token_seconds": 0.5, "total_seconds": 1.5}
    members = ["desk@1.0.0", "desk@1.1.0"]
    found = made(
        tmp_path_factory.mktemp("faulty"), engine, {"deadlines": {"answer": times, "stream": dict(times)}},
        {"name": "vote", "kind": "vote", "members": members},
        {"name": "cascade", "kind": "cascade", "members": members, "escalate": "true"},
        {"name": "tier", "kind": "tiered", "default": "desk@1.0.0", "tiers": [{"when": "max_tokens == 7", "member": "desk@1.1.0"}]},
    )  # fmt: skip
    found.engine = engine
    try:
        yield found
    finally:
        found.stop()


@pytest.mark.parametrize("model", ["vote", "cascade", "tier"])
@pytest.mark.parametrize(("fault", "status"), [("lost", 503), ("nothing", 503), ("surrogate", 503), ("hang", 504)])
def test_a_members_fault_is_the_composites_before_the_first_byte(
    faulty: Running, model: str, fault: str, status: int
) -> None:
    for stream in (False, True):
        got = faulty.chat(f"fault:{fault} {stream}", model=model, stream=stream)
        assert got.status_code == status and "error" in got.json(), got.text
        assert faulty.chat("a good one", model="desk").status_code == 200, "and nobody else's"


def test_a_stream_through_a_tier_that_fails_ends_with_an_error_event(faulty: Running) -> None:
    got = events(faulty.chat("fault:lost_midway", model="tier", stream=True).text)
    assert got[-1][0] == "error" and ("[DONE]" not in [data for _, data in got])


def test_a_client_that_goes_away_frees_every_member(faulty: Running) -> None:
    engine = faulty.engine
    assert isinstance(engine, MadeEngine)
    for model in ("vote", "cascade", "tier"):
        text = f"gone {model} delay:0.05 tokens:1000"
        with pytest.raises(httpx.ReadTimeout):
            faulty.http.post("/v1/chat/completions", json=chat(text, model=model), timeout=0.3)
        asked = engine.started[f"<user>{text}"]
        assert asked == (2 if model == "vote" else 1)
        wait_for(lambda text=text, asked=asked: engine.closed[f"<user>{text}"] == asked, 5, "all to be closed")  # type: ignore[misc]
    wait_for(lambda: faulty.replica.queue.running == 0, 5, "the places to be free")


def test_a_prompt_that_no_member_can_take_is_the_clients_mistake(faulty: Running) -> None:
    for text, says in (("refused by the template", "user and assistant in turn"), ("x" * 3000, "2,000 together")):
        got = faulty.chat(text, model="vote")
        assert got.status_code == 400 and says in got.text


def test_a_member_without_room_is_passed_over(tmp_path: Path) -> None:
    engine = MadeEngine([replace(SERVED, context=40), replace(SERVED, version="1.1.0", identity="2e" * 32)])
    replica = made(
        tmp_path, engine, {},
        {"name": "cascade", "kind": "cascade", "members": ["desk@1.0.0", "desk@1.1.0"], "escalate": "false"},
        {"name": "tier", "kind": "tiered", "default": "desk@1.1.0", "tiers": [{"when": "true", "member": "desk@1.0.0"}]},
        {"name": "vote", "kind": "vote", "members": ["desk@1.0.0", "desk@1.1.0"]},
    )  # fmt: skip
    try:
        for model in ("cascade", "tier"):
            small, large = (
                said(replica.chat("x", model=f"desk@1.{n}.0", max_tokens=9, temperature=0).json()) for n in (0, 1)
            )
            assert said(replica.chat("x", model=model, max_tokens=9, temperature=0).json()) == small != large
            long = "x" * 60
            alone = said(replica.chat(long, model="desk@1.1.0", max_tokens=9, temperature=0).json())
            assert said(replica.chat(long, model=model, max_tokens=9, temperature=0).json()) == alone
        refused = replica.chat(long, model="vote", max_tokens=9)
        assert refused.status_code == 400 and "40 together" in refused.text, "all must answer, so all must have room"
    finally:
        replica.stop()


def test_what_the_gateway_sent_to_one_model_is_answered_by_no_other(faulty: Running) -> None:
    """It counts an answer, its tokens and its faults for the model that it chose."""
    for model, status in (("desk", 200), ("desk@1.1.0", 200), ("vote", 404)):
        got = faulty.chat("as a desk", headers={"x-slipway-model": "desk"}, model=model)
        assert got.status_code == status, got.text
    assert "vote@" in got.text and "is not the model desk" in got.text
    body = {"prompt": "unnamed", "max_tokens": 3}
    got = faulty.http.post("/v1/completions", json=body, headers={"x-slipway-model": "vote"})
    assert got.headers["x-slipway-model"] == "vote" and got.json()["model"].startswith("vote@")


# --- the file ---

CASCADE = MADE[0]


def beside(root: Path, folder: Path) -> Path:
    """The same versions, for a project with another serving.yaml."""
    shutil.copytree(root / ".slipway", folder / ".slipway", ignore=shutil.ignore_patterns("inference", "serving"))
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"escalate": "answr == ''"}, r"composites\.0\.escalate: .*answr is nothing that can be read"),
        ({"members": [BASE, "champion"]}, r"composites\.0\.members\.1: String should match"),
        ({"kind": "magic"}, r"composites\.0: .*'cascade', 'vote', 'best_of', 'tiered'"),
        ({"odd": 1}, r"composites\.0\.odd: Extra inputs"),
        ({"name": MODEL}, rf"composites\.0\.name: {MODEL} is a model that is registered"),
        ({"members": [BASE, f"{MODEL}@7.0.0"]}, r"composites\.0\.members\.1: .*7\.0\.0"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(root: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = project(beside(root, tmp_path), {"composites": [CASCADE | changes]}) / FILE
    with pytest.raises(UsageError, match=rf"serving\.yaml:\d+: {says}") as refused:
        open_engine(tmp_path, ServingConfig.load(path), [CHAMPION])
    lines, said = path.read_text().splitlines(), str(refused.value)
    number = int(said.partition("serving.yaml:")[2].partition(":")[0])
    assert number > lines.index("composites:") and "\n" not in said, said


def test_two_of_one_name_and_more_than_the_engine_holds_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"serving\.yaml:\d+: composites: .*careful stands twice"):
        ServingConfig.load(project(tmp_path, {"composites": [CASCADE, dict(CASCADE, members=[CHAMPION, NEXT])]}) / FILE)
    many = {"name": "m", "kind": "best_of", "members": [CHAMPION], "samples": 8, "scorer": "length"}
    config = ServingConfig.load(project(beside(root, tmp_path), {"composites": [many]}) / FILE)
    with pytest.raises(
        UsageError, match=r"serving\.yaml:\d+: composites\.0: .*8 answers made for each are 512, and 256"
    ):
        open_engine(tmp_path, config, [])


def test_none_is_made_unless_the_file_says_so(tmp_path: Path) -> None:
    assert ServingConfig.load(project(tmp_path) / FILE).composites == []
    assert ServingConfig.load(Path(__file__).parents[2] / FILE).composites == []
