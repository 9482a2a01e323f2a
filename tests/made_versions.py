"""Registered versions without the pipeline: real bytes in the store, evidence that the shipped policy passes, rows and events.

made = made_versions.project(tmp_path / "a project")
first, second = made.version(), made.version("1.1.0")
made.version(whole=False)       # a few times faster: bytes, signature, row and events; no evidence to judge again
made.stage(first, "Production") # the row and its event, without any judgement
made.serve(first)               # the champion's row and its event, without any judgement
"""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from made_evidence import PATHS, configure
from made_release import make_release
from safetensors.numpy import save_file
from stages.test_gate import NAMES, _made

from slipway import digest, model, records
from slipway.artifacts import (
    Advisories,
    Commit,
    Decision,
    HoldoutUse,
    Licences,
    Lock,
    Manifest,
    ModelCard,
    Observations,
    Servability,
)
from slipway.governance import evidence
from slipway.governance.evidence import Places
from slipway.governance.judge import judge
from slipway.governance.policy import Policy
from slipway.identity import identity
from slipway.ledger import champions, clock, events, leases
from slipway.ledger.champions import Champion
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.registry import keys, receipt, signing, store, versions
from slipway.registry.place import Place
from slipway.registry.versions import File, Stage, Version

ROOT = Path(__file__).parents[1]
MODEL = "support-desk"
ADA, BOB, CAROL = (Actor(name, "os-user") for name in ("ada", "bob", "carol"))
STARTER = ADA  # who asks for the releases here


@dataclass
class Made:
    """A project with registered versions."""

    root: Path
    count: int = 0
    _database: Database | None = field(default=None, repr=False)

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database.of(self.root)
        return self._database

    @property
    def policy(self) -> Path:
        return self.root / "configs" / "policies" / "gates.yaml"

    def path(self, name: str) -> Path:
        return self.root / NAMES[name]

    def find(self, version: Version) -> Version:
        with self.database.read() as connection:
            found = versions.find(connection, version.model, version.version)
        assert found is not None, version.name
        return found

    def kinds(self) -> list[str]:
        """The kind of every event, in order."""
        with self.database.read() as connection:
            return [event.kind for event in events.read(connection)]

    def approvers(self, **changes: Any) -> None:
        """Other values in configs/policies/approvals.yaml."""
        path = self.root / "configs" / "policies" / "approvals.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, allow_unicode=True))

    def key(self, owner: str) -> tuple[str, Path]:
        """A person's key that configs/policies/approvals.yaml lists under their name; its fingerprint and private half."""
        fingerprint, private = keys.new(self.root, owner, self.root / "people" / owner)
        people = yaml.safe_load((self.root / "configs" / "policies" / "approvals.yaml").read_text())["people"]
        known = people.get(owner, {})
        self.approvers(people=people | {owner: known | {"keys": [*known.get("keys", []), fingerprint[:16]]}})
        return fingerprint, private

    # --- making them ------------------------------------------------------------------------------------------------

    def version(
        self,
        number: str | None = None,
        whole: bool = True,
        starter: Actor = STARTER,
        days_ago: float = 0,
        **changes: Any,
    ) -> Version:
        """One more version, entered as the register act enters it; `changes` are values of the artifact."""
        self.count += 1
        number, release = number or f"1.{self.count - 1}.0", f"20260101-000000-{self.count:06x}"
        self._train(number)
        at = clock.read().at - timedelta(days=days_ago)
        folder = self._received(release, number, whole)
        evidence = self._evidence(folder)
        version = self._described(number, release, folder, evidence)
        version = version.model_copy(update={"at": clock.shown(at), **changes})
        store.keep(self.root, version, self.path("adapter"), self.path("base"), folder, evidence)
        self._enter(version, starter)
        return version

    def _train(self, number: str) -> None:
        """Another adapter, and the reports of it."""
        adapter, facts = self.path("adapter"), Manifest.load(self.path("adapter") / digest.MANIFEST).facts
        weights = np.frombuffer(bytes.fromhex(digest.of_bytes(number.encode())), dtype=np.uint8).astype(np.float32)
        save_file({"weight": weights}, adapter / "adapter_model.safetensors")
        Manifest.write(adapter, facts)
        who = identity(self.path("base"), adapter)
        for name in ("scorecard", "benchmarks", "safety"):
            value = json.loads(self.path(name).read_text())
            self.path(name).write_text(json.dumps(value | {"identity": who}))

    def _received(self, release: str, number: str, whole: bool) -> Path:
        """The release's record and the receipt of its register act."""
        folder = receipt.folder_of(self.root, release)
        folder.mkdir(parents=True)
        if whole:
            self._gate()
            record = make_release().model_copy(update={"id": release, "paths": PATHS})
            records.save(self.root, self.root, record)
        self._judged(release, number, folder, whole)
        return folder

    def _gate(self) -> None:
        from slipway.params import GateParams
        from tasks.gate import gate

        gate(GateParams(policy=str(self.policy)), self.policy, **{name: self.path(name) for name in NAMES})

    def _evidence(self, folder: Path) -> dict[str, Path]:
        """Every file that was judged, by the name that the decision gives it."""
        names = Decision.load(folder / receipt.DECISION).evidence
        found = {name: path for name, path in Places.of(self.root, NAMES).files.items() if name in names}
        return found | ({"prepared/card.json": self.path("prepared") / "card.json"} if found else {})

    def _judged(self, release: str, number: str, folder: Path, whole: bool) -> None:
        found = evidence.gather(Places.of(self.root, NAMES)) if whole else None
        about = signing.About(
            model=MODEL,
            version=number,
            release=release,
            evidence_digest=found.digest if found else digest.of_value([release, "evidence"]),
            policy_digest=digest.of_file(self.policy),
        )
        signature = signing.sign(self.root, folder, about, self.path("base"), self.path("adapter"))
        if found is None:
            _light(signature.identity, about).save(folder / receipt.DECISION)
            return
        now = {"signature": signature, "model_digest": receipt.digest_of(self.root / model.FILE)}
        seen = observations(release, found.digest, number).model_copy(update=now)
        seen.save(folder / receipt.OBSERVATIONS)
        decision = judge(found, Policy.load(self.policy), digest.of_file(self.policy), "register", seen)
        against = [(finding.rule, finding.reason) for finding in decision.against]
        assert decision.verdict == "pass", against
        decision.save(folder / receipt.DECISION)
        receipt.seal(Place.of(self.root, release), folder, decision)

    def _described(self, number: str, release: str, folder: Path, evidence: dict[str, Path]) -> Version:
        statement = signing.Statement.load(folder / signing.Statement.FILE)
        files = store.described(store.contents(self.path("adapter"), folder, evidence))
        return Version(
            model=MODEL, version=number, serial=self.count, release=release, at="", identity=statement.identity,
            mlflow_version=None, parent=None, commit=None, tag=f"slipway/{release}",
            evidence_digest=statement.evidence_digest, policy_digest=statement.policy_digest,
            data_digest=digest.of_value("data"), data_version="1.0.0",
            base="models/base", base_digest=store.base_digest(self.path("base")), base_source="tiny",
            metrics={"tuned.exact_match": 0.97, "tuned.loss": 0.1}, params={"finetune": {"method": "lora"}},
            metadata={"name": MODEL}, files=files,
            sources=[File(path="support_desk.jsonl", bytes=3, sha256=digest.of_value("rows"))],
            bytes=sum(file.bytes for file in files), seconds={"finetune": 30.0}, cost=None, report=None,
        )  # fmt: skip

    def _enter(self, version: Version, starter: Actor) -> None:
        with self.database.write() as connection:
            told = {"version": version.version, "serial": version.serial, "identity": version.identity}
            told |= {"release": version.release, "evidence_digest": version.evidence_digest}
            told |= {"policy_digest": version.policy_digest, "mlflow_version": version.mlflow_version}
            events.append(
                connection, "release_started", version.model, version.release, {"release": version.release}, starter
            )
            event = events.append(connection, "model_registered", version.model, version.version, told, starter)
            versions.insert(connection, version, event.sequence)

    # --- where they stand, without a judgement -------------------------------------------------------------------------

    def stage(self, version: Version, stage: Stage) -> None:
        with self.database.write() as connection:
            before = versions.find(connection, version.model, version.version)
            told = {"version": version.version, "from": before.stage if before else "None", "to": stage, "tags": []}
            event = events.append(connection, "stage_transition", version.model, version.version, told, STARTER)
            versions.set_stage(connection, version.model, version.version, stage, event.sequence)

    def serve(self, version: Version) -> Champion:
        """Make it the champion, in Production."""
        if self.find(version).stage != "Production":
            self.stage(version, "Production")
        with self.database.write() as connection:
            now = champions.find(connection, version.model)
            generation = now.generation if now else 0
            told = {"version": version.version, "identity": version.identity, "generation": generation + 1}
            told |= {"previous": now.version if now else None, "weights": {version.version: 100}}
            lease = leases.acquire(connection, f"champion:{version.model}")
            event = events.append(connection, "model_promoted", version.model, version.version, told, STARTER)
            served = champions.change(
                connection, version.model, version.version, version.identity, generation, event, lease
            )
            leases.release(connection, lease)
        return served


def project(root: Path) -> Made:
    """A project without a version yet, its configuration the shipped one."""
    _made(root)
    configure(root)
    return Made(root)


def later(**time: float) -> Reading:
    """The same machine, some time later by all its clocks."""
    now, gone = clock.read(), timedelta(**time)
    return Reading(now.at + gone, now.boot, now.ticks_ms + int(gone.total_seconds() * 1000))


def _light(identity: str, about: signing.About) -> Decision:
    """A pass that rests on nothing."""
    return Decision(
        act="register", verdict="pass", findings=[], pending=[], policy_digest=about.policy_digest, evidence={},
        evidence_digest=about.evidence_digest, observations_digest=None, identity=identity,
    )  # fmt: skip


def observations(release: str, evidence_digest: str, number: str) -> Observations:
    """What the world said, all of it good; unsigned."""
    about = yaml.safe_load((ROOT / "configs" / "model.yaml").read_text())
    about |= {"version": number, "base_model": "tiny", "hyper_parameters": {"method": "lora"}, "metrics": {"loss": 0.1}}
    about |= {"created_at": keys.shown(keys.now()), "dependencies": ["torch==2.13.0"]}
    return Observations(
        release=release, at=keys.shown(keys.now()), evidence_digest=evidence_digest, model=about, model_digest="0" * 64,
        commit=Commit(id="4be1a0c97d5f0e3b2a68c1d7f9e04b5a6c8d7e21", clean=True, changed=[], kept=True),
        lock=Lock(complete=True, missing=[]),
        servability=Servability(
            device="cpu", prompts=16, load_seconds=1.2, peak_bytes=612_000_000, tokens_per_second=410.0,
            latency_p50_seconds=0.11, latency_p95_seconds=0.16, latency_p99_seconds=0.19, deterministic=True,
        ),
        holdout=HoldoutUse(test_digest="1" * 64, looks=1, budget=20),
        advisories=Advisories(source="OSV", as_of="2026-11-20", age_days=0.4, packages=380, vulnerable=[]),
        licences=Licences(
            model="Apache-2.0", base="Apache-2.0", data="CC0-1.0", dependencies=380, conflicts=[], unknown=[]
        ),
        signature=None, card=ModelCard(complete=True, missing=[]), approvals=[], waivers=[], tags=[], missing={},
    )  # fmt: skip
