"""Is the candidate servable? Asked of a fresh process with a deadline, on a private copy of the very bytes judged."""

import contextlib
import fcntl
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from slipway import atomic, identity, params, settings
from slipway.artifacts import Manifest, Servability
from slipway.errors import StageError
from slipway.scanning import snapshot

PROMPTS = 16
_LAST_LINES = 3


def observe(
    base: Path,
    adapter: Path,
    prepared: Path,
    scratch: Path,
    chosen: params.EvaluateParams,
    deadline_seconds: float,
    prompts: int = PROMPTS,
    say: Callable[[str], None] = print,
) -> Servability:
    """Load time, memory, speed, latency and determinism of a model; StageError where it does not serve in time."""
    identity.identity(base, adapter)  # an adapter of another base is never loaded
    with private_copies(scratch, {"base": base, "adapter": adapter}) as (place, folders):
        request, result = place / "request.json", place / "result.json"
        asked = {name: str(path.resolve()) for name, path in {**folders, "prepared": prepared}.items()}
        atomic.write_json(request, {**asked, "params": chosen.model_dump(mode="json"), "prompts": prompts})
        _run([sys.executable, "-m", "slipway.evaluation.servability", str(request), str(result)], deadline_seconds, say)
        return Servability.load(result)


@contextlib.contextmanager
def private_copies(scratch: Path, folders: Mapping[str, Path]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A place of our own with copies that are what their manifests say; what is loaded is what was checked."""
    place = scratch / "snapshots" / uuid.uuid4().hex
    unborn = place.with_name(f".{place.name}")  # locked before it has its name: nobody can take it for a leftover
    unborn.mkdir(parents=True, mode=0o700)
    with (unborn / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unborn.rename(place)
        _sweep(place.parent)
        try:
            copies = {
                name: snapshot.snapshot(folder, Manifest.verified(folder), place / name)
                for name, folder in folders.items()
            }
            yield place, copies
        finally:
            _discard(place)


def _sweep(snapshots: Path) -> None:
    """Remove copies whose maker was killed: nobody holds their lock."""
    for left in snapshots.glob("[!.]*"):
        with contextlib.suppress(OSError), (left / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _discard(left)


def _discard(place: Path) -> None:
    for folder in place.iterdir():
        snapshot.discard(folder)
    shutil.rmtree(place, ignore_errors=True)


def _run(command: list[str], deadline_seconds: float, say: Callable[[str], None]) -> None:
    """Run the probe; it holds our pipe as its life line, so that it ends with us however we end."""
    here = {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=settings.child({}, here),
    )  # fmt: skip
    assert process.stdout is not None
    late, lines = threading.Event(), []

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(deadline_seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("servability:"):
                say(line.rstrip())
        code = process.wait()
    finally:
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
    if late.is_set():
        raise StageError(
            f"the model did not load and answer in {deadline_seconds:g} s, the most it may take here; "
            f"raise servability_seconds in configs/env, or serve a smaller model"
        )
    if code:
        said = " / ".join(line for line in lines[-_LAST_LINES:] if line.strip()) or "it said nothing"
        raise StageError(f"the model does not serve (exit {code}): {said[-600:]}; see that it loads and answers")
