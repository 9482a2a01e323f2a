"""The HTTP interface of a replica, over real HTTP and with OpenAI's own client."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from made_engine import FAULTS, SERVED, MadeEngine
from served import Running, chat, events, running


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    changes = {"deadlines": {"answer": {"first_token_seconds": 0.5, "total_seconds": 1.5},
                             "stream": {"first_token_seconds": 0.5, "total_seconds": 1.5}}}  # fmt: skip
    with running(tmp_path_factory.mktemp("api"), changes) as found:
        yield found


@pytest.fixture(scope="module")
def client(replica: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{replica.url}/v1", api_key="a-key", max_retries=0) as found:
        yield found


# --- OpenAI's own client ---


def test_openais_client_gets_a_chat_answer(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(model="desk", messages=[{"role": "user", "content": "hello"}], n=2)
    assert len(got.choices) == 2 and got.choices[0].message.content
    assert got.choices[0].message.content != got.choices[1].message.content, "two are drawn"
    assert got.model == "desk@1.0.0" and got.system_fingerprint == f"fp_{SERVED.identity[:16]}"
    assert got.usage and got.usage.completion_tokens == 8
    assert got.usage.total_tokens == got.usage.prompt_tokens + 8
    assert got.id.startswith("chatcmpl-") and got.id.split(".", 1)[1].startswith("1.0.0.")


def test_openais_client_streams_the_same_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "desk", "messages": [{"role": "user", "content": "stream tokens:6"}], "seed": 7}
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.finish_reason == "stop"
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 6 and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def test_openais_client_streams_several_answers(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "several delay:0.01"}]
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(model="desk", messages=messages, n=3, seed=1, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert len(set(texts.values())) == 3 and all(texts.values())


def test_openais_client_sends_an_answer_back_as_a_part_of_the_conversation(client: openai.OpenAI) -> None:
    first: Any = client.chat.completions.create(model="desk", messages=[{"role": "user", "content": "Hello"}])
    said = first.choices[0].message
    for answer in (said, said.model_dump(), {"role": "assistant", "content": said.content}):
        messages: Any = [{"role": "user", "content": "Hello"}, answer, {"role": "user", "content": "And now?"}]
        got = client.chat.completions.create(model="desk", messages=messages, temperature=0)
        assert got.usage and got.usage.prompt_tokens == len(
            f"<user>Hello\n<assistant>{said.content}\n<user>And now?".encode()
        )


def test_openais_client_gets_text_completions(client: openai.OpenAI) -> None:
    got = client.completions.create(model="desk@1.0.0", prompt=["one", "two"], temperature=0)
    assert [choice.index for choice in got.choices] == [0, 1] and got.choices[0].text != got.choices[1].text
    parts = list(client.completions.create(model="desk", prompt="one", temperature=0, stream=True))
    assert "".join(part.choices[0].text for part in parts) == got.choices[0].text


def test_openais_client_lists_models(client: openai.OpenAI) -> None:
    assert {one.id for one in client.models.list()} == {"desk", "desk@1.0.0"}


def test_openais_client_looks_a_model_up(client: openai.OpenAI) -> None:
    assert client.models.retrieve("desk@1.0.0").id == "desk@1.0.0"
    with pytest.raises(openai.NotFoundError, match="the model other is not served here"):
        client.models.retrieve("other")


def test_openais_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"the model other is not served here; there are desk, desk@1.0.0"):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="desk", messages=[{"role": "user", "content": "x"}], logprobs=True)
    assert refused.value.param == "logprobs" and refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="desk", messages=[{"role": "user", "content": "fault:lost"}])
    with pytest.raises(openai.APIError, match="cannot answer now"):
        messages: Any = [{"role": "user", "content": "fault:lost_midway"}]
        for _ in client.chat.completions.create(model="desk", messages=messages, stream=True):
            pass


def test_openais_client_gets_responses_of_the_second_version(replica: Running) -> None:
    with openai.OpenAI(base_url=f"{replica.url}/v2", api_key="a-key", max_retries=0) as second:
        asked: dict[str, Any] = {"model": "desk", "input": "hi", "instructions": "Be brief.", "temperature": 0}
        whole = second.responses.create(**asked)
        assert whole.output_text and whole.status == "completed" and whole.usage and whole.usage.output_tokens == 4
        seen = list(second.responses.create(**asked, stream=True))
        assert [one.type for one in seen][:: len(seen) - 1] == ["response.created", "response.completed"]
        assert "".join(one.delta for one in seen if one.type == "response.output_text.delta") == whole.output_text
        short = second.responses.create(**asked, max_output_tokens=2)
        assert short.status == "incomplete" and short.incomplete_details
        with (
            pytest.raises(openai.APIError),
            second.responses.create(model="desk", input="fault:cut", stream=True) as it,
        ):
            assert [one.type for one in it][-1] == "response.failed"
            raise openai.APIError("its client reads it as an event", request=None, body=None)  # type: ignore[arg-type]


def test_openais_client_follows_a_response_event_by_event_and_sends_it_back(replica: Running) -> None:
    with openai.OpenAI(base_url=f"{replica.url}/v2", api_key="a-key", max_retries=0) as second:
        with second.responses.stream(model="desk", input="hi", temperature=0) as stream:
            kinds = [event.type for event in stream]
            whole = stream.get_final_response()
        assert whole.output_text and kinds.count("response.output_item.added") == 1
        assert kinds[-3:] == ["response.content_part.done", "response.output_item.done", "response.completed"]
        more: Any = [{"role": "user", "content": "hi"}, *whole.output, {"role": "user", "content": "more"}]
        assert second.responses.create(model="desk", input=more, temperature=0).output_text != whole.output_text


def test_two_names_of_one_version_are_both_known(tmp_path: Any) -> None:
    """`slipway serve desk@champion desk@1.0.0`, where the champion is 1.0.0: the engine has one and says who asked."""
    served = replace(SERVED, facts={"asked_as": ["desk@champion", "desk@latest"]})
    with running(tmp_path, engine=MadeEngine([served, replace(SERVED, version="2.0.0")])) as replica:
        for name in ("desk@champion", "desk@latest", "desk@1.0.0", "desk@2.0.0"):
            assert replica.http.post("/v1/chat/completions", json=chat("x") | {"model": name}).status_code == 200, name


def test_the_typed_target_is_a_name_too(replica: Running) -> None:
    assert replica.http.post("/v1/chat/completions", json=chat("x") | {"model": "desk@champion"}).status_code == 200


# --- what is refused, by name ---


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"top_logprobs": 3}, "top_logprobs", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "not known"),
        ({"min_p": 0.1}, "min_p", "not known"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 17}, "n", "17 answers are asked for (`n` times prompts), at most 16"),
        ({"n": True}, "n", "integer"),
        ({"stop": ["a"] * 9}, "stop", "9 sequences, at most 8"),
        ({"stop": ""}, "stop", "empty"),
        ({"seed": 2**64}, "seed", ""),
        ({"max_tokens": 5000}, "max_tokens", "5,000, at most 4,096"),
        ({"max_tokens": 1999}, "max_tokens", "asks for 1,999; desk@1.0.0 holds 2,000 together"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
        ({"presence_penalty": -3}, "presence_penalty", "greater than or equal to -2"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "Input should be"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "text"),
        ({"messages": [{"role": "user", "content": "refused by the template"}]}, "messages", "the template wants"),
        ({"messages": [{"role": "user", "content": "x" * 2500}]}, None, "2,506 tokens; desk@1.0.0 holds 2,000"),
        ({"messages": [{"role": "user", "content": "x" * 90_000}]}, "messages", "90,000 characters, more than the 80,000"),
        ({"messages": [{"role": "user", "content": "x"}] * 501}, "messages", "501 messages, at most 500"),
        ({"stream_options": {"odd": 1}}, "stream_options.odd", "not supported"),
        ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages.0.name", "not supported"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages.0.tool_calls", "not supported"),
        ({"model": ""}, "model", "at least 1"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(replica: Running, given: dict[str, Any], param: str | None, says: str) -> None:
    got = replica.http.post("/v1/chat/completions", json=chat("x") | given)
    error = got.json()["error"]
    assert got.status_code == 400 and error["type"] == "invalid_request_error", got.text
    assert error["param"] == param and says in error["message"], error


def test_fields_that_change_nothing_are_let_through(replica: Running) -> None:
    harmless = {
        "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "logprobs": False, "logit_bias": {}, "tools": [],
        "tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text"], "user": "ann", "seed": None,
        "stop": None, "top_logprobs": None, "parallel_tool_calls": True, "safety_identifier": "x",
    }  # fmt: skip
    got = replica.chat("x", **harmless)
    assert got.status_code == 200, got.text


def test_a_prompt_of_tokens_is_refused_by_name(replica: Running) -> None:
    got = replica.http.post("/v1/completions", json={"model": "desk", "prompt": [1, 2, 3]})
    assert got.status_code == 400 and "`prompt` as tokens is not supported" in got.json()["error"]["message"]
    asked = {"model": "desk", "prompt": "x", "logprobs": 0}
    assert replica.http.post("/v1/completions", json=asked).json()["error"]["param"] == "logprobs"


def test_without_a_model_the_first_one_answers(replica: Running) -> None:
    got = replica.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}]})
    assert got.status_code == 200 and got.json()["model"] == replica.http.get("/v1/models").json()["data"][0]["id"] + (
        "@" + got.headers["x-slipway-version"]
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "`messages` is missing"),
        (b'{"model":"desk","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
        (b'{"model":"desk","messages":' + b"[" * 40 + b"]" * 40 + b"}", "deeper than 32 levels"),
        (b'{"model":"desk","messages":[' + b"{}," * 30_000 + b"{}]}", "more than 20,000 lists"),
    ],
    ids=["empty", "torn", "nan", "surrogate", "binary", "list", "missing", "very-deep", "deep", "wide"],
)
def test_case_G8_a_body_that_is_no_request_is_refused_fast(replica: Running, body: bytes, says: str) -> None:
    got = replica.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400 and says in got.json()["error"]["message"], got.text[:300]
    assert got.elapsed.total_seconds() < 1


def test_what_was_sent_stands_in_no_error(replica: Running) -> None:
    secret = "s3cret-prompt-text"
    wrong = [{"messages": secret}, {"messages": [{"role": secret, "content": "x"}]}, {"temperature": secret}]
    for given in wrong:
        got = replica.http.post("/v1/chat/completions", json=chat("x") | given)
        assert got.status_code == 400 and secret not in got.text, got.text


def test_nobody_is_sent_to_the_host_that_a_client_names(replica: Running) -> None:
    got = replica.http.post("/v1/chat/completions/", json=chat("x"), headers={"host": "elsewhere.example"})
    assert got.status_code == 404 and "location" not in got.headers


def test_paths_and_methods_that_there_are_not_are_said_in_openais_form(replica: Running) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/", 404)):
        got = replica.http.request(method, path)
        assert got.status_code == status and got.json()["error"]["code"] in ("unknown_url", "method_not_allowed")


# --- faults of the engine: nothing bad is ever sent as an answer ---

_STATUS = {"hang": 504, "hang_after_first": 504, "bug": 500, "bug_midway": 500}


@pytest.mark.parametrize("fault", FAULTS)
def test_case_G1_a_fault_of_the_engine_is_an_error_before_the_first_byte(replica: Running, fault: str) -> None:
    got = replica.chat(f"fault:{fault}")
    assert got.status_code == _STATUS.get(fault, 503), got.text
    assert set(got.json()) == {"error"} and "0xdeadbeef" not in got.text
    assert replica.engine.closed == replica.engine.started, "the engine's iterator is closed"  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", FAULTS)
def test_case_G2_a_stream_that_fails_ends_with_an_error_event_and_no_done(replica: Running, fault: str) -> None:
    midway = fault in ("hang_after_first", "lost_midway", "bug_midway", "cut", "too_many")
    got = replica.chat(f"fault:{fault} streamed", stream=True)
    if not midway:
        assert got.status_code == _STATUS.get(fault, 503) and set(got.json()) == {"error"}
        return
    assert got.status_code == 200
    seen = events(got.text)
    assert seen[-1][0] == "error" and seen[-1][1]["error"]["type"] == "server_error"
    assert "[DONE]" not in got.text and len(seen) >= 3, "what came before was sent"
    assert not any(choice["finish_reason"] for name, data in seen if name is None for choice in data["choices"])


# --- headers, versions, OpenAPI ---


def test_every_answer_says_which_version_gave_it(replica: Running) -> None:
    got = replica.chat("x", headers={"x-request-id": "abc-1.2_3"})
    assert got.headers["x-request-id"] == "abc-1.2_3"
    assert (got.headers["x-slipway-version"], got.headers["x-slipway-model"]) == ("1.0.0", "desk")
    for bad in ("a b", "x" * 65, "ä".encode().decode("latin-1"), ""):
        made = replica.chat("x", headers={"x-request-id": bad.encode("latin-1")}).headers["x-request-id"]  # type: ignore[dict-item]
        assert len(made) == 32 and made != bad
    assert replica.http.post("/v1/chat/completions", json={}).headers["x-slipway-version"] == "1.0.0", "errors too"


def test_both_versions_are_in_the_openapi_document(replica: Running) -> None:
    document = replica.http.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{name}", "/v1/feedback", "/v2/responses",
            "/v2/models", "/v2/models/{name}", "/v2/feedback", "/health", "/ready", "/metrics"} == set(document["paths"])  # fmt: skip
    schema = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "messages" in schema["properties"]


def test_a_deprecated_version_says_so_with_every_answer(tmp_path: Any) -> None:
    old = {"versions": {"v1": {"deprecated": "2026-11-01", "sunset": "2027-05-01"}}}
    with running(tmp_path, old) as replica:
        for got in (
            replica.chat("x"),
            replica.http.post("/v1/chat/completions", json={}),
            replica.http.get("/v1/models"),
        ):
            assert got.headers["deprecation"] == "@1793491200"
            assert got.headers["sunset"] == "Sat, 01 May 2027 00:00:00 GMT"
            assert got.headers["link"] == '</v2>; rel="successor-version"'
        assert "deprecation" not in replica.http.get("/v2/models").headers
        paths = replica.http.get("/openapi.json").json()["paths"]
        assert paths["/v1/models"]["get"]["deprecated"] and "deprecated" not in paths["/v2/models"]["get"]


# --- feedback ---


def test_feedback_is_kept_for_each_user_and_counts_once_for_each_answer(replica: Running) -> None:
    answer = replica.chat("feedback").json()["id"]

    def counted() -> tuple[float, float]:
        return (
            replica.metric('model_correct_predictions{version="1.0.0"}'),
            replica.metric('model_total_predictions{version="1.0.0"}'),
        )

    def say(user: str, **said: Any) -> Any:
        return replica.http.post("/v1/feedback", json={"id": answer, **said}, headers={"x-user-id": user}).json()

    correct, total = counted()
    assert say("ann", label="correct") == {
        "object": "feedback", "id": answer, "model": "desk", "version": "1.0.0", "replaced": False,
    }  # fmt: skip
    assert say("ann", label="correct")["replaced"] is True
    assert counted() == (correct + 1, total + 1), "a repeat counts nothing"
    assert say("ann", score=0.2)["replaced"] is True
    assert counted() == (correct + 1, total + 1), "a changed mind is in the log; the counters never fall"
    for user in ("bob", "cid", "dan"):
        assert say(user, score=1)["replaced"] is False
    assert counted() == (correct + 1, total + 1), "one answer weighs one, whoever has its id"


def test_words_alone_are_no_judgement_and_take_none_away(replica: Running) -> None:
    answer = replica.chat("feedback in words").json()["id"]
    totals = [replica.metric('model_total_predictions{version="1.0.0"}')]
    for said in ({"comment": "nice"}, {"label": "incorrect"}, {"comment": "still"}, {"label": "correct"}):
        replica.http.post("/v1/feedback", json={"id": answer, "user": "ann", **said})
        totals.append(replica.metric('model_total_predictions{version="1.0.0"}'))
    assert [after - totals[0] for after in totals] == [0, 0, 1, 1, 1]


def test_forged_and_foreign_ids_get_no_feedback(replica: Running) -> None:
    answer = replica.chat("feedback").json()["id"]
    head, _, mac = answer.rpartition(".")
    other = head.replace(".1.0.0", ".2.0.0") + "." + mac
    forged = head + "." + base64.urlsafe_b64encode(b"0" * 16).rstrip(b"=").decode()
    for wrong, status in ((other, 403), (forged, 403), ("chatcmpl-123", 404), (answer + "x", 404), ("x" * 150, 404)):
        got = replica.http.post("/v1/feedback", json={"id": wrong, "score": 1})
        assert got.status_code == status, (wrong, got.text)
    assert replica.http.post("/v1/feedback", json={"id": answer}).status_code == 400, "says nothing"
    assert replica.http.post("/v1/feedback", json={"request_id": answer, "score": 1}).status_code == 200
