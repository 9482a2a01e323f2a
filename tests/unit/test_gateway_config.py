"""The gateway's pure parts: configuration, weights, breaker, counts, pairs."""

import json
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.errors import Refused, SlipwayError, StageError, UsageError
from slipway.gateway import config, counting, haproxy, keys, rendering, routing, scraping, shadows
from slipway.gateway.breaker import Window
from slipway.gateway.config import Breaker, Config
from slipway.gateway.counting import Counts, Totals
from slipway.gateway.routing import Model, Replica, Routing, Side

ROOT = Path(__file__).parents[2]
ONE = Config.model_validate({"models": [{"name": "desk", "champion": ["127.0.0.1:9001"]}]})


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "configs").mkdir(exist_ok=True)
    (tmp_path / config.FILE).write_text(text)
    return tmp_path


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    shipped = config.load(ROOT)
    assert shipped.model_dump(exclude={"models"}) == Config(models=shipped.models).model_dump(exclude={"models"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [{name: desk}]\nweights: 5", "gateway.yaml:2: unknown key weights"),
        ("models: [{name: desk, canary: 5}]", "unknown key models.0.canary"),
        ("models: []", "models"),
        ("models: [{name: desk}, {name: desk}]", "the model desk stands twice"),
        ("models: [{name: 'a b'}]", "models.0.name"),
        ("models: [{name: desk, champion: ['127.0.0.1;evil:80']}]", "models.0.champion.0"),
        ("models: [{name: desk}]\nlisten: 8080", "listen"),
        ("models: [{name: desk}]\nbreaker: {bad: 21, last: 20}", "never be reached"),
        ("models: [{name: desk}]\nbudgets: {chat: .nan}", "budgets.chat"),
        ("models: [{name: desk}]\nbudgets: {chat: -1}", "budgets.chat"),
        ("models: [{name: desk}]\ncertificate: \"a' ssl crt 'b\"", "certificate"),
        ("models: [{name: desk}]\nclient_ca: ca.pem", "client_ca without certificate"),
        ("models: [{name: desk, champion: ['h:1', 'h:2']}]\nslots: 1", "more replicas than slots"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_naming_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        config.load(written(tmp_path, text))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def fake(tmp_path: Path, says: str) -> str:
    path = tmp_path / "haproxy"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_haproxy_must_be_there_and_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"HAProxy 2\.4, older than 2\.6"):
        haproxy.find(fake(tmp_path, "HAProxy version 2.4.22 2023/02/14"))
    with pytest.raises(UsageError, match="is no HAProxy"):
        haproxy.find(fake(tmp_path, "nginx 1.22"))
    with pytest.raises(UsageError, match="does not run"):
        haproxy.find(str(tmp_path / "nowhere"))
    assert haproxy.find(fake(tmp_path, "HAProxy version 3.0.1-abc 2025/01/01")).version == "3.0.1"
    monkeypatch.setattr(haproxy, "_of_wheel", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UsageError, match="there is no HAProxy"):
        haproxy.find()


@given(st.floats(0, 100))
def test_weights_that_add_up_are_taken(candidate: float) -> None:
    assert routing.checked({"champion": 100 - candidate, "candidate": candidate}) == round(candidate, 2)


@given(
    st.dictionaries(
        st.sampled_from(["champion", "candidate", "x"]),
        st.one_of(st.floats(), st.none(), st.sampled_from(["", "5", "nan"]), st.booleans()),
    )
)
def test_whatever_else_is_refused_with_one_line(weights: dict[str, object]) -> None:
    try:
        assert 0 <= routing.checked(weights) <= 100
    except Refused as error:
        assert "kept" in str(error) and "\n" not in str(error)


def test_a_candidate_without_a_replica_gets_no_weight() -> None:
    with pytest.raises(Refused, match="no candidate replica"):
        routing.moved("desk", Model(), 5, back=False)
    drained = Model(candidate=Side(replicas=[Replica(slot=1, address="h:1", state="drain")]))
    with pytest.raises(Refused, match="no candidate replica"):
        routing.moved("desk", drained, 5, back=False)


def test_what_was_added_at_run_time_is_kept_and_what_the_file_names_is_added() -> None:
    side = Side(version="1.0.0", replicas=[Replica(slot=3, address="127.0.0.1:9009")])
    kept = Routing(models={"desk": Model(champion=side, candidate_weight=7), "gone": Model()}, generation=4)
    now = routing.start(ONE, kept)
    assert set(now.models) == {"desk"} and now.generation == 4
    assert now.models["desk"].candidate_weight == 7
    assert {(one.slot, one.address) for one in now.models["desk"].champion.replicas} == {
        (3, "127.0.0.1:9009"),
        (1, "127.0.0.1:9001"),
    }


def test_a_kept_file_that_says_nonsense_is_an_error(tmp_path: Path) -> None:
    routing.save(tmp_path, Routing(models={"desk": Model(candidate_weight=5)}))
    assert routing.load(tmp_path) == Routing(models={"desk": Model(candidate_weight=5)})
    (tmp_path / routing.FILE).write_text('{"models": {"desk": {"candidate_weight": 101}}}')
    with pytest.raises(StageError, match="candidate_weight"):
        routing.load(tmp_path)
    assert routing.load(tmp_path / "elsewhere") is None


def test_the_configuration_is_the_same_for_the_same_traffic() -> None:
    now = routing.start(ONE, None)
    first, second = (rendering.render(ONE, now, "127.0.0.1:80") for _ in range(2))
    assert first.files == second.files and set(first.files) == {"haproxy.cfg", "weights.map", "shadows.map"}
    text = first.files["haproxy.cfg"]
    assert text.count("  server r") == 3 * ONE.slots and "127.0.0.1:9001" in text


def test_the_breaker_counts_bad_ones_among_the_last() -> None:
    window = Window(Breaker(bad=5, last=20))
    for _ in range(30):
        window.add(good=5, bad=1)
    assert not window.tripped, "one of six is four of twenty"
    window.add(good=0, bad=1)
    assert window.tripped and str(window) == "5 bad of its last 20 answers"
    window.forget()
    assert not window.tripped
    window.add(good=10_000, bad=100)
    assert window.bad == 0, "one of a hundred is not five of twenty, however many come between two looks"
    window.add(good=10_000, bad=10_000)
    assert window.bad == 10
    window.add(good=0, bad=10_000)
    assert window.bad == 20


def test_counts_go_on_when_haproxy_begins_again() -> None:
    totals = Totals()
    assert totals.add(Counts(champion=10, candidate=2)) == Counts(champion=10, candidate=2)
    assert totals.add(Counts(champion=15, candidate=2)) == Counts(champion=5)
    assert totals.add(Counts(champion=1)) == Counts(champion=1), "a new process"
    assert totals.now == Counts(champion=16, candidate=2)


def test_a_share_of_nothing_is_no_share() -> None:
    found = counting.shares(Counts(), {})
    assert found["requests"]["percent"] is None and found["tokens"]["percent"] is None
    found = counting.shares(Counts(champion=95, candidate=5), {"champion": 300, "candidate": 100})
    assert found["requests"] == {"candidate": 5, "total": 100, "percent": 5.0, "low": 2.15, "high": 11.18}
    assert found["tokens"] == {"candidate": 100, "total": 400, "percent": 25.0, "low": None, "high": None}


def test_metrics_are_added_up_and_a_restart_takes_nothing_away() -> None:
    page = '# HELP x\nllm_tokens_total{kind="prompt"} 7\nllm_tokens_total{kind="answer"} 3.0\nother 5\nmodel_total_predictions NaN\n'
    assert scraping.scraped(page) == {"tokens": 10.0}
    sums = scraping.Sums()
    for value in (100, 150, 20):
        sums.add("champion", "a", {"tokens": value})
    assert sums.of("tokens") == {"champion": 70.0}


def test_a_key_is_kept_as_its_digest_and_goes_by_name(tmp_path: Path) -> None:
    key, text = keys.new(tmp_path, "ada", tester=True, requests_per_minute=5)
    assert text not in (tmp_path / keys.FILE).read_text() and keys.load(tmp_path) == [key]
    assert keys.map_text([key]) == f"{key.sha256.upper()} {key.id}:tester:5\n"
    with pytest.raises(UsageError, match="already"):
        keys.new(tmp_path, "ada", tester=False, requests_per_minute=0)
    with pytest.raises(UsageError, match="--name"):
        keys.new(tmp_path, "a\nb", tester=False, requests_per_minute=0)
    with pytest.raises(UsageError, match="no key"):
        keys.revoke(tmp_path, "bob")
    assert keys.revoke(tmp_path, key.id) == key and keys.load(tmp_path) == []
    assert keys.difference([key], [], "keys.map") == [f"del map keys.map {key.sha256.upper()}"]
    (tmp_path / keys.FILE).write_text("{")
    with pytest.raises(SlipwayError):
        keys.load(tmp_path)


def test_a_pair_is_read_by_its_lengths_whatever_stands_in_it() -> None:
    question, answer = b'{"a": "\t\n"}', json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode()
    streamed = b'data: {"choices": [{"delta": {"content": "ye"}}]}\n\ndata: {"choices": [{"delta": {"content": "s"}}]}\n\ndata: [DONE]\n\n'
    head = f"r1\tdesk\t200\t1.0.0\t200\t2.0.0\t12\t{len(question)}\t{len(answer)}\t{len(streamed)}\n".encode()
    pair = shadows.parsed(head + question + answer + streamed, keep_texts=False)
    assert pair["same"] and pair["shadow"] == {"status": 200, "version": "2.0.0", "characters": 3, "ms": 12}
    assert "question" not in pair and "yes" not in json.dumps(pair)
    assert shadows.said(b"\xff") == shadows.said(b"[" * 5000) == shadows.said(b'{"choices": 5}') == ""
