"""A snapshot of OSV's advisories: read and matched here, and served to pip-audit where no network is.

Whatever about it is doubtful (torn, thin, garbage) is an error: an advisory that could not be read may be the one.
"""

import dataclasses
import http.client
import json
import os
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from slipway import atomic
from slipway.errors import StageError, Transient, UsageError
from slipway.observing.packages import Package

Json = dict[str, Any]

_AGAIN = "`slipway advisories fetch` brings a whole one"
URL = "https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip"  # every advisory about Python, renewed daily
CONTROL = Package("jinja2", "2.4.1")  # vulnerable since 2014: who does not know that does not know
LEAST = 1_000  # advisories; OSV has many times as many about Python packages, so fewer are a part of them
_SOCKET_SECONDS = 20
_LARGEST_SNAPSHOT = 4_000_000_000  # bytes
_LARGEST = 50_000_000  # bytes of one advisory, unpacked: nothing real comes near
_LARGEST_QUESTION = 10_000  # bytes


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot knows: advisories about Python packages by package, and how new the newest of them is."""

    path: Path
    newest: datetime
    advisories: int
    about: dict[str, list[Json]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """A snapshot: OSV's `all.zip`, or a folder of advisories."""
        about: dict[str, list[Json]] = {}
        times: list[datetime] = []
        standing: set[str] = set()
        for name, data in _files(path):
            advisory, modified, packages = _advisory(path, name, data)
            if packages:
                times.append(modified)
            if packages and "withdrawn" not in advisory:
                standing.add(advisory["id"])
            for package in packages:
                about.setdefault(package, []).append(advisory)
        if not times:
            raise StageError(f"{path} holds no advisory about a Python package; {_AGAIN}")
        if len(standing) < LEAST:
            raise StageError(
                f"{path} holds {len(standing):,} advisories about Python packages and OSV many thousands, so it is a "
                f"part of them, and what it does not know is not nothing; {_AGAIN}"
            )
        found = cls(path, max(times), len(times), about)
        if not found.answer(CONTROL.name, CONTROL.version):
            raise StageError(
                f"{path} knows no vulnerability of {CONTROL.name} {CONTROL.version}, which has several; {_AGAIN}"
            )
        return found

    def answer(self, name: str, version: str) -> list[Json]:
        """The advisories that concern one version of a package, as pip-audit reads them: its fixes under its name."""
        name = canonicalize_name(name)
        found = []
        for advisory in self.about.get(name, []):
            parts = [part for part in advisory["affected"] if _package_of(part) == name]
            if "withdrawn" not in advisory and any(concerns(part, version) for part in parts):
                found.append(_said(advisory, name, parts))
        return found


def concerns(affected: Json, version: str) -> bool:
    """OSV's rule: a version is affected when it is listed, or lies in a range. What cannot be compared is affected."""
    ranges = [one for one in affected.get("ranges") or [] if one.get("type") in ("ECOSYSTEM", "SEMVER")]
    listed = affected.get("versions") or []
    if not ranges and not listed:
        return True  # no version is named, so none is excepted
    try:
        asked = Version(version)
        return any(_same(asked, one) for one in listed) or any(_within(asked, one["events"]) for one in ranges)
    except (InvalidVersion, KeyError, TypeError):
        return True


def _same(asked: Version, listed: str) -> bool:
    try:
        return asked == Version(listed)
    except InvalidVersion:
        return False  # one of the old spellings that no installed package has any more


def _within(asked: Version, events: list[Json]) -> bool:
    """Walk a range's events in the order of their versions: each switches the versions from there on."""
    limits = [Version(event["limit"]) for event in events if event.get("limit", "*") != "*"]
    if limits and not any(asked < limit for limit in limits):
        return False
    inside = False
    for at, kind in sorted((_version_of(event[kind]), kind) for event in events for kind in event if kind != "limit"):
        if kind == "introduced" and asked >= at:
            inside = True
        elif (kind == "fixed" and asked >= at) or (kind == "last_affected" and asked > at):
            inside = False
    return inside


def _version_of(text: str) -> Version:
    return Version("0.dev0" if text == "0" else text)  # "0": before every version, the first pre-release included


def _said(advisory: Json, name: str, parts: list[Json]) -> Json:
    events = [event for part in parts for one in part.get("ranges") or [] for event in one.get("events") or []]
    fixes = sorted({event["fixed"] for event in events if _is_version(event.get("fixed"))}, key=Version)
    affected = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, *({"fixed": fix} for fix in fixes)]}],
    }
    said = {"id": advisory["id"], "summary": str(advisory.get("summary") or ""), "affected": [affected]}
    return said | {"aliases": [alias for alias in advisory.get("aliases") or [] if isinstance(alias, str)]}


def _is_version(text: object) -> bool:
    try:
        Version(str(text))
    except InvalidVersion:
        return False
    return isinstance(text, str)


# --- reading ---


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every advisory's name and bytes."""
    if path.is_dir():
        yield from ((one.relative_to(path).as_posix(), one.read_bytes()) for one in sorted(path.rglob("*.json")))
        return
    if not path.is_file():
        raise StageError(f"there is no snapshot at {path}; {_AGAIN}")
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".json"):
                    if entry.file_size > _LARGEST:
                        raise StageError(f"{path}: {entry.filename} has {entry.file_size:,} bytes; {_AGAIN}")
                    yield entry.filename, archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted, unknown method
        raise StageError(f"{path} is torn or not a zip file ({error}); {_AGAIN}") from None


def _advisory(path: Path, name: str, data: bytes) -> tuple[Json, datetime, set[str]]:
    """One advisory, when it was last changed, and the Python packages it is about."""
    try:
        advisory = json.loads(data)
        modified = datetime.fromisoformat(advisory["modified"])
        if not isinstance(advisory["id"], str) or not advisory["id"]:
            raise ValueError("its id is no text")
        packages = {package for part in advisory.get("affected") or [] if (package := _package_of(part))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StageError(f"{path}: {name} is not an OSV advisory ({error!r:.80}); {_AGAIN}") from None
    return advisory, modified if modified.tzinfo else modified.replace(tzinfo=UTC), packages


def _package_of(affected: Json) -> str | None:
    """The Python package that a part of an advisory is about; None when it is about something else."""
    package = affected.get("package") or {}
    return canonicalize_name(package["name"]) if str(package.get("ecosystem")).partition(":")[0] == "PyPI" else None


# --- bringing one in ---


def fetch(url: str, to: Path, seconds: float = 900) -> Snapshot:
    """Download a snapshot, read it whole, and only then put it in its place."""
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"--from is {url!r}, not an http(s) address; give one, or copy the file to {to}")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.{os.getpid()}.partial")
    try:
        _download(url, partial, time.monotonic() + seconds)
        found = Snapshot.read(partial)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(to)
        atomic.fsync_folder(to.parent)
    except StageError as error:
        raise StageError(str(error).replace(str(partial), url)) from None
    finally:
        partial.unlink(missing_ok=True)
    return dataclasses.replace(found, path=to)


def _download(url: str, to: Path, deadline: float) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_SOCKET_SECONDS) as answer, to.open("wb") as file:
            while data := answer.read(1 << 20):
                file.write(data)
                if time.monotonic() > deadline or file.tell() > _LARGEST_SNAPSHOT:
                    raise Transient(f"{url} sent {file.tell():,} bytes and no end; try again, or another --from")
            if (length := answer.headers.get("Content-Length")) and file.tell() != int(length):
                raise Transient(f"{url} ended at byte {file.tell()} of {length}; try again")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Transient(
            f"{url} did not answer ({error}); try again where there is a network, or another --from"
        ) from None


# --- serving ---


@contextmanager
def served(snapshot: Snapshot) -> Iterator[str]:
    """The snapshot behind OSV's query interface, on this machine alone; the address to ask."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: else each answer waits for an acknowledgement
        timeout = 30

        def do_POST(self) -> None:
            try:
                length = min(int(self.headers.get("Content-Length", 0)), _LARGEST_QUESTION)
                question = json.loads(self.rfile.read(length))
                found = snapshot.answer(question["package"]["name"], question["version"])
            except (ValueError, KeyError, TypeError):
                self._send(400, {"message": "not a question about one version of one package"})
            else:
                self._send(200, {"vulns": found} if found else {})

        def _send(self, status: int, answer: Json) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the questions are our own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="osv", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
