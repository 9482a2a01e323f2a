"""A real gateway before a replica that answers for a model and for a composite of it: neither is ever taken for the other."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from gateways import Client, need_haproxy
from made_engine import SERVED, MadeEngine
from pydantic import TypeAdapter
from served import Running, chat, project

from slipway.gateway.config import Config
from slipway.gateway.control import Gateway
from slipway.generating.composite import CompositeEngine
from slipway.generating.composite_config import Composites
from slipway.generating.together import Together

VOTE = {"name": "vote", "kind": "vote", "members": ["desk@1.0.0", "desk@1.1.0"]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    need_haproxy()
    engine = MadeEngine([SERVED, replace(SERVED, version="1.1.0", identity="2e" * 32)])
    composites = CompositeEngine([engine], TypeAdapter(Composites).validate_python([VOTE]))
    replica = Running(project(tmp_path_factory.mktemp("replica")), Together([engine, composites]))  # type: ignore[arg-type]
    address = replica.url.removeprefix("http://")
    models = [{"name": name, "champion": [address]} for name in ("desk", "vote")]
    config = Config.model_validate({"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "models": models})
    gateway = Gateway(config, tmp_path_factory.mktemp("gateway"), lambda _: None)
    gateway.start()
    found = Client(int(str(gateway.routing.listen).rpartition(":")[2]))
    try:
        yield found
    finally:
        found.close()
        gateway.stop(1)
        replica.stop()


def test_each_is_routed_and_answered_as_itself(client: Client) -> None:
    for name in ("desk", "vote"):
        said = client.ask(body=chat("hello", model=name))
        assert (said.status, said.headers["x-slipway-model"]) == (200, name)
        unnamed = client.ask(path=f"/models/{name}/v1/chat/completions", body={"messages": chat("hello")["messages"]})
        assert (unnamed.status, unnamed.headers["x-slipway-model"]) == (200, name)


def test_what_was_sent_to_one_is_never_answered_by_the_other(client: Client) -> None:
    for sent, meant in (("desk", "vote"), ("vote", "desk@1.1.0")):
        said = client.ask(path=f"/models/{sent}/v1/chat/completions", body=chat("hello", model=meant))
        assert said.status == 404 and b"model_not_found" in said.body
