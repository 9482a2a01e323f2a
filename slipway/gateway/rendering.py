"""HAProxy's configuration, from ours and from where traffic goes now. Pure: text in, text out.

    public ─▶ NAME:champion ─▶ replicas                       most requests: one hop
           ─▶ NAME:spread ─▶ NAME:direct ─▶ NAME:champion     where it has several replicas: one that fails is made good
           ─▶ NAME:canary ─▶ NAME:candidate ─▶ replicas       judged before the first byte; when it fails …
                          └▶ NAME:failover ─▶ NAME:champion   … the same request goes here
           ─▶ NAME:mirrored ─▶ NAME:direct ─▶ NAME:champion   copied to NAME:shadow afterwards

The hops are Unix sockets in a folder that nobody else can enter. Names, addresses and paths were validated by their types.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slipway.gateway.config import Arm, Config, split
from slipway.gateway.routing import STEPS, Model, Routing, Side, threshold

WEIGHTS, SHADOWS, KEYS = "weights.map", "shadows.map", "keys.map"
CONFIGURATION, LUA, PAIRS = "haproxy.cfg", "shadow.lua", "pairs.sock"
NOWHERE = "127.0.0.1:1"  # where a free slot points to; it is disabled
KINDS = ("stream", "chat", "completion")


@dataclass(frozen=True)
class Rendered:
    """Every file that HAProxy reads, by its name."""

    files: Mapping[str, str]


def render(config: Config, routing: Routing, listen: str, descriptors: int = 20_000) -> Rendered:
    """The whole configuration, listening at an address, for a process that may have so many files open."""
    names = [served.name for served in config.models]
    lines = [*_global(config, descriptors), *_defaults(config), *_public(config, listen, descriptors)]
    for number, name in enumerate(names):
        lines += _model(config, number, name, routing.models[name])
    return Rendered(
        {
            CONFIGURATION: "\n".join(lines) + "\n",
            WEIGHTS: _map({name: threshold(routing.models[name].candidate_weight) for name in names}),
            SHADOWS: _map({name: threshold(routing.models[name].shadow_percent) for name in names}),
        }
    )


def _map(values: Mapping[str, int]) -> str:
    return "".join(f"{name} {value}\n" for name, value in values.items())


def slot(index: int) -> str:
    return f"r{index}"


def milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _error(status: int, message: str, kind: str) -> str:
    """An answer as OpenAI's clients read it, quoted for HAProxy."""
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}})
    return f"content-type application/json string '{body}'"


# --- the process ------------------------------------------------------------------------------------------------------


def _global(config: Config, descriptors: int) -> Iterator[str]:
    limits = config.limits
    whole = limits.body_bytes + limits.header_bytes + 16_384
    yield "global"
    yield "  stats socket unix@api.sock mode 600 level admin expose-fd listeners"
    yield "  stats timeout 1m"
    yield f"  nbthread {config.threads}"
    # A request may take three hops, and each has two ends; a machine that allows fewer files gets fewer connections.
    yield f"  maxconn {_connections(config, descriptors) * 3}"
    yield f"  tune.bufsize {(whole + 4095) // 4096 * 4096}"  # a request is held whole, or it could not be asked again
    yield "  tune.maxrewrite 4096"
    yield "  tune.http.maxhdr 12000"  # so that too many headers get an answer that says so
    yield "  tune.ssl.default-dh-param 2048"
    yield "  ssl-default-bind-options ssl-min-ver TLSv1.2"
    yield f"  lua-load {LUA} {config.shadow.in_flight}"
    yield "  hard-stop-after 10m"


def _connections(config: Config, descriptors: int) -> int:
    return max(10, min(config.limits.connections, (descriptors - 200) // 6))


def _defaults(config: Config) -> Iterator[str]:
    limits, budgets = config.limits, config.budgets
    yield "defaults"
    yield "  mode http"
    yield "  timeout connect 1s"
    yield "  timeout client 1m"
    yield f"  timeout server {milliseconds(budgets.champion)}"
    yield f"  timeout http-request {milliseconds(limits.header_seconds)}"
    yield "  timeout http-keep-alive 1m"
    yield "  timeout queue 5s"
    yield "  option abortonclose"  # who has gone needs no tokens
    yield "  option http-restrict-req-hdr-names delete"  # x_slipway_track is x-slipway-track to many servers
    yield "  option dontlognull"
    yield "  http-check expect status 200"
    for status, message in _ERRORS.items():
        yield f"  http-error status {status} {_error(status, message, 'gateway_error')}"


_ERRORS = {
    400: "the request is not valid HTTP",
    408: "the request took too long to arrive",
    500: "the gateway failed",
    502: "the model gave no valid answer; try again",
    503: "no replica of the model answers; try again",
    504: "the model took too long to answer; try again",
}


# --- what clients reach -----------------------------------------------------------------------------------------------


def _public(config: Config, listen: str, descriptors: int) -> Iterator[str]:
    limits = config.limits
    yield "backend callers"
    yield "  stick-table type string len 64 size 100k expire 2m store http_req_rate(1m)"
    yield "frontend public"
    yield f"  bind {listen}{_tls(config)}"
    yield f"  maxconn {_connections(config, descriptors)}"
    yield "  stick-table type ipv6 size 100k expire 2m store conn_cur"
    yield "  tcp-request connection track-sc1 src"
    yield f"  tcp-request connection reject if {{ sc1_conn_cur gt {limits.connections_per_address} }}"
    yield from _identified(config)
    yield from _answered_here(config)
    yield from _limited(config)
    yield from _admitted(config)
    yield from _whole(config)
    yield from _for_model(config)
    yield "  http-request set-header x-slipway-model %[var(txn.model)]"  # whose answer it counts: no other may come
    yield from _for_user(config)
    yield "  use_backend %[var(txn.model)]:feedback if feedback"
    yield "  use_backend %[var(txn.model)]:canary if candidate"
    yield "  use_backend %[var(txn.model)]:mirrored if METH_POST { var(txn.shadow) -m int gt 0 } { rand(10000),sub(txn.shadow) lt 0 }"
    for served in config.models:
        several = f"{{ nbsrv({served.name}:champion) gt 1 }}"
        yield f"  use_backend {served.name}:spread if {several} {{ var(txn.model) -m str {served.name} }}"
    yield "  use_backend %[var(txn.model)]:champion"


def _tls(config: Config) -> str:
    if not config.certificate:
        return ""
    asked = f" ca-file '{config.client_ca}' verify required" if config.client_ca else ""
    return f" ssl crt '{config.certificate}' alpn h2,http/1.1{asked}"


def _identified(config: Config) -> Iterator[str]:
    """A request's id; and what a client set that only the gateway may say is gone."""
    yield "  http-request set-var(txn.id) req.hdr(x-request-id) if { req.hdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,64}$ }"
    yield "  http-request set-var(txn.id) uuid if !{ var(txn.id) -m found }"
    yield "  http-after-response set-header x-request-id %[var(txn.id)]"
    yield "  http-request set-var(txn.force) req.hdr(x-slipway-force)"
    yield "  http-request del-header x-slipway- -m beg"
    yield "  http-request del-header x-forwarded- -m beg"
    yield "  http-request del-header forwarded"
    yield "  http-request del-header x-real-ip"
    yield "  http-request del-header upgrade"  # a connection that became something else would pass by everything below
    if "header" not in config.identity:
        yield "  http-request del-header x-user-id"  # what does not say here who somebody is, must not say it to a replica
    yield "  http-request set-header x-request-id %[var(txn.id)]"
    yield "  http-request set-header x-forwarded-for %[src]"
    yield f"  http-request set-header x-forwarded-proto {'https' if config.certificate else 'http'}"


def _answered_here(config: Config) -> Iterator[str]:
    ready = f"{{ nbsrv({config.models[0].name}:champion) gt 0 }}"
    yield '  http-request return status 200 content-type application/json string \'{"status":"live"}\' if { path /health }'
    yield f'  http-request return status 200 content-type application/json string \'{{"status":"ready"}}\' if {{ path /ready }} {ready}'
    yield f"  http-request return status 503 {_error(503, 'the champion is not ready', 'not_ready')} if {{ path /ready }}"


def _limited(config: Config) -> Iterator[str]:
    limits = config.limits
    too_many = _error(431, f"more than {limits.headers} headers or {limits.header_bytes} bytes of them", "too_large")
    too_large = _error(413, f"a body may have {limits.body_bytes} bytes", "too_large")
    yield f"  http-request return status 431 {too_many} hdr connection close if {{ req.fhdr_cnt gt {limits.headers + 4} }}"
    yield f"  http-request return status 431 {too_many} hdr connection close if {{ req.hdrs,length gt {limits.header_bytes} }}"
    yield f"  http-request return status 413 {too_large} hdr connection close if {{ req.hdr_val(content-length) gt {limits.body_bytes} }} || {{ req.hdr(content-length),length gt 9 }}"
    yield f"  http-request return status 415 {_error(415, 'send the body as it is, not compressed', 'unsupported')} if {{ req.hdr(content-encoding) -m found }}"
    yield f"  http-request return status 400 {_error(400, 'HTTP/1.0 knows no transfer-encoding', 'bad_request')} hdr connection close if HTTP_1.0 {{ req.hdr(transfer-encoding) -m found }}"
    yield f"  http-request return status 400 {_error(400, 'the host header is missing', 'bad_request')} hdr connection close if HTTP_1.1 !{{ req.hdr(host) -m found }}"
    yield f"  http-request return status 405 {_error(405, 'GET, HEAD, POST and OPTIONS are answered', 'bad_method')} if !METH_GET !METH_POST !METH_OPTIONS"


def _admitted(config: Config) -> Iterator[str]:
    """Who it is, and whether that is too much of it."""
    yield f"  http-request set-var(txn.limit) int({config.limits.requests_per_minute})"
    if config.authentication == "keys":
        who = _error(401, "an API key is needed: authorization: Bearer KEY", "unauthorized")
        yield f"  http-request set-var(txn.key) http_auth_bearer,sha2(256),hex,map_str({KEYS})"
        yield f"  http-request return status 401 {who} hdr www-authenticate Bearer if !{{ var(txn.key) -m found }}"
        yield "  http-request set-var(txn.caller) var(txn.key),field(1,:)"
        yield "  http-request set-header x-slipway-tenant %[var(txn.caller)]"
        yield "  http-request set-var(txn.limit) var(txn.key),field(3,:),add(0) if { var(txn.key),field(3,:) -m int gt 0 }"
    else:
        yield "  http-request set-var(txn.caller) src"
    yield "  http-request track-sc0 var(txn.caller) table callers"
    too_often = _error(429, "too many requests a minute; wait a little", "rate_limited")
    yield f"  http-request return status 429 {too_often} hdr retry-after 5 if {{ sc_http_req_rate(0),sub(txn.limit) gt 0 }}"
    yield "  http-request del-header authorization"


def _whole(config: Config) -> Iterator[str]:
    limits = config.limits
    too_large = _error(413, f"a body may have {limits.body_bytes} bytes", "too_large")
    yield f"  http-request wait-for-body time {milliseconds(limits.body_seconds)}"  # of any method: a GET may have one
    yield f"  http-request return status 413 {too_large} hdr connection close if {{ req.body_size gt {limits.body_bytes} }}"


def _for_model(config: Config) -> Iterator[str]:
    """Which model: by path, then by the body, then the first. A single one is not looked for."""
    first = config.models[0].name
    yield "  acl feedback path_end /feedback"
    # Replicas decode a path, HAProxy does not: what only they would take for another one is none here.
    lost = _error(404, "the API is at /v1 and /v2", "not_found")
    yield f"  http-request return status 404 {lost} if {{ path -m sub % // /. }}"
    if len(config.models) == 1:
        yield f"  http-request replace-path /models/[^/]+(/.*) \\1 if {{ path_beg /models/{first}/ }}"
        yield f"  http-request set-var(txn.model) str({first})"
    else:
        listed = {
            "object": "list",
            "data": [{"id": m.name, "object": "model", "owned_by": "slipway"} for m in config.models],
        }
        yield "  http-request set-var(txn.model) path,field(3,/) if { path_beg /models/ }"
        yield "  http-request replace-path /models/[^/]+(/.*) \\1 if { path_beg /models/ }"
        yield f"  http-request return status 200 content-type application/json string '{json.dumps(listed)}' if {{ path /v1/models }} !{{ var(txn.model) -m found }}"
        whose = _error(
            400, "an id does not say whose answer it is: post feedback to /models/NAME/v1/feedback", "no_model"
        )
        yield f"  http-request return status 400 {whose} if feedback !{{ var(txn.model) -m found }}"
        yield "  http-request set-var(txn.model) req.body,json_query('$.model'),field(1,@) if METH_POST !{ var(txn.model) -m found }"
        yield f"  http-request set-var(txn.model) str({first}) if !{{ var(txn.model) -m found }}"
        unknown = _error(404, "no such model behind this gateway; GET /v1/models lists them", "model_not_found")
        yield f"  http-request return status 404 {unknown} if !{{ var(txn.model),map_str_int({WEIGHTS}) -m found }}"
    yield f"  http-request return status 404 {lost} if !{{ path_beg /v1/ /v2/ }} !{{ path /openapi.json /docs }}"


_USER = {
    "header": ("req.hdr(x-user-id)", "{ req.hdr(x-user-id) -m found }"),
    "cookie": ("req.cook(slipway-user)", "{ req.cook(slipway-user) -m found }"),
    "key": ("var(txn.caller)", "{ var(txn.key) -m found }"),
    "address": ("src", "TRUE"),
}


def _for_user(config: Config) -> Iterator[str]:
    """Which arm: a user's bucket stays, and the weight moves past it."""
    yield f"  http-request set-var(txn.threshold) var(txn.model),map_str_int({WEIGHTS},0)"
    yield "  acl split var(txn.threshold) -m int gt 0"  # most of the time nothing is: then nobody's bucket is asked for
    for name in dict.fromkeys([*config.identity, "address"]):
        found, there = _USER[name]
        yield f"  http-request set-var(txn.user) {found} if split !{{ var(txn.user) -m found }} {there}"
    yield f"  http-request set-var(txn.bucket) var(txn.model),concat(:,txn.user,),xxh32(7),mod({STEPS}) if split"
    yield f"  http-request set-var(txn.shadow) var(txn.model),map_str_int({SHADOWS},0)"
    yield "  http-request set-var(txn.arm) str(candidate) if split { var(txn.bucket),sub(txn.threshold) lt 0 }"
    if config.force_arm != "nobody":
        who = "{ var(txn.key),field(2,:) -m str tester }" if config.force_arm == "testers" else "TRUE"
        for arm in ("champion", "candidate"):
            yield f"  http-request set-var(txn.arm) str({arm}) if {{ var(txn.force) -m str {arm} }} {who}"
    yield "  acl candidate var(txn.arm) -m str candidate"


# --- one model --------------------------------------------------------------------------------------------------------


def _model(config: Config, number: int, name: str, model: Model) -> Iterator[str]:
    yield from _champion(config, name, model.champion)
    yield from _canary(config, number, name)
    yield from _candidate(config, number, name, model.candidate)
    yield from _hops(number, name)
    yield from _shadow(config, number, name, model.shadow)


def _champion(config: Config, name: str, side: Side) -> Iterator[str]:
    yield f"backend {name}:champion"
    yield "  balance leastconn"
    yield "  http-request set-header x-slipway-track champion"
    yield "  retries 2"
    yield "  option redispatch 1"
    yield "  option httpchk GET /ready"
    yield "  timeout check 2s"
    yield from _slots(config, side, "check inter 500ms fastinter 200ms fall 3 rise 1")


def _canary(config: Config, number: int, name: str) -> Iterator[str]:
    """The candidate first. A server of weight 0 is chosen by name and never by balance, so a retry goes to the other."""
    longest = config.budgets.champion + max(config.budgets.stream, config.budgets.chat, config.budgets.completion)
    yield f"backend {name}:canary"
    yield "  http-request set-header x-slipway-kind completion"
    yield "  http-request set-header x-slipway-kind chat if { path_sub /chat/ }"
    yield "  http-request set-header x-slipway-kind stream if METH_POST { req.body,json_query('$.stream') -m bool }"
    yield f"  timeout server {milliseconds(longest + 1)}"
    yield "  http-reuse always"
    yield "  retries 1"
    yield "  option redispatch 1"
    yield "  retry-on all-retryable-errors"
    yield "  use-server candidate if TRUE"
    yield f"  server candidate unix@c{number}.sock weight 0{_HOP}"
    yield f"  server champion unix@f{number}.sock weight 100{_HOP}"


def _candidate(config: Config, number: int, name: str, side: Side) -> Iterator[str]:
    """What it answers is judged here: late, failing, empty, cut or no JSON is a 502 or 504, for which another is asked."""
    yield f"listen {name}:candidate"
    yield f"  bind unix@c{number}.sock mode 600"
    yield "  balance leastconn"
    yield "  http-request set-var(txn.kind) req.hdr(x-slipway-kind)"
    yield "  http-request set-var(txn.post) bool(true) if METH_POST"
    yield "  http-request del-header x-slipway-kind"
    yield "  http-request set-header x-slipway-track candidate"
    for kind in KINDS:
        yield f"  http-request set-timeout server {milliseconds(getattr(config.budgets, kind))} if {{ var(txn.kind) -m str {kind} }}"
    yield from _judged(config)
    yield "  retries 0"
    yield "  option httpchk GET /ready"
    yield "  timeout check 700ms"
    checks = "check inter 250ms fastinter 100ms fall 2 rise 1 observe layer7 error-limit 5 on-error fastinter"
    yield from _slots(config, side, checks)


def _judged(config: Config) -> Iterator[str]:
    """What is no whole answer becomes a 502: of all errors that the hop before asks another for, the plainest."""
    yield "  acl answer status 200"
    yield "  acl refusal status 400:499"
    yield "  acl streamed res.hdr(content-type) -m beg text/event-stream"
    yield "  acl small res.body_size lt " + str(config.limits.body_bytes)
    yield "  acl ended res.body -m end }"
    yield '  acl ended res.body -m end "}\\n"'
    post = "{ var(txn.post) -m bool }"
    yield "  http-response deny deny_status 502 if { status ge 500 }"  # 501, 507, …: no retry-on knows them
    yield f"  http-response deny deny_status 502 if {post} !answer !refusal"
    for kind in KINDS:
        within = milliseconds(getattr(config.budgets, kind))
        yield f"  http-response wait-for-body time {within} if answer !streamed {{ var(txn.kind) -m str {kind} }}"
    first = milliseconds(config.budgets.stream)
    yield f"  http-response wait-for-body time {first} at-least 1 if answer streamed"  # headers alone are no first byte
    yield f"  http-response deny deny_status 502 if answer {post} {{ res.body_size eq 0 }}"
    # The end of the message, not its length: one in chunks has none, and may be cut behind any brace.
    yield f"  http-response deny deny_status 502 if answer !streamed small {post} !{{ internal.htx.has_eom }}"
    yield f"  http-response deny deny_status 502 if answer !streamed small {post} !ended"
    yield f"  http-response deny deny_status 502 if answer !streamed small {post} !{{ res.body,json_query('$.id') -m found }}"


_HOP = " pool-purge-delay 500ms"  # idle ones hold up a stop: half a minute, were they looked at every 5 s as by default
_ASKED_AGAIN = ("  retries 2", "  retry-on conn-failure empty-response 502 503")


def _hops(number: int, name: str) -> Iterator[str]:
    yield f"frontend {name}:failover"
    yield f"  bind unix@f{number}.sock mode 600"
    yield "  http-request del-header x-slipway-kind"
    yield "  http-request set-header x-slipway-failover 1"
    yield "  http-response set-header x-slipway-failover 1"
    yield f"  default_backend {name}:champion"
    yield f"frontend {name}:direct"
    yield f"  bind unix@d{number}.sock mode 600"
    yield "  http-request disable-l7-retry if { path_end /feedback }"  # a label is written once, whatever happens
    yield f"  default_backend {name}:champion"
    # Where another replica could answer, a request is kept to be asked again. That copies the whole buffer (half of what a
    # request costs here), so a champion of one replica goes without: nobody would be there to ask.
    yield f"backend {name}:spread"
    yield "  http-reuse always"
    yield from _ASKED_AGAIN
    yield f"  server champion unix@d{number}.sock{_HOP}"
    yield f"backend {name}:feedback"
    yield "  http-reuse never"
    yield f"  server champion unix@d{number}.sock{_HOP}"
    yield f"backend {name}:mirrored"
    yield "  http-request set-var(txn.body) req.body"
    yield f"  http-request set-var(txn.shadow_socket) str(s{number}.sock)"
    yield "  http-request set-var(txn.path) path"
    yield "  filter lua.mirror"
    yield "  http-reuse always"
    yield from _ASKED_AGAIN
    yield f"  server champion unix@d{number}.sock{_HOP}"


def _shadow(config: Config, number: int, name: str, side: Side) -> Iterator[str]:
    yield f"listen {name}:shadow"
    yield f"  bind unix@s{number}.sock mode 600"
    yield "  balance leastconn"
    yield "  http-request set-header x-slipway-track shadow"
    yield f"  timeout server {milliseconds(config.budgets.chat)}"
    yield "  retries 0"
    yield "  option httpchk GET /ready"
    yield "  timeout check 1s"
    yield from _slots(config, side, "check inter 1s fall 2 rise 1")


def _slots(config: Config, side: Side, checks: str) -> Iterator[str]:
    by_slot = {one.slot: one for one in side.replicas}
    for index in range(1, config.slots + 1):
        if (replica := by_slot.get(index)) is None:
            yield f"  server {slot(index)} {NOWHERE} {checks} disabled"
        else:
            host, port = split(replica.address)
            weight = "" if replica.state == "ready" else " weight 0"
            yield f"  server {slot(index)} {host}:{port} {checks}{weight} init-addr last,libc,none"


def attach(name: str, arm: Arm, index: int, host: str, port: int) -> list[str]:
    """What makes a slot a replica."""
    server = f"{name}:{arm}/{slot(index)}"
    return [f"set server {server} addr {host} port {port}", f"set server {server} state ready"]


def detach(name: str, arm: Arm, index: int) -> list[str]:
    """What makes a slot free again: requests in it are let finish, new ones go elsewhere."""
    return [f"set server {name}:{arm}/{slot(index)} state maint"]
