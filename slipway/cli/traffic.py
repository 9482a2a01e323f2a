"""`slipway traffic`: replay prompts through the gateway and say what became of them."""

import asyncio
import json as json_module
import sys
from pathlib import Path
from typing import Any

from slipway import settings
from slipway.errors import UsageError


def run(
    prompts: Path,
    url: str | None,
    rate: float,
    seconds: float,
    requests: int,
    stream: float,
    feedback: float,
    users: int,
    max_tokens: int,
    model: str | None,
    key: Path | str | None,
    seed: int,
    json: bool,
) -> int:
    from slipway.gateway.traffic import Plan, Tally, Traffic, read

    plan = Plan(rate, seconds, requests, stream, feedback, users, max_tokens, model, seed)
    replay = Traffic(url or _here(), read(prompts), plan, _key(key))

    def progress(tally: Tally) -> None:
        if sys.stderr.isatty():
            print(
                f"\r{tally.sent} sent, {tally.ok} answered, {tally.sent - tally.ok} under way or failed ",
                end="",
                file=sys.stderr,
            )

    summary = asyncio.run(replay.run(progress))
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(json_module.dumps(summary, indent=2) if json else _text(summary))
    return 0 if summary["errors"] == 0 else 1


def _here() -> str:
    """The gateway of this project."""
    from slipway.cli.gateway import folder
    from slipway.gateway import config, routing

    root = settings.find_root()
    kept = routing.load(folder(root))
    if kept is None or kept.listen is None:
        raise UsageError(
            "no gateway has run here; start it with `slipway gateway`, or name one (--url http://HOST:PORT)"
        )
    scheme = "https" if config.load(root).certificate else "http"
    return f"{scheme}://{kept.listen}"


def _key(file: Path | str | None) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read ({error}); --key names a file that holds an API key") from None


def _text(found: dict[str, Any]) -> str:
    def times(name: str) -> str:
        values = found[name]
        return "none" if values is None else ", ".join(f"{key} {value:g} ms" for key, value in values.items())

    lines = {
        "requests": f"{found['sent']} in {found['seconds']:g} s ({found['rate']:g} a second), {found['streams']} streamed",
        "answered": f"{found['ok']}; {found['errors']} not: {found['lost']} lost, {found['cut_streams']} cut, {found['resent']} sent twice, by status {found['statuses']}",
        "to the whole": times("latency_ms"),
        "to first byte": times("first_byte_ms"),
        "versions": ", ".join(f"{name} {count}" for name, count in found["versions"].items()) or "unknown",
        "users": f"{found['users']}; {found['flips']} moved on, {found['flips_back']} moved back; {found['failovers']} answers by the champion in the candidate's place",
        "right": ", ".join(f"{name} {good} of {total}" for name, (good, total) in found["right"].items())
        or "not known",
    }
    if found["problems"]:
        lines["problems"] = ", ".join(f"{name} ({count})" for name, count in found["problems"].items())
    if found["feedback_failed"]:
        lines["feedback"] = f"{found['feedback_failed']} could not be posted"
    return "\n".join(f"{name:<14} {text}" for name, text in lines.items())
