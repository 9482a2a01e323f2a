"""Known vulnerabilities of the installed packages, by pip-audit. No answer is never "none".

PyPI is asked first, then OSV, then a snapshot that lies here. Each is believed only when it knows a vulnerability that
everybody knows, and when it answers for every package.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.version import InvalidVersion, Version

from slipway import settings, strict
from slipway.artifacts import Advisories, Vulnerability
from slipway.errors import StageError, Transient
from slipway.observing import osv, packages
from slipway.observing.packages import Package

CONTROL = osv.CONTROL
CONTROL_SECONDS = 8.0
AUDIT_SECONDS = 50.0  # of all services together; the snapshot, which is here, gets as much again
AT_ONCE = 4  # processes that ask a service: the way there and back is what takes the time
_AHEAD = timedelta(days=1)  # how far a clock may differ
_SOCKET_SECONDS = 5
# Nothing is resolved or installed; whatever is skipped is an error; the answer alone is on standard output.
_ARGUMENTS = "--no-deps --disable-pip --strict --format json --aliases on --desc off --progress-spinner off"


@dataclass(frozen=True)
class Service:
    """Where pip-audit asks, and the arguments that make it ask there."""

    name: str
    arguments: tuple[str, ...]


PYPI = Service("PyPI", ("--vulnerability-service", "pypi"))
OSV = Service("OSV", ("--vulnerability-service", "osv", "--osv-url", "https://api.osv.dev/v1/query"))
ONLINE = (PYPI, OSV)


class NoAnswer(Exception):
    """Why a service's words cannot be taken for an answer."""


def observe(root: Path, now: datetime) -> Advisories:
    """The known vulnerabilities of everything installed, by the first source that really answers."""
    return audit(packages.installed(), snapshot_of(root), now)


def snapshot_of(root: Path) -> Path:
    """Where this environment keeps its snapshot: `advisories_snapshot`, or the state folder."""
    named = settings.load(root).advisories_snapshot
    return root / named if named else settings.state_folder(root) / "advisories" / "PyPI.zip"


def audit(
    installed: Sequence[Package], snapshot: Path, now: datetime, online: Sequence[Service] = ONLINE
) -> Advisories:
    """Ask the services in their order, then the snapshot; an error that says what each of them answered."""
    if not installed:
        raise StageError("no installed package was found, so nothing can be asked about; run `make install`")
    asked = [Package(one.name, _public(one)) for one in installed]
    refused = []
    with Asking() as asking:
        answering = asking.controls(online)
        deadline = time.monotonic() + AUDIT_SECONDS
        for service, why_not in answering:
            try:
                if why_not:
                    raise NoAnswer(why_not)
                return _advisories(service.name, now, now, asked, asking.about(asked, service, deadline, AT_ONCE))
            except NoAnswer as error:
                refused.append(f"{service.name}: {error}")
        return _by_snapshot(asking, snapshot, asked, now, "; ".join(refused))


def _by_snapshot(asking: "Asking", path: Path, asked: Sequence[Package], now: datetime, refused: str) -> Advisories:
    if not path.exists():
        raise Transient(
            f"no advisory service answered ({refused}) and there is no snapshot at {path}; "
            f"`slipway advisories fetch` brings one where there is a network, advisories_snapshot names another place"
        )
    snapshot = osv.Snapshot.read(path)
    if snapshot.newest > now + _AHEAD:
        raise StageError(
            f"{path} holds an advisory of {snapshot.newest:%Y-%m-%d}, which is still to come on {now:%Y-%m-%d}; "
            f"correct this machine's clock, or `slipway advisories fetch`"
        )
    with osv.served(snapshot) as url:
        service = Service("snapshot", ("--vulnerability-service", "osv", "--osv-url", url))
        try:
            found = asking.about(asked, service, time.monotonic() + AUDIT_SECONDS)
        except NoAnswer as error:
            raise StageError(
                f"the advisories of {snapshot.newest:%Y-%m-%d} in {path} gave no answer: {error}"
            ) from None
    return _advisories("snapshot", snapshot.newest, now, asked, found)


def _advisories(
    source: str, as_of: datetime, now: datetime, asked: Sequence[Package], found: list[Vulnerability]
) -> Advisories:
    age = max((now - as_of) / timedelta(days=1), 0.0)
    return Advisories(
        source=source,
        as_of=as_of.astimezone(UTC).strftime("%Y-%m-%d"),
        age_days=round(age, 2),
        packages=len(asked),
        vulnerable=sorted(found, key=lambda one: (one.package, one.id)),
    )


def _public(package: Package) -> str:
    """A version as services know it: a local build (`2.13.0+cpu`) is the release it was built from."""
    try:
        return Version(package.version).public
    except InvalidVersion:
        raise StageError(
            f"{package.name} has the version {package.version!r}, which no advisory can name; install a release of it"
        ) from None


# --- pip-audit ---


class Asking:
    """pip-audit's processes and the folder they work in; all of them end with it."""

    def __enter__(self) -> "Asking":
        self._stack, self._started = ExitStack(), 0
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="advisories-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def controls(self, services: Sequence[Service]) -> list[tuple[Service, str]]:
        """Every service, and why it is not worth asking ("" when it is): one known vulnerability, asked of all at once.

        So a machine without a network knows after one short wait.
        """
        processes = [self._start(service, [CONTROL]) for service in services]
        deadline = time.monotonic() + CONTROL_SECONDS
        return [(service, _why_not(process, deadline)) for service, process in zip(services, processes, strict=True)]

    def about(
        self, asked: Sequence[Package], service: Service, deadline: float, at_once: int = 1
    ) -> list[Vulnerability]:
        """What a service says about every package; NoAnswer when one is left out."""
        shares = [share for start in range(at_once) if (share := asked[start::at_once])]
        processes = [self._start(service, share) for share in shares]
        said = zip(processes, shares, strict=True)
        return [one for process, share in said for one in answers(_output(process, deadline), share)]

    def _start(self, service: Service, asked: Sequence[Package]) -> "subprocess.Popen[str]":
        self._started += 1
        file = self._folder / f"{self._started}.txt"
        file.write_text("".join(f"{one.name}=={one.version}\n" for one in asked))
        words = [sys.executable, "-m", "pip_audit", "--requirement", str(file), *_ARGUMENTS.split()]
        words += ["--timeout", str(_SOCKET_SECONDS), "--cache-dir", str(self._folder / "cache"), *service.arguments]
        # No proxy stands between two processes of one machine; the folder holds no module that could be run instead.
        forced = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} if "127.0.0.1" in " ".join(words) else {}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            words, cwd=self._folder, env=settings.child({}, forced), stdout=pipe, stderr=pipe, text=True
        )
        self._stack.callback(_end, process)
        return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def _output(process: "subprocess.Popen[str]", deadline: float) -> str:
    """What pip-audit wrote, whatever it ended with: an answer is known by its form."""
    try:
        output, said = process.communicate(timeout=max(deadline - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
        process.kill()
        raise NoAnswer("no answer in time") from None
    if not output.strip():
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise NoAnswer(f"pip-audit: {last.strip()[:120]}")
    return output


def _why_not(process: "subprocess.Popen[str]", deadline: float) -> str:
    try:
        known = answers(_output(process, deadline), [CONTROL])
    except NoAnswer as error:
        return str(error)
    return "" if known else f"knows no vulnerability of {CONTROL.name} {CONTROL.version}, which has several"


def answers(output: str, asked: Sequence[Package]) -> list[Vulnerability]:
    """The vulnerabilities in pip-audit's JSON; NoAnswer unless every package that was asked about is in it."""
    try:
        said: dict[str, Any] = {one["name"]: one for one in strict.loads_json(output)["dependencies"]}
        found = []
        for package in asked:
            answer = said.get(package.name, {})
            if "vulns" not in answer or Version(answer["version"]) != Version(package.version):
                raise NoAnswer(
                    f"no answer for {package.name} {package.version} {answer.get('skip_reason', '')}".strip()
                )
            found += [
                Vulnerability(package=package.name, version=package.version, id=one["id"], fixed_in=one["fix_versions"])
                for one in answer["vulns"]
            ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoAnswer(f"pip-audit's answer is garbage ({error!r:.80})") from None
    return found
