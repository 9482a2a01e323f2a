"""`slipway init`: a project of one's own, made from this checkout."""

import glob
import json as json_module
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from slipway import git, model, params, pins, settings
from slipway.artifacts import BasePin, ChampionPin, SourcePin
from slipway.errors import StageError, Transient, UsageError

_CHECKOUT = Path(__file__).resolve().parents[2]
_NAME = re.compile(model.NAME)
# Of the sample's model and of no other: only a person can say it.
_LEFT_OPEN = ("intended_use", "licence", "base_licence", "data_licence", "languages", "hardware")
# What belongs to Slipway itself and not to a project of one's own data.
_NOT_COPIED = (".ci/", "benchmarks/", "sample/", "tests/", "CHANGELOG.md", "CONTRIBUTING.md", "README.md")


def init(folder: Path, name: str, data: str, test: str | None, base: str, json: bool) -> int:
    folder = folder.expanduser().resolve()
    _check(folder, name)
    settings.quiet()
    sources = [_data(data, "--data"), _data(test, "--test") if test else None]
    tuned_from = _base(base)
    folder.parent.mkdir(parents=True, exist_ok=True)
    growing = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _copy(_CHECKOUT, growing, whole=data == "sample")
        _configure(growing, name, sources, tuned_from)
        pinned = _pin(growing)
        commit = _begin(growing, f"Begin {name}\n\nMade by `slipway init` from {git.commit(_CHECKOUT)[:12]}.")
        growing.rename(folder)  # an empty folder of that name gives way
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    _tell(folder, name, commit, pinned, json)
    return 0


def _check(folder: Path, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the name {name!r} is not one for a model: letters, digits, `.`, `_` and `-`, 63 at most, "
            f"a letter or digit first; give another with --name"
        )
    if folder.is_relative_to(_CHECKOUT):
        raise UsageError(f"{folder} is inside the checkout {_CHECKOUT}; choose a folder outside it")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; choose a new folder, or empty this one")


def _data(source: str, option: str) -> str:
    """Rows named from where a person stands, as the new project must name them."""
    if "://" in source or source == "sample":
        return source
    path = os.path.normpath(Path.cwd() / Path(source).expanduser())
    if not Path(path).exists() and not glob.glob(path, recursive=True):  # noqa: PTH207 - an absolute pattern
        raise UsageError(f"{option} {source}: nothing at {path}; name a file, folder or glob, s3://… or hf://…")
    return path


def _base(source: str) -> str:
    """A model folder by its full path; anything else is `tiny` or a Hugging Face id."""
    folder = Path.cwd() / Path(source).expanduser()
    if source != "tiny" and folder.is_dir():
        return os.path.normpath(folder)
    if source.startswith(("/", ".", "~")):
        raise UsageError(f"--base {source}: no folder {os.path.normpath(folder)}; name one, a Hugging Face id, or tiny")
    return source


def _copy(checkout: Path, target: Path, whole: bool) -> None:
    """The checkout's tracked files as they stand; what it has made and learnt stays behind."""
    left_out = ("dvc.lock", *(() if whole else _NOT_COPIED))
    for name in git.tracked(checkout):
        source, copy = checkout / name, target / name
        if name.startswith(left_out) or not os.path.lexists(source):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)


def _configure(project: Path, name: str, sources: list[str | None], base: str) -> None:
    """params.yaml and configs/model.yaml say what the person said; their comments stay."""
    from tasks import _repro

    data, test = sources
    changes = {"ingest.source": data, "ingest.test_source": test, "fetch.base": base}
    if data != "sample":
        changes["prepare.label_pattern"] = None  # the one that stands there reads the sample's answers
        _write(project / "README.md", _README.format(name=name))
    _repro.set_params(project, [f"{key}={json_module.dumps(value)}" for key, value in changes.items()])
    params.load_all(project / "params.yaml")
    author = _asked_git(project.parent, "config", "user.name") or name
    about: dict[str, Any] = {"name": name, "author": author, "team": author}
    if data and data != "sample":
        about |= _of_ones_own(base, data)
    _describe(project / model.FILE, about)
    model.load(project)


def _of_ones_own(base: str, data: str) -> dict[str, Any]:
    """What is known of a model of one's own; the rest is left open, never taken over from the sample's."""
    known = {
        "description": f"{_short(base)} tuned on {_short(data)}",
        "dataset": {"name": _short(data), "version": None},
    }
    return dict.fromkeys(_LEFT_OPEN) | known | {"limitations": [], "compliance_tags": []}


def _short(source: str) -> str:
    """A folder's or file's name alone: where it lies on this machine is nobody else's business."""
    return Path(source).name if Path(source).is_absolute() else source


def _describe(path: Path, about: dict[str, Any]) -> None:
    """Other values in the model's file; its comments between the keys stay."""
    text = path.read_text()
    for key, value in about.items():
        said = f"{key}: {json_module.dumps(value, ensure_ascii=False)}\n"
        parts = re.split(rf"^{key}:.*\n(?:[ \t]+.*\n)*", text, flags=re.MULTILINE)
        if len(parts) != 2:
            raise UsageError(f"{path.name} of the checkout has no key `{key}`; restore it (`git checkout configs`)")
        text = said.join(parts)
    _write(path, text)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _pin(project: Path) -> bool:
    """Pin data and base as they are now; False where a hub or bucket does not answer: the first run pins them then."""
    for name in (SourcePin.FILE, BasePin.FILE, ChampionPin.FILE, "pins/champion.parquet"):
        (project / name).unlink(missing_ok=True)
    try:
        pins.refresh(project, project)
    except Transient:
        return False
    finally:
        shutil.rmtree(project / ".scratch", ignore_errors=True)
    return True


def _asked_git(folder: Path, *words: str) -> str:
    """What git answers, or nothing."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout.strip()


def _begin(project: Path, message: str) -> str:
    """The first commit of a repository of its own, also where nobody told git who they are."""
    name = _asked_git(project.parent, "config", "user.name") or "Slipway"
    email = _asked_git(project.parent, "config", "user.email") or "slipway@localhost"
    quiet = ["-c", f"user.name={name}", "-c", f"user.email={email}", "-c", "commit.gpgsign=false"]
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "--all"],
        [*quiet, "commit", "-q", "--no-verify", "-m", message],
    ):
        done = subprocess.run(["git", *words], cwd=project, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StageError(f"git in {project} said: {' '.join(done.stderr.split())}; look at its configuration")
    return git.commit(project)


def _tell(folder: Path, name: str, commit: str, pinned: bool, json: bool) -> None:
    if json:
        print(json_module.dumps({"folder": str(folder), "name": name, "commit": commit, "pinned": pinned}, indent=2))
        return
    print(f"Made {name} in {folder} (commit {commit[:10]}).")
    if not pinned:
        print("Data or base could not be reached just now; the first run pins them.")
    print(f"Next: cd {shlex.quote(str(folder))} && make run")
    print("      params.yaml has every value; configs/recipes holds settings for larger models.")
    print("      configs/model.yaml says who the model is: what stands open there keeps a release from passing.")


_README = """# {name}

A language model tuned, judged and released by Slipway.

    make run               from data to a judged model
    .venv/bin/slipway doctor   what is installed, reachable and configured

`params.yaml` says what it learns from and how; `configs/model.yaml` says who it is and what it is for;
`configs/policies` says what it must reach. The guide is in `docs/guide`.
"""
