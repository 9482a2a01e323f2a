"""The traffic split, and traffic to try it with."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from slipway.cli.typed.root import Json, app

_gateway = App(name="gateway", help="The traffic split between champion and candidate: run it, look at it, steer it.")
app.command(_gateway)


@_gateway.default
def run_gateway(*, config: Path | None = None, drain_seconds: float = 60, json: Json = False) -> int:
    """Carry the traffic, until Ctrl-C or SIGTERM; then finish what is under way.

    Parameters
    ----------
    config
        Another file than configs/gateway.yaml.
    drain_seconds
        How long requests that are under way may take in the end.
    """
    from slipway.cli import gateway as commands

    return commands.run(config, drain_seconds, json)


@_gateway.command(name="status")
def gateway_status(*, json: Json = False) -> int:
    """Weights, replicas, and the split as it was measured."""
    from slipway.cli import gateway as commands

    return commands.status(json)


@_gateway.command(name="weights")
def gateway_weights(
    candidate: Annotated[float, Parameter(allow_leading_hyphen=True)],
    *,
    reason: str,
    model: str | None = None,
    back: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Give the candidate a share of users, in per cent; the champion has the rest. It takes effect at once.

    Parameters
    ----------
    candidate
        0 is the way back; more than before moves users on.
    reason
        Why; it stands in the ledger.
    model
        Where the gateway has several.
    back
        Let a smaller share than before take users back from the candidate.
    """
    from slipway.cli import gateway as commands

    return commands.weights(candidate, model, reason, back, json)


@_gateway.command(name="add")
def gateway_add(
    address: str, *, arm: Literal["champion", "candidate", "shadow"], model: str | None = None, json: Json = False
) -> int:
    """Let a replica answer for an arm, once it is ready.

    Parameters
    ----------
    address
        HOST:PORT.
    arm
        Whose it is.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("add", address, model, json, arm=arm)


@_gateway.command(name="drain")
def gateway_drain(address: str, *, model: str | None = None, json: Json = False) -> int:
    """Give a replica no new requests; those it has, it finishes.

    Parameters
    ----------
    address
        HOST:PORT.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("drain", address, model, json)


@_gateway.command(name="ready")
def gateway_ready(address: str, *, model: str | None = None, json: Json = False) -> int:
    """Give a drained replica requests again.

    Parameters
    ----------
    address
        HOST:PORT.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("ready", address, model, json)


@_gateway.command(name="remove")
def gateway_remove(address: str, *, model: str | None = None, json: Json = False) -> int:
    """Drain a replica, wait until it has nothing left, and forget it.

    Parameters
    ----------
    address
        HOST:PORT.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("remove", address, model, json)


@_gateway.command(name="reload")
def gateway_reload(*, config: Path | None = None, json: Json = False) -> int:
    """Take another configuration; one that is not sound changes nothing. Weights never need this.

    Parameters
    ----------
    config
        Another file than configs/gateway.yaml.
    """
    from slipway.cli import gateway as commands

    return commands.reload(config, json)


_gateway_keys = App(name="keys", help="API keys: who may ask. They work, or stop working, within a second.")
_gateway.command(_gateway_keys)


@_gateway_keys.command(name="new")
def gateway_keys_new(
    name: str,
    *,
    tester: Annotated[bool, Parameter(negative="")] = False,
    requests_per_minute: int = 0,
    json: Json = False,
) -> int:
    """Make a key; it is shown this once, and kept as SHA-256 alone.

    Parameters
    ----------
    name
        Whose it is.
    tester
        May choose the arm, by the header x-slipway-force.
    requests_per_minute
        A limit of its own; 0: the general one.
    """
    from slipway.cli import gateway as commands

    return commands.new_key(name, tester, requests_per_minute, json)


@_gateway_keys.command(name="list")
def gateway_keys_list(*, json: Json = False) -> int:
    """Every key that is valid."""
    from slipway.cli import gateway as commands

    return commands.list_keys(json)


@_gateway_keys.command(name="revoke")
def gateway_keys_revoke(key: str, *, json: Json = False) -> int:
    """Take a key away.

    Parameters
    ----------
    key
        Its id or its name.
    """
    from slipway.cli import gateway as commands

    return commands.revoke_key(key, json)


@app.command(name="traffic")
def send_traffic(
    prompts: Path,
    *,
    url: str | None = None,
    rate: float = 10,
    seconds: float = 60,
    requests: int = 0,
    stream: float = 0,
    feedback: float = 1,
    users: int = 100,
    max_tokens: int = 0,
    model: str | None = None,
    key: Path | None = None,
    seed: int = 0,
    json: Json = False,
) -> int:
    """Replay prompts through the gateway at a steady rate, grade the answers, and say what became of each.

    Parameters
    ----------
    prompts
        JSON lines: prompt or messages, answer (what is right) and user, the last two as you have them.
    url
        The gateway's address; the one that runs here when not given.
    rate
        Requests a second, sent on time whether or not answers come.
    seconds
        At most so long.
    requests
        At most so many; 0: as many as fit.
    stream
        The part of requests that are streamed, 0 to 1.
    feedback
        The part of answers that are graded and posted to /v1/feedback, where the right one is known.
    users
        So many users, where the file names none.
    max_tokens
        The most an answer may have; 0 is what the server gives.
    model
        Its name; the gateway's first one when not given.
    key
        A file with an API key.
    seed
        Of the order and of what is streamed.
    """
    from slipway.cli import traffic as commands

    return commands.run(
        prompts, url, rate, seconds, requests, stream, feedback, users, max_tokens, model, key, seed, json
    )
