"""What the gateway costs, against HAProxy by hand, nginx and a proxy in Python, in one run on one backend.

    python benchmarks/gateway.py FILE [--seconds 3] [--rounds 3]

The backend is one HAProxy thread that answers every request with the same 90 bytes, without reading anything: nothing that
generates text is so fast, so what is measured is the proxy. The load is wrk (Debian: `apt install wrk`), one thread, a chat
request of 400 bytes, 32 connections that are kept; latency is taken at one connection, where nothing queues. Proxies take
turns, and the median of the rounds counts. Each proxy has one process or thread.

Requests a second of CPU time are what one core can carry: the load and the backend share these cores with the proxy, so
requests a second of wall time say as much about the machine as about the proxy. Both are printed.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import free_port  # noqa: E402

from slipway.gateway import haproxy  # noqa: E402
from slipway.gateway.config import Config  # noqa: E402
from slipway.gateway.control import Gateway  # noqa: E402

MODEL = "support-desk"
BACKEND = """
global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 10s
frontend backend
  bind 127.0.0.1:{port}
  http-request return status 200 content-type application/json string '{{"id":"chatcmpl-1","object":"chat.completion","model":"support-desk","choices":[]}}' hdr x-slipway-version 1.0.0
"""
BY_HAND = """
global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 10s
frontend public
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  server one 127.0.0.1:{backend}
"""
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 1000000;
  upstream replicas {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""
PYTHON = """
import httpx, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
client = httpx.AsyncClient(base_url="http://127.0.0.1:{backend}", limits=httpx.Limits(max_connections=100))
async def forward(request):
    headers = [(name, value) for name, value in request.headers.raw if name != b"host"]
    answer = await client.request(request.method, request.url.path, content=await request.body(), headers=headers)
    return Response(answer.content, answer.status_code, {{"content-type": answer.headers["content-type"]}})
uvicorn.run(Starlette(routes=[Route("/{{path:path}}", forward, methods=["GET", "POST"])]), port={port}, log_level="error")
"""
LUA = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local count = 0
local body = '{"model":"support-desk","messages":[{"role":"system","content":"' .. string.rep("You help people. ", 15) .. '"},{"role":"user","content":"I forgot my password"}],"max_tokens":64}'
function request()
  count = count + 1
  return wrk.format(nil, "/v1/chat/completions", {["x-user-id"] = "user-" .. (count % 1000), ["content-type"] = "application/json"}, body)
end
"""


@dataclass
class Proxy:
    name: str
    port: int
    pid: int


@contextmanager
def running(words: list[str], port: int, folder: Path, **more: Any) -> Iterator[int]:
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, **more)
        try:
            until_it_answers(port)
            yield process.pid
        finally:
            process.kill()
            process.wait()


def until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/v1/x", b"{}"), timeout=2).read()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def gateway(folder: Path, backend: int, candidate: float, threads: int = 1) -> Iterator[Proxy]:
    """Ours, as it is shipped: limits, identity, stickiness, request ids, first-byte judgement."""
    replicas = [f"127.0.0.1:{backend}"]
    config = Config.model_validate(
        {
            "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "threads": threads,
            "limits": {"requests_per_minute": 100_000_000},
            "models": [{"name": MODEL, "champion": replicas, "candidate": replicas}],
        }
    )  # fmt: skip
    made = Gateway(config, folder)
    made.start()
    try:
        made.set_weights(MODEL, {"champion": 100 - candidate, "candidate": candidate}, "benchmark")
        port = int(str(made.routing.listen).rpartition(":")[2])
        yield Proxy(f"gateway, {candidate:g} % candidate", port, made.plane.running() or 0)
    finally:
        made.stop(1)


def cpu_seconds(pid: int) -> float:
    """Of a process and its children."""
    import psutil

    process = psutil.Process(pid)
    return sum(one.cpu_times().user + one.cpu_times().system for one in [process, *process.children(recursive=True)])


def wrk(port: int, script: Path, seconds: float, connections: int) -> dict[str, float]:
    words = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--latency",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}",
    ]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    sockets = re.search(r"Socket errors: (.*)", said)
    if errors or sockets:
        raise SystemExit(f"wrk met errors at port {port}: {said}")
    units = {"us": 1.0, "ms": 1000.0, "s": 1_000_000.0}
    found = {f"p{p}": float(v) * units[u] for p, v, u in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", said, re.M)}
    requests = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if requests is None or rate is None:
        raise SystemExit(f"wrk said something unknown: {said}")
    return {**found, "requests": float(requests[1]), "rate": float(rate[1])}


def measured(proxy: Proxy | None, port: int, script: Path, seconds: float) -> dict[str, float]:
    begun = cpu_seconds(proxy.pid) if proxy else 0.0
    busy = wrk(port, script, seconds, 32)
    spent = cpu_seconds(proxy.pid) - begun if proxy else 0.0
    calm = wrk(port, script, seconds, 1)
    return {
        "rate": busy["rate"], "per_cpu_second": busy["requests"] / spent if spent else 0.0, "p50": calm["p50"], "p99": calm["p99"],
    }  # fmt: skip


Starts = Callable[[], AbstractContextManager[Proxy]]


@contextmanager
def plain(name: str, words: list[str], port: int, folder: Path) -> Iterator[Proxy]:
    with running(words, port, folder) as pid:
        yield Proxy(name, port, pid)


def proxies(folder: Path, backend: int) -> dict[str, Starts]:
    """How to start each; only the one whose turn it is runs."""
    binary = str(haproxy.find().path)
    by_hand, nginx_port, python = free_port(), free_port(), free_port()
    (folder / "by-hand.cfg").write_text(BY_HAND.format(port=by_hand, backend=backend))
    (folder / "nginx.conf").write_text(NGINX.format(port=nginx_port, backend=backend, folder=folder))
    source = PYTHON.format(port=python, backend=backend)
    found: dict[str, Starts] = {
        "HAProxy by hand": lambda: plain("HAProxy by hand", [binary, "-db", "-f", "by-hand.cfg"], by_hand, folder),
        "starlette + httpx": lambda: plain("starlette + httpx", [sys.executable, "-c", source], python, folder),
    }
    for weight in (0, 10, 100):
        found[f"gateway, {weight} % candidate"] = partial(gateway, folder / f"gateway-{weight}", backend, weight)
    if nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        words = [nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
        found["nginx"] = lambda: plain("nginx", words, nginx_port, folder)
    else:
        print("nginx is not installed, so it is left out (Debian: apt install nginx-light)")
    return found


def run(folder: Path, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    backend, script = free_port(), folder / "load.lua"
    script.write_text(LUA)
    (folder / "backend.cfg").write_text(BACKEND.format(port=backend))
    samples: dict[str, list[dict[str, float]]] = {"backend alone": []}
    with running([str(haproxy.find().path), "-db", "-f", "backend.cfg"], backend, folder):
        for _ in range(rounds):
            samples["backend alone"].append(measured(None, backend, script, seconds))
            for name, start in proxies(folder, backend).items():
                with start() as proxy:
                    samples.setdefault(name, []).append(measured(proxy, proxy.port, script, seconds))
    return {
        name: {key: statistics.median(one[key] for one in taken) for key in taken[0]} for name, taken in samples.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk makes the load and is not installed (Debian: apt install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), given.seconds, given.rounds)
    alone, python = found["backend alone"], found["starlette + httpx"]
    print(f"{'':<26}{'requests/s':>12}{'a CPU second':>14}{'× Python':>10}{'p50 added':>12}{'p99 added':>12}")
    for name, one in found.items():
        one["added_p50_us"], one["added_p99_us"] = one["p50"] - alone["p50"], one["p99"] - alone["p99"]
        one["times_python"] = one["per_cpu_second"] / python["per_cpu_second"]
        print(
            f"{name:<26}{one['rate']:>12,.0f}{one['per_cpu_second']:>14,.0f}{one['times_python']:>10.1f}"
            f"{one['added_p50_us']:>9,.0f} µs{one['added_p99_us']:>9,.0f} µs"
        )
    facts = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "seconds": given.seconds, "rounds": given.rounds}
    given.file.write_text(json.dumps({"machine": facts, "found": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
