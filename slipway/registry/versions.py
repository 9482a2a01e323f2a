"""A version: a candidate that was judged and entered, under a number, for good. The ledger has the row; the store the bytes."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints
from sqlalchemy import Connection

from slipway import model as models
from slipway.artifacts import Artifact, Json
from slipway.errors import UsageError
from slipway.ledger import champions
from slipway.ledger import versions as rows

Stage = Literal["None", "Staging", "Production", "Archived"]
State = Literal["present", "cold", "deleted"]
STATES: tuple[State, ...] = ("present", "cold", "deleted")

# Numbers are also the names of folders, tags and aliases: nothing in one may lead elsewhere or hide.
NUMBER = r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}"
Number = Annotated[str, StringConstraints(pattern=f"^{NUMBER}$")]

_SHOWN = 8  # versions that an error names


class File(Artifact):
    path: str
    bytes: int
    sha256: str


class Version(Artifact):
    """`version.json`: everything that is known of a version when it is entered, and how it stands now."""

    FILE: ClassVar[str] = "version.json"

    model: models.Name
    version: Number
    serial: int  # 1, 2, 3, … a model
    release: str
    at: str  # clock.shown
    identity: str
    stage: Stage = "None"
    state: State = "present"
    mlflow_version: str | None
    parent: str | None  # the champion it was compared with; None: the base model
    commit: str | None
    tag: str | None  # that keeps what it was made from
    evidence_digest: str
    policy_digest: str
    data_digest: str
    data_version: str | None  # as people call it (configs/model.yaml)
    base: str
    base_digest: str
    base_source: str
    metrics: dict[str, float]
    params: Json
    metadata: Json  # configs/model.yaml as `register` saw it
    files: list[File]  # adapter/… and receipt/…; of the base only its digest
    sources: list[File]  # the raw data
    parts: dict[str, str] = Field(
        default_factory=dict
    )  # base, tokenizer, chat_template, … → digest: in which part two versions differ
    bytes: int  # of `files`
    seconds: dict[str, float]  # by stage
    cost: float | None  # of those seconds, where configs/env names a price
    report: str | None

    @property
    def name(self) -> str:
        return f"{self.model} {self.version}"


def insert(connection: Connection, version: Version, sequence: int = 0) -> None:
    """Enter a version's row; `sequence`: the event that tells it."""
    rows.add(connection, version.model_dump(mode="json"), sequence)


def find(connection: Connection, model: str, version: str) -> Version | None:
    return _of(rows.find(connection, model, version))


def of_identity(connection: Connection, model: str, identity: str) -> Version | None:
    """The version that already is this very candidate."""
    return _of(rows.of_identity(connection, model, identity))


def listed(
    connection: Connection,
    model: str | None = None,
    stage: Stage | None = None,
    states: Iterable[State] = ("present", "cold"),
) -> list[Version]:
    """All of them in one query, the newest first."""
    return [Version.model_validate(about) for about in rows.listed(connection, model, stage, states)]


def newest(connection: Connection, model: str) -> Version | None:
    """The one that was entered last and is still there."""
    return _of(rows.newest(connection, model, ("present", "cold")))


def set_stage(connection: Connection, model: str, version: str, stage: Stage, sequence: int) -> None:
    rows.change(connection, model, version, {"stage": stage, "stage_sequence": sequence})


def set_state(connection: Connection, model: str, version: str, state: State) -> None:
    rows.change(connection, model, version, {"state": state})


def set_mlflow(connection: Connection, model: str, version: str, mlflow_version: str | None) -> None:
    rows.change(connection, model, version, {"mlflow_version": mlflow_version})


def _of(about: Json | None) -> Version | None:
    return Version.model_validate(about) if about is not None else None


# --- what people call a version ----------------------------------------------------------------------------------------


def resolve(connection: Connection, target: str, model: str | None) -> Version:
    """The version that people mean by 1.2.0, NAME@1.2.0, NAME/1.2.0, champion, previous, latest, #3 or a release's id."""
    for given in (target, model or ""):
        if not given.isprintable():  # half a surrogate pair, a zero byte: databases take neither, and no name has one
            raise UsageError(f"no version {_shown(given)}: names are visible text (`slipway models list`)")
    name, wanted = _parted(target, model)
    if found := _of_any_name(connection, wanted, name):
        return found
    known = rows.models(connection)
    if name is None and len(known) == 1:
        name = known[0]
    if name is None and len(known) > 1:
        raise UsageError(f"{_shown(target)} of which model? Here are {', '.join(known)}; write NAME@{_shown(wanted)}")
    if name is not None and (found := _named(connection, name, wanted)):
        return found
    raise UsageError(_unknown(connection, name, wanted, known))


def _parted(target: str, model: str | None) -> tuple[str | None, str]:
    """Model and version, where a target names both."""
    for sign in ("@", "/"):
        name, found, wanted = target.partition(sign)
        if found:
            return name, wanted
    return model, target


def _named(connection: Connection, model: str, wanted: str) -> Version | None:
    if wanted in ("champion", "previous"):
        serving = champions.find(connection, model)
        number = serving and (serving.version if wanted == "champion" else serving.previous)
        return find(connection, model, number) if number else None
    if wanted == "latest":
        return newest(connection, model)
    if wanted.startswith("#"):
        return (
            _of(rows.of_serial(connection, model, int(wanted[1:])))
            if wanted[1:].isascii() and wanted[1:].isdigit() and len(wanted) < 10
            else None
        )
    return find(connection, model, wanted.removeprefix("v")) or find(connection, model, wanted)


def _of_any_name(connection: Connection, wanted: str, model: str | None) -> Version | None:
    """By a release's id, which no number looks like: YYYYMMDD-HHMMSS-xxxxxx, or the start of it."""
    if len(wanted) < 9 or not wanted[:8].isdigit() or wanted[8] != "-":
        return None
    found = rows.of_release(connection, wanted, model)
    return _of(found[0]) if len(found) == 1 else None


def _unknown(connection: Connection, model: str | None, wanted: str, known: list[str]) -> str:
    if not known:
        return f"no version {_shown(wanted)}: nothing is registered here yet; `slipway run` makes a version"
    if model is None or model not in known:
        return f"no model {_shown(model or wanted)} has a version here; there are {', '.join(known[:_SHOWN])}"
    if wanted in ("champion", "previous"):
        return f"{model} has no {wanted} yet; `slipway models promote` makes a version the champion"
    there = rows.there(connection, model)
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return f"no version {_shown(wanted)} of {model}; there are {', '.join(there[:_SHOWN]) or 'none left'}{more} (`slipway models list`)"


def _shown(text: str) -> str:
    """What somebody typed, on one line and not for ever."""
    return ascii(text)[1:-1][:80]
