"""A ledger as releases would leave it, without releases: each event with the rows that it tells, so that all of it verifies."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, insert, update

from slipway import digest
from slipway.artifacts import Json
from slipway.ledger import champions, checkpoints, clock, events, guards, leases, tables
from slipway.ledger.chain import Event, canonical
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.ledger.events import Actor

ROOT = Path(__file__).parents[1]
MODEL = "desk"
ADA, BOB = Actor("Ada Lovelace", "os-user"), Actor("Bob", "key:aa")
EACH = 10  # events of one release


def project(folder: Path) -> Path:
    """A project's configuration, and nothing else."""
    for name in ("configs/env", "configs/policies", "configs/model.yaml", "dvc.yaml", "params.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    return folder


def configure(root: Path, **settings: object) -> None:
    """Set values of configs/env/local.yaml."""
    path = root / "configs" / "env" / "local.yaml"
    kept = [line for line in path.read_text().splitlines() if line.partition(":")[0] not in settings]
    path.write_text("\n".join([*kept, *(f"{name}: {json.dumps(value)}" for name, value in settings.items()), ""]))


@dataclass
class Story:
    """Writes releases, one after the other."""

    root: Path
    database: Database
    vouch: int = 1  # a checkpoint after each so many releases; 0: never
    now: Reading | None = None  # the clocks, where a test sets them
    count: int = 0

    def tell(self, releases: int) -> None:
        """Each a version that is registered, approved, brought to production and promoted: ten events."""
        for _ in range(releases):
            self.count += 1
            with self.database.write() as connection:
                self._release(connection, self.count)
            if self.vouch and self.count % self.vouch == 0:
                checkpoints.write(self.root, self.database)

    def say(
        self,
        connection: Connection,
        kind: str,
        subject: str,
        actor: Actor = ADA,
        reason: str | None = None,
        **payload: object,
    ) -> Event:
        return events.append(connection, kind, MODEL, subject, payload, actor, reason, self.now)

    def _release(self, connection: Connection, number: int) -> None:
        version, release = f"1.{number}.0", f"r{number:06d}"
        self.say(connection, "release_started", release, release=release)
        self.say(connection, "stage_finished", release, release=release, stage="finetune", status="ran")
        about = _about(version, release, number)
        told = {
            key: about[key] for key in ("version", "serial", "identity", "release", "evidence_digest", "policy_digest")
        }
        at = self.say(connection, "model_registered", version, **told).sequence
        _version(connection, about, at)
        self.say(connection, "decision_made", version, act="register", verdict="pass", version=version)
        self._approve(connection, version, release, about)
        for before, after in (("None", "Staging"), ("Staging", "Production")):
            at = self.say(
                connection, "stage_transition", version, version=version, **{"from": before, "to": after}
            ).sequence
            _stage(connection, version, after, at)
        self._promote(connection, version, about["identity"])
        self.say(connection, "traffic_changed", version, weights={version: 100})
        self.say(connection, "release_ended", release, release=release, outcome="promoted")

    def _approve(self, connection: Connection, version: str, release: str, about: Json) -> None:
        name = f"nonce-{version}"
        told = {"id": name, "release": release, "version": version, "evidence_digest": about["evidence_digest"]}
        at = self.say(connection, "approval_given", version, BOB, f"I read the report of {release}", **told).sequence
        row = {"id": name, "model": MODEL, "release": release, "state": "valid", "about": "{}", "sequence": at}
        connection.execute(insert(tables.approvals).values(row))

    def _promote(self, connection: Connection, version: str, identity: str) -> None:
        before = champions.find(connection, MODEL)
        generation = before.generation if before else 0
        told = {"version": version, "identity": identity, "previous": before.version if before else None}
        event = self.say(
            connection, "model_promoted", version, generation=generation + 1, weights={version: 100}, **told
        )
        lease = leases.acquire(connection, f"champion:{MODEL}")
        champions.change(connection, MODEL, version, identity, generation, event, lease)
        leases.release(connection, lease)


def _about(version: str, release: str, serial: int) -> Json:
    digests = ("identity", "evidence_digest", "policy_digest", "data_digest", "base_digest")
    return {name: digest.of_value([name, version]) for name in digests} | {
        "model": MODEL, "version": version, "release": release, "serial": serial, "stage": "None", "state": "present",
        "at": clock.read().text, "mlflow_version": None, "parent": None, "bytes": 10, "metrics": {},
    }  # fmt: skip


def _version(connection: Connection, about: Json, sequence: int) -> None:
    row = about | {"metrics": canonical(about["metrics"]), "about": canonical(about), "stage_sequence": sequence}
    connection.execute(insert(tables.versions).values(row))


def _stage(connection: Connection, version: str, stage: str, sequence: int) -> None:
    here = (tables.versions.c.model == MODEL, tables.versions.c.version == version)
    connection.execute(update(tables.versions).where(*here).values(stage=stage, stage_sequence=sequence))


def unguarded(connection: Connection, is_sqlite: bool) -> None:
    """Switch off what keeps events as they are, as somebody who owns the database can."""
    if is_sqlite:
        for name in ("events_stay", "events_go_to_archives"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
    else:
        connection.exec_driver_sql("ALTER TABLE events DISABLE TRIGGER USER")


def guard(connection: Connection, is_sqlite: bool) -> None:
    """Switch it on again."""
    if not is_sqlite:
        connection.exec_driver_sql("ALTER TABLE events ENABLE TRIGGER USER")
        return
    for statement in guards.SQLITE.values():
        connection.exec_driver_sql(statement)


def rewritten(connection: Connection, first: int, changes: Json) -> None:
    """Change an event and hash it and every later one again, as a forger who knows the form does."""
    from slipway.ledger import chain

    found = list(events.read(connection, first - 1))
    before = found[0].previous
    for event in found:
        changed = Event(
            **{name: getattr(event, name) for name in Event.model_fields}
            | (changes if event.sequence == first else {})
            | {"previous": before}
        )
        before = chain.hash_of(changed)
        row = {
            "payload": canonical(changed.payload),
            "kind": changed.kind,
            "previous": changed.previous,
            "hash": before,
        }
        connection.execute(update(tables.events).where(tables.events.c.sequence == event.sequence).values(row))


def cut(connection: Connection, after: int) -> None:
    connection.execute(delete(tables.events).where(tables.events.c.sequence > after))
