"""Advisories: real pip-audit against real servers on this machine, good, broken and silent ones."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import pytest

from slipway.artifacts import Advisories
from slipway.errors import SlipwayError, StageError, Transient, UsageError
from slipway.observing import advisories, osv, packages
from slipway.observing.advisories import CONTROL, Service
from slipway.observing.packages import Package

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NUMPY = Package("numpy", "2.4.6")
RICH = Package("rich", "15.0.0")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine starts processes slowly; only the silent service is waited for in vain."""
    monkeypatch.setattr(advisories, "CONTROL_SECONDS", 60.0)


def advisory(package: str, fixed: str | None = None, **more: Any) -> dict[str, Any]:
    events = [{"introduced": "0"}, *([{"fixed": fixed}] if fixed else [])]
    affected = {"package": {"ecosystem": "PyPI", "name": package}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    about = {"id": f"PYSEC-{package}", "modified": "2026-11-20T08:00:00.123456789Z", "affected": [affected]}
    return about | more


OLD = "2020-01-01T00:00:00Z"
KNOWN = advisory(CONTROL.name, "2.7.2", id="PYSEC-control", modified=OLD)
# What a whole snapshot holds besides: the control, and advisories about packages that nobody has.
REST = (KNOWN, *(advisory(f"unknown-{n}", id=f"PYSEC-rest-{n}", modified=OLD) for n in range(osv.LEAST - 1)))


def snapshot(path: Path, *found: dict[str, Any], rest: Sequence[dict[str, Any]] = REST) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, one in enumerate((*found, *rest)):
            archive.writestr(f"{one['id']}-{number}.json", json.dumps(one))
    return path


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def saying(status: int, body: bytes, silent: Event | None = None) -> Callable[..., BaseHTTPRequestHandler]:
    """A server that gives one answer to everything; with `silent`, none until it is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if silent:
                silent.wait()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler


def at(url: str) -> Service:
    return Service("OSV", ("--vulnerability-service", "osv", "--osv-url", f"{url}/v1/query"))


def ask(path: Path, *online: Service, asked: tuple[Package, ...] = (NUMPY, RICH)) -> Advisories:
    return advisories.audit(asked, path, NOW, online)


# --- D9: a known vulnerability, and every way not to know ---


def test_case_D9_a_known_vulnerability_is_listed_with_its_fix_and_the_date(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "all.zip", advisory("NumPy", "2.5.0", aliases=["CVE-2026-1"]), advisory("other"))
    found = ask(path)
    assert [(one.package, one.version, one.fixed_in) for one in found.vulnerable] == [("numpy", "2.4.6", ["2.5.0"])]
    assert (found.source, found.as_of, found.age_days, found.packages) == ("snapshot", "2026-11-20", 1.17, 2)


def test_case_D9_every_installed_package_is_asked_about_and_a_clean_answer_is_one(tmp_path: Path) -> None:
    found = advisories.audit(packages.installed(), snapshot(tmp_path / "all.zip", advisory("nobody-has-this")), NOW, ())
    assert found.vulnerable == []
    assert found.packages == len(packages.installed()) > 100


def test_case_D9_an_old_snapshot_tells_its_age(tmp_path: Path) -> None:
    found = ask(snapshot(tmp_path / "all.zip", advisory("numpy", "1.0", modified="2026-03-01T00:00:00Z")))
    assert (found.as_of, found.age_days, found.vulnerable) == ("2026-03-01", 265.5, [])


def test_case_D9_a_snapshot_from_the_future_is_not_believed(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "all.zip", advisory("numpy", modified="2027-01-01T00:00:00Z"))
    with pytest.raises(StageError, match="2027-01-01"):
        ask(path)


def test_case_D9_no_service_and_no_snapshot_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(Transient, match=r"no advisory service answered .*no snapshot at .*advisories fetch"):
        ask(tmp_path / "all.zip", at("http://127.0.0.1:9"))


GARBAGE: dict[str, tuple[int, bytes]] = {
    "404": (404, b"not here"),
    "500": (500, b""),
    "HTML": (200, b"<html><body>Please log in</body></html>"),
    "truncated": (200, b'{"vulns": [{"id": "PYSEC-1"'),
    "empty": (200, b"{}"),  # knows nothing, not even the control
    "a list": (200, b"[]"),
    "no vulnerabilities key": (200, b'{"ok": true}'),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_case_D9_a_service_that_answers_garbage_is_no_answer(kind: str, tmp_path: Path) -> None:
    with serving(saying(*GARBAGE[kind])) as url, pytest.raises(Transient, match=r"OSV: "):
        ask(tmp_path / "all.zip", at(url))


def test_case_D9_a_silent_service_costs_a_short_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisories, "CONTROL_SECONDS", 1.5)
    silent, began = Event(), datetime.now(UTC)
    with serving(saying(200, b"{}", silent)) as url:
        with pytest.raises(Transient, match="no answer in time"):
            ask(tmp_path / "all.zip", at(url), at(url))
        silent.set()
    assert datetime.now(UTC) - began < timedelta(seconds=10)


def test_case_D9_a_service_that_fails_midway_gives_way_to_the_snapshot(tmp_path: Path) -> None:
    """It knows the control and then breaks: what it did not say is not taken for "none"."""
    known = osv.Snapshot.read(snapshot(tmp_path / "known.zip", advisory(CONTROL.name, "2.7.2")))
    path = snapshot(tmp_path / "all.zip", advisory("rich"))

    class Breaks(osv.Snapshot):
        def answer(self, name: str, version: str) -> list[dict[str, Any]]:
            if name == "numpy":
                raise ValueError
            return known.answer(name, version)

    with osv.served(Breaks(path, NOW, 1, {})) as url:
        found = ask(path, Service("OSV", ("--vulnerability-service", "osv", "--osv-url", url)))
    assert (found.source, [one.package for one in found.vulnerable]) == ("snapshot", ["rich"])


def test_case_D9_the_first_service_that_answers_is_believed(tmp_path: Path) -> None:
    known = osv.Snapshot.read(snapshot(tmp_path / "a.zip", advisory(CONTROL.name), advisory("numpy", "3.0")))
    with serving(saying(404, b"")) as dead, osv.served(known) as url:
        found = ask(
            tmp_path / "none.zip", at(dead), Service("second", ("--vulnerability-service", "osv", "--osv-url", url))
        )
    assert (found.source, found.as_of, found.age_days) == ("second", "2026-11-21", 0.0)
    assert [one.package for one in found.vulnerable] == ["numpy"]


BROKEN: dict[str, Callable[[Path], object]] = {
    "HTML": lambda path: path.write_text("<html>sign in</html>"),
    "empty file": lambda path: path.write_bytes(b""),
    "empty zip": lambda path: snapshot(path, rest=()),
    "of another language": lambda path: snapshot(
        path, *({**one, "affected": [{"package": {"ecosystem": "npm", "name": "x"}}]} for one in REST), rest=()
    ),
    "thin": lambda path: snapshot(path, rest=REST[:-1]),
    "one advisory many times": lambda path: snapshot(path, *[advisory("rich")] * 2_000, rest=(KNOWN,)),
    "withdrawn advisories": lambda path: snapshot(
        path, *({**one, "withdrawn": OLD} for one in REST[1:]), rest=(KNOWN,)
    ),
    "without what everybody knows": lambda path: snapshot(path, advisory("rich"), rest=REST[1:]),
    "what everybody knows withdrawn": lambda path: snapshot(
        path, advisory("rich"), {**KNOWN, "withdrawn": OLD}, rest=REST[1:]
    ),
    "a thin folder": lambda path: _folder(path, advisory("rich", "16")),
    "cut": lambda path: path.write_bytes(snapshot(path, advisory("numpy")).read_bytes()[:-30]),
    "flipped": lambda path: path.write_bytes(
        snapshot(path, advisory("numpy")).read_bytes().replace(b"PYSEC-n", b"PYSEC-m", 2)
    ),
    "truncated JSON": lambda path: _zip(path, json.dumps(advisory("numpy"))[:-9]),
    "not an advisory": lambda path: _zip(path, '["numpy"]'),
    "no date": lambda path: _zip(path, json.dumps({**advisory("numpy"), "modified": None})),
    "no id": lambda path: _zip(path, json.dumps({**advisory("numpy"), "id": ""})),
    "nested too deep": lambda path: _zip(path, "[" * 100_000),
    "a folder without advisories": lambda path: path.mkdir(),
}


def _folder(path: Path, *found: dict[str, Any]) -> Path:
    (path / "deep").mkdir(parents=True)
    for one in found:
        (path / "deep" / f"{one['id']}.json").write_text(json.dumps(one))
    return path


def _zip(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PYSEC-1.json", json.dumps(advisory("rich")))
        archive.writestr("PYSEC-2.json", text)


@pytest.mark.parametrize("kind", BROKEN)
def test_case_D9_a_broken_snapshot_is_an_error(kind: str, tmp_path: Path) -> None:
    BROKEN[kind](tmp_path / "all.zip")
    with pytest.raises(StageError, match=re.escape(str(tmp_path / "all.zip"))):
        ask(tmp_path / "all.zip")


def test_case_D9_a_folder_of_advisories_is_a_snapshot_too(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "osv", advisory("rich", "16"), *REST)
    assert [one.id for one in ask(folder).vulnerable] == ["PYSEC-rich"]


def test_nothing_installed_is_nothing_asked(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no installed package"):
        ask(snapshot(tmp_path / "all.zip", advisory("numpy")), asked=())


def test_a_version_that_no_advisory_can_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="'weekly'"):
        ask(snapshot(tmp_path / "all.zip", advisory("numpy")), asked=(Package("ours", "weekly"),))


def test_a_local_build_is_the_release_it_was_built_from(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "all.zip", advisory("torch", "2.13.1"))
    assert [one.version for one in ask(path, asked=(Package("torch", "2.13.0+cpu"),)).vulnerable] == ["2.13.0"]


SAID = {"dependencies": [{"name": "numpy", "version": "2.4.6", "vulns": []}]}


@pytest.mark.parametrize(
    "output",
    [
        "null",
        "[]",
        "{}",
        '{"dependencies": {}}',
        '{"dependencies": [null]}',
        json.dumps({"dependencies": [{"name": "numpy", "skip_reason": "not found"}]}),
        json.dumps({"dependencies": [{"name": "numpy", "version": "2.4.5", "vulns": []}]}),
        json.dumps({"dependencies": [{"name": "numpy", "version": "2.4.6"}]}),
        json.dumps({"dependencies": [{"name": "numpy", "version": "2.4.6", "vulns": [{"id": 1}]}]}),
        json.dumps({"dependencies": [{"name": "numpy", "version": "2.4.6", "vulns": None}]}),
        json.dumps(SAID)[:-1],
    ],
)
def test_case_D9_an_answer_that_leaves_a_package_out_is_no_answer(output: str) -> None:
    with pytest.raises(advisories.NoAnswer):
        advisories.answers(output, [NUMPY])
    assert advisories.answers(json.dumps(SAID), [NUMPY]) == []


# --- OSV's rule ---


def ranged(*events: dict[str, str]) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@pytest.mark.parametrize(
    ("affected", "inside", "outside"),
    [
        (ranged({"introduced": "0"}), ["0.0.1", "99", "1.0rc1", "0.dev1"], []),
        (ranged({"introduced": "0"}, {"fixed": "2.0"}), ["0.1", "1.9", "2.0rc1"], ["2.0", "2.0.0", "2.1"]),
        (ranged({"fixed": "2.0"}, {"introduced": "1.0"}), ["1.0", "1.10"], ["0.9", "2.0"]),  # in any order
        (ranged({"introduced": "1.0"}, {"last_affected": "1.4"}), ["1.0", "1.4"], ["0.9", "1.4.1", "1.5"]),
        (
            ranged({"introduced": "1"}, {"fixed": "1.5"}, {"introduced": "2"}, {"fixed": "2.5"}),
            ["1.2", "2.2"],
            ["0.5", "1.7", "2.5"],
        ),
        (ranged({"introduced": "0"}, {"limit": "3"}), ["2.9"], ["3", "4"]),
        ({"versions": ["1.0", "1.1", "not-a-version"]}, ["1.0.0", "1.1"], ["1.2"]),
        ({"versions": ["9.9"], **ranged({"introduced": "1"}, {"fixed": "2"})}, ["1.5", "9.9"], ["2.0"]),
        ({"versions": ["1.0"], "ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, ["1.0"], ["1.1"]),
        ({}, ["1.0"], []),  # names no version: none is excepted
        (ranged({"introduced": "a-commit"}), ["1.0"], []),  # cannot be compared
        ({"ranges": [{"type": "ECOSYSTEM"}]}, ["1.0"], []),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": 1}]}]}, ["1.0"], []),
    ],
)
def test_which_versions_an_advisory_concerns(affected: dict[str, Any], inside: list[str], outside: list[str]) -> None:
    assert [version for version in inside if not osv.concerns(affected, version)] == []
    assert [version for version in outside if osv.concerns(affected, version)] == []


def test_a_withdrawn_advisory_concerns_nobody(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "all.zip", advisory("numpy", withdrawn="2026-01-01T00:00:00Z"), advisory("rich"))
    assert [one.package for one in ask(path).vulnerable] == ["rich"]


# --- bringing one in ---


def test_a_snapshot_is_fetched_whole_and_used(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    snapshot(tmp_path / "web" / "all.zip", advisory("numpy", "3"))
    to = tmp_path / "state" / "advisories" / "PyPI.zip"
    with serving(partial(Quiet, directory=str(tmp_path / "web"))) as url:
        found = osv.fetch(f"{url}/all.zip", to)
    assert (found.path, found.advisories, f"{found.newest:%Y-%m-%d}") == (to, 1 + osv.LEAST, "2026-11-20")
    assert [one.package for one in ask(to).vulnerable] == ["numpy"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


def _thin() -> bytes:
    with TemporaryDirectory() as folder:
        return snapshot(Path(folder) / "all.zip", advisory("rich"), rest=()).read_bytes()


@pytest.mark.parametrize("answer", [(404, b"gone"), (200, b"<html>sign in</html>"), (200, b""), (200, _thin())])
def test_a_failed_fetch_leaves_the_old_snapshot(answer: tuple[int, bytes], tmp_path: Path) -> None:
    to = snapshot(tmp_path / "all.zip", advisory("rich"))
    before = to.read_bytes()
    with serving(saying(*answer)) as url, pytest.raises(SlipwayError, match=re.escape(url)):
        osv.fetch(f"{url}/all.zip", to)
    assert to.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["all.zip"]


def test_a_download_that_ends_early_is_not_kept(tmp_path: Path) -> None:
    whole = snapshot(tmp_path / "all.zip", advisory("rich")).read_bytes()

    class Cuts(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole) + 10))
            self.end_headers()
            self.wfile.write(whole)

    with serving(Cuts) as url, pytest.raises(Transient, match="ended at byte"):
        osv.fetch(f"{url}/all.zip", tmp_path / "new.zip")
    assert not (tmp_path / "new.zip").exists()


def test_only_web_addresses_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="http"):
        osv.fetch("file:///etc/passwd", tmp_path / "all.zip")


def test_where_the_snapshot_lies_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "configs" / "env" / "local.yaml"
    environment.parent.mkdir(parents=True)
    text = "state: .slipway\nmlflow_uri: null\nprefect_api_url: null\nstage_timeout_seconds: 60\n"
    environment.write_text(text)
    assert advisories.snapshot_of(tmp_path) == tmp_path / ".slipway" / "advisories" / "PyPI.zip"
    environment.write_text(text + "advisories_snapshot: mirror/all.zip\n")
    assert advisories.snapshot_of(tmp_path) == tmp_path / "mirror" / "all.zip"
    monkeypatch.setenv("SLIPWAY_ADVISORIES_SNAPSHOT", "/mnt/osv")
    assert advisories.snapshot_of(tmp_path) == Path("/mnt/osv")
