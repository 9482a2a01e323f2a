"""The engine over HTTP against a real server that speaks vLLM's API, and the command that starts a real vLLM."""

import asyncio
import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import served_models
from made_versions import MODEL
from running_engine import Running, running
from served import Running as Replica
from served import project
from vllm_stand_in import StandIn, stand_in

from slipway.artifacts import Manifest
from slipway.cli.vllm import write
from slipway.errors import SlipwayError, StageError, Transient, UsageError
from slipway.generating import opening, vllm_command
from slipway.generating.opening import Opened
from slipway.generating.tickets import Late
from slipway.generating.vllm_command import Options
from slipway.generating.vllm_engine import VllmEngine
from slipway.serving.config import FILE, ServingConfig
from slipway.serving.engines import open_engine

NAMES = [f"{MODEL}@base", f"{MODEL}@1.0.0", f"{MODEL}@1.1.0"]
PROMPT = tuple(range(20, 30))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = served_models.project(tmp_path_factory.mktemp("vllm") / "a project")
    made.version(whole=False)
    made.version(whole=False)
    return made.root


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in(NAMES) as found:
        yield found


@pytest.fixture
def engine(root: Path, server: StandIn) -> Iterator[Running]:
    with running(VllmEngine(root, ["1.0.0", "1.1.0", "base"], server.url, api_key="a-key")) as found:
        yield found


def test_an_answer_comes_in_pieces_and_says_how_it_ended(engine: Running, server: StandIn) -> None:
    pieces = engine.do(engine.pieces(engine.job(PROMPT, max_tokens=9)))
    assert [(piece.text, piece.tokens, piece.finish) for piece in pieces] == [
        (" w0", 1, None), (" w1", 1, None), (" w2", 1, None), (" w3", 1, None), (" w4", 1, "stop"),
    ]  # fmt: skip
    assert engine.do(engine.pieces(engine.job(PROMPT, max_tokens=3)))[-1].finish == "length"
    assert engine.engine.load()["running"] == 0 and engine.engine.load()["tokens"] == 8


def test_the_server_is_asked_for_what_the_job_says(engine: Running, server: StandIn) -> None:
    chosen = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 4, "stop": ("END",), "presence_penalty": 0.5}
    job = engine.job(PROMPT, "1.1.0", **chosen)
    engine.do(engine.text(job))
    (asked,) = server.asked
    assert asked["model"] == f"{MODEL}@1.1.0" and asked["prompt"] == list(PROMPT) and asked["stream"] is True
    assert {name: asked[name] for name in chosen} == chosen | {"stop": ["END"]}
    end = engine.engine.encode(engine.named("1.0.0"), "<|im_end|>")
    assert asked["stop_token_ids"] == list(end)
    (headers,) = server.headers_seen
    assert headers["authorization"] == "Bearer a-key" and headers["x-request-id"] == job.id


def test_prompts_are_those_of_the_engine_in_this_process(engine: Running) -> None:
    served = engine.named("1.0.0")
    text = "<|im_start|>user\na refund<|im_end|>\n<|im_start|>assistant\n"
    messages = [{"role": "user", "content": "a refund"}]
    assert engine.engine.encode(served, messages) == engine.engine.encode(served, text)
    assert served.context == 512


def test_leaving_the_iterator_closes_the_connection(engine: Running, server: StandIn) -> None:
    server.fault, server.words = "slow", 100

    async def first() -> str:
        answer = engine.engine.generate(engine.job(PROMPT, max_tokens=100))
        async for piece in answer:
            await answer.aclose()
            return str(piece.text)
        return ""

    assert engine.do(first()) == " w0"
    assert server.left_early.wait(10), "vLLM would go on for nobody"
    assert engine.engine.load()["running"] == 0


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("500", Transient, "answers 500"), ("503", Transient, "answers 503"), ("429", Transient, "answers 429"),
        ("400", UsageError, "fault 400"), ("401", StageError, "refuses with 401"), ("cut", Transient, "ask again|runs"),
        ("garbage", Transient, "no event"), ("error", Transient, "EngineCore died"), ("abort", Transient, "gave the answer up"),
    ],
)  # fmt: skip
def test_what_goes_wrong_there_has_its_kind_here(
    engine: Running, server: StandIn, fault: str, kind: type[SlipwayError], words: str
) -> None:
    server.fault = fault
    with pytest.raises(kind, match=words) as raised:
        engine.say(PROMPT)
    assert type(raised.value) is kind and "\n" not in str(raised.value)
    server.fault = ""
    assert engine.say(PROMPT) == " w0 w1 w2 w3 w4"


@pytest.mark.parametrize("tail", ["\u2028", "\x85", "\u2029x", "é"])
def test_whatever_stands_in_a_text_cuts_no_event(engine: Running, server: StandIn, tail: str) -> None:
    server.tail = tail
    assert engine.say(PROMPT) == "".join(f" w{at}{tail}" for at in range(5))


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [5]}, {"choices": "abc"}, {"choices": {"a": 1}}, {"choices": [{"text": 5}]},
        {"choices": [{"text": "x"}], "usage": "no"}, {"choices": [{"text": "x"}], "usage": {"completion_tokens": None}},
        {"choices": [{"text": "x" * 1_100_000}]}, [1],
    ],
)  # fmt: skip
def test_an_event_of_another_shape_is_a_server_that_is_ill(engine: Running, server: StandIn, event: Any) -> None:
    server.event = event
    with pytest.raises(Transient, match="ask again"):
        engine.say(PROMPT)
    server.event = None
    assert engine.say(PROMPT) == " w0 w1 w2 w3 w4"


@pytest.mark.parametrize("fault", ["hang", "slow"])
def test_a_deadline_ends_the_wait(engine: Running, server: StandIn, fault: str) -> None:
    server.fault, server.words = fault, 50
    begun = time.monotonic()
    with pytest.raises(Late):
        engine.do(engine.text(engine.job(PROMPT, seconds=0.4, max_tokens=50)))
    assert time.monotonic() - begun < 3


def test_a_server_that_is_gone_is_transient(engine: Running, server: StandIn, root: Path) -> None:
    assert engine.say(PROMPT)
    server.shutdown()
    server.server_close()
    with pytest.raises(Transient, match="does not answer"):
        engine.say(PROMPT)
    again = running(VllmEngine(root, ["1.0.0"], server.url))
    with pytest.raises(Transient, match="does not answer"), again:
        pass


def test_a_server_without_the_version_is_refused_at_the_start(root: Path) -> None:
    with stand_in([f"{MODEL}@1.0.0"]) as server:
        started = running(VllmEngine(root, ["1.0.0", "1.1.0"], server.url))
        with pytest.raises(StageError, match=rf"does not serve {MODEL}@1\.1\.0"), started:
            pass
        with pytest.raises(StageError, match="refuses with 404"):
            asyncio.run(VllmEngine(root, ["1.0.0"], server.url + "/elsewhere").start())


def test_composites_stand_on_vllm_too(root: Path, server: StandIn) -> None:
    """Only what they are made of is asked for; the server hears of no composite."""
    tiers = {"name": "tiers", "kind": "tiered", "default": f"{MODEL}@1.0.0",
             "tiers": [{"when": "user_group == 'staff'", "member": f"{MODEL}@1.1.0"}]}  # fmt: skip
    path = project(root, {"engine": "vllm", "vllm_url": server.url, "composites": [tiers]}) / FILE
    replica = Replica(root, open_engine(root, ServingConfig.load(path), []))
    try:
        for group, member in (("", "1.0.0"), ("staff", "1.1.0")):
            said = replica.chat("hello", model="tiers", max_tokens=9, headers={"x-user-group": group})
            assert said.json()["choices"][0]["message"]["content"] == " w0 w1 w2 w3 w4"
            assert server.asked[-1]["model"] == f"{MODEL}@{member}"
    finally:
        replica.stop()


# --- the command ---


def test_the_command_names_every_version_and_its_verified_files(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "for vllm"
    words = vllm_command.write(root, ["1.0.0", "1.1.0", "base"], place, Options(port=8001, max_model_len=400))
    assert words == [
        "vllm", "serve", str(place / "base"), "--served-model-name", f"{MODEL}@base", "--dtype", "float32",
        "--enable-lora", "--max-loras", "2", "--max-lora-rank", "8",
        "--lora-modules", f"{MODEL}@1.0.0={place / '1.0.0'}", f"{MODEL}@1.1.0={place / '1.1.0'}",
        "--host", "127.0.0.1", "--port", "8001", "--max-model-len", "400", "--generation-config", "vllm",
    ]  # fmt: skip
    script = (place / "serve.sh").read_text()
    assert [word.replace("./", f"{place}/") for word in shlex.split(script.partition("exec ")[2])] == words
    with opening.opened(root, ["1.0.0"]) as (found,):
        assert found.adapter is not None
        assert Manifest.verified(place / "1.0.0") == Manifest.load(found.adapter / "manifest.json")
        assert Manifest.verified(place / "base") == Manifest.load(found.base / "manifest.json")
    with pytest.raises(UsageError, match="is not empty"):
        vllm_command.write(root, ["1.0.0"], place, Options())


def test_the_command_line_writes_it_for_wherever_the_folder_is_mounted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script is run by a stand-in for vLLM, from another place than it was written in."""
    many = {"name": "many", "kind": "vote", "members": [f"{MODEL}@1.0.0", f"{MODEL}@1.1.0"]}
    monkeypatch.chdir(project(root, {"composites": [many]}))
    out, vllm = tmp_path / "for vllm", tmp_path / "bin" / "vllm"
    assert write(["many"], out, Options(host="0.0.0.0"), False) == 0
    said = capsys.readouterr()
    words = shlex.split(said.out)
    assert words[:3] == ["vllm", "serve", str(out / "base")] and "0.0.0.0" in words
    assert [word for word in words if word.startswith(MODEL)] == [
        f"{MODEL}@base", f"{MODEL}@1.0.0={out / '1.0.0'}", f"{MODEL}@1.1.0={out / '1.1.0'}",
    ]  # fmt: skip
    assert "engine: vllm" in said.err and "vllm_url: http://HOST:8000" in said.err
    vllm.parent.mkdir()
    vllm.write_text('#!/bin/sh\nls "$2/config.json" ./1.0.0/adapter_config.json\n')
    vllm.chmod(0o755)
    there = out.rename(tmp_path / "mounted")
    ran = subprocess.run(
        ["sh", str(there / "serve.sh")],
        env={"PATH": f"{vllm.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["./1.0.0/adapter_config.json", "./base/config.json"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(port=0), "--port"), (Options(max_model_len=0), "--max-model-len"), (Options(tensor_parallel=0), "--tensor"),
        (Options(gpu_memory_utilization=90), "--gpu-memory-utilization"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_named(tmp_path: Path, options: Options, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        write(["1.0.0"], tmp_path / "out", options, False)
    assert not (tmp_path / "out").exists()


def _opened(folder: Path, version: str, rank: int, base: str = "base") -> Opened:
    (folder / base).mkdir(parents=True, exist_ok=True)
    (folder / base / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    adapter = folder / version
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "rank_pattern": {"q_proj": rank}}))
    return Opened("desk", version, "i", folder / base, adapter)


def test_ranks_and_bases_are_what_vllm_can_have(tmp_path: Path) -> None:
    words = vllm_command.command([_opened(tmp_path, "1.0.0", 33), _opened(tmp_path, "1.1.0", 8)], Options())
    assert words[words.index("--max-lora-rank") + 1] == "64"
    assert words[words.index("--dtype") + 1] == "bfloat16"
    assert words[words.index("--served-model-name") + 1] == "desk@base"
    with pytest.raises(UsageError, match="rank 600"):
        vllm_command.command([_opened(tmp_path, "2.0.0", 600)], Options())
    with pytest.raises(UsageError, match="stand on 2 bases"):
        vllm_command.command([_opened(tmp_path, "3.0.0", 8), _opened(tmp_path, "3.1.0", 8, "other")], Options())
    plain = Opened("desk", "base", "i", tmp_path / "base", None)
    assert "--enable-lora" not in vllm_command.command([plain], Options())
