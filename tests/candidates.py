"""A finished release to harm: copies of its workspace in which one thing is wrong, and the judgements over them.

Nothing here talks to a mock: folders are sealed as the stages seal them, validate and gate are the real stages, signatures
are made and verified, dvc.lock and licences are read. Only what the machine measured (latency, advisories) is edited.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from slipway import digest, params
from slipway.artifacts import Decision, Manifest, Observations, Validation
from slipway.errors import Refused, SlipwayError
from slipway.governance import evidence
from slipway.governance.evidence import Places
from slipway.governance.judge import judge
from slipway.governance.policy import Policy
from slipway.identity import identity
from slipway.observing import licences, observations
from slipway.people import waivers
from slipway.registry import keys, signing
from slipway.registry.place import Place
from tasks import _stage

Json = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """How a candidate fared, and everything that spoke against it."""

    verdict: str
    against: frozenset[str]  # rules and checks by name
    words: str

    def named(self, what: str) -> bool:
        return what in self.against or what in self.words


@dataclass
class Candidate:
    """A copy of a release's workspace."""

    root: Path
    release: str

    @classmethod
    def of(cls, released: Path, release: str, folder: Path) -> "Candidate":
        """Everything that is judged, copied; state and caches are left behind."""
        folder.mkdir(parents=True)
        for name in ("data", "models", "reports", "configs", "pins"):
            shutil.copytree(released / name, folder / name, ignore=shutil.ignore_patterns("data_docs", "evals"))
        for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
            shutil.copy2(released / name, folder / name)
        kept = released / ".slipway" / "releases" / release / "register"
        shutil.copytree(kept, folder / "register")
        shutil.copytree(released / ".slipway" / "keys", folder / ".slipway" / "keys")
        return cls(folder, release)

    @cached_property
    def paths(self) -> dict[str, str]:
        return Place.of(self.root, self.release).paths

    def path(self, name: str) -> Path:
        return self.root / self.paths[name]

    # --- the judgements ---------------------------------------------------------------------------------------------

    def _run(self, name: str) -> None:
        """A real stage on this workspace's files."""
        stage = _stage.find(name)
        given = {
            key: self.path(key) for key in (*stage.paths(_stage.Input), *stage.paths(_stage.Output)) if key != "policy"
        }
        if name == "gate":
            given["policy"] = self.policy
        stage.function(params.load(name, self.root / "params.yaml"), **given)

    @property
    def policy(self) -> Path:
        return self.root / "configs" / "policies" / "gates.yaml"

    def validated(self) -> Judged:
        """What `validate` says of the rows."""
        try:
            self._run("validate")
        except Refused as error:
            checks = Validation.load(self.path("validation")).checks
            failed = frozenset(c.expectation for c in checks if not c.passed and c.severity == "critical")
            return Judged("refuse", failed, str(error))
        except SlipwayError as error:
            return Judged("failed", frozenset(), str(error))
        return Judged("pass", frozenset(), "")

    def gated(self) -> Judged:
        """What `gate` says of the evidence."""
        try:
            self._run("gate")
        except SlipwayError as error:
            return Judged("failed", frozenset(), str(error))
        return _judged(Decision.load(self.path("decision")))

    def registered(self, transition: str | None = None, **seen: Any) -> Judged:
        """What `register` says: its own observations, made again where they come from files, edited by `seen`."""
        found = evidence.gather(Places.of(self.root, self.paths))
        observed = self._observed(found.digest, seen)
        decision = judge(found, Policy.load(self.policy), digest.of_file(self.policy), "register", observed, transition)
        return _judged(decision)

    def _observed(self, evidence_digest: str, seen: Json) -> Observations:
        place = Place.of(self.root, self.release)
        before = json.loads((self.root / "register" / "observations.json").read_text())
        ask = observations.Asking(self.root)
        facts = ask("model", lambda: observations.model_facts(place, keys.now())) or {}
        signature = ask("signature", self._signature)
        made: Json = {
            "evidence_digest": evidence_digest,
            "model": facts,
            "signature": signature and signature.model_dump(mode="json"),
            "licences": _dumped(ask("licences", lambda: licences.observe(facts, self.path("base"), None))),
            "waivers": [w.model_dump(mode="json") for w in ask("waivers", lambda: waivers.load(self.root)) or []],
            "missing": before["missing"] | ask.missing,
        }
        return Observations.model_validate_json(json.dumps(before | made | seen))

    def _signature(self) -> Any:
        trust = keys.load(self.root / ".slipway" / "keys" / keys.FILE)
        return signing.verify(self.root / "register", self.path("base"), self.path("adapter"), trust, keys.now())

    # --- the harm ---------------------------------------------------------------------------------------------------

    def seal(self, name: str, facts: Json | None = None) -> None:
        """A folder's manifest over what lies there now, as its stage would write it."""
        folder = self.path(name)
        before = Manifest.load(folder / digest.MANIFEST)
        rows = {f.path: f.rows for f in before.files if f.rows is not None}
        for path in folder.glob("rows/*.parquet"):
            rows[path.relative_to(folder).as_posix()] = pyarrow.parquet.read_metadata(path).num_rows
        Manifest.write(folder, before.facts | (facts or {}), rows)

    def rebind(self) -> None:
        """Reports that speak of the model as it lies here now, as if it had been measured again."""
        who = {
            "identity": identity(self.path("base"), self.path("adapter")),
            "base_identity": identity(self.path("base"), None),
        }
        for name in ("scorecard", "benchmarks", "safety"):
            self.edit(name, lambda report: report.update(who))

    def sign(self) -> None:
        """A signature over the model as it lies here now."""
        about = signing.About(
            model="support-desk", version="1.0.0", release=self.release, evidence_digest="0", policy_digest="0"
        )
        (self.root / ".slipway").mkdir(exist_ok=True)
        signing.sign(self.root, self.root / "register", about, self.path("base"), self.path("adapter"))

    def put(self, name: str, file: str, content: bytes, sealed: bool = True) -> None:
        """Put a file into a folder."""
        path = self.path(name) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if sealed:
            self.seal(name)
            if name == "base":
                self.follow()
            self.rebind()

    def follow(self) -> None:
        """The adapter names the base as it lies here now."""
        base = Manifest.load(self.path("base") / digest.MANIFEST)
        self.seal("adapter", {"base_digest": base.digest})

    def edit(self, name: str, change: Callable[[Json], Any]) -> None:
        """Change a JSON report (or, by path, any JSON file)."""
        path = self.path(name) if name in self.paths else self.root / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def rows(self, split: str, change: Callable[[list[Json]], Iterable[Json]]) -> None:
        """Change the prepared rows of a split."""
        path = self.path("prepared") / "rows" / f"{split}.parquet"
        table = pyarrow.parquet.read_table(path)
        changed = pyarrow.Table.from_pylist(list(change(table.to_pylist())), schema=table.schema)
        pyarrow.parquet.write_table(changed, path)
        self.seal("prepared")

    def configure(self, file: str, old: str, new: str) -> None:
        """Replace text in a configuration file."""
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{file} does not hold {old!r}"
        path.write_text(text.replace(old, new, 1))


def _dumped(found: Any) -> Any:
    return found and found.model_dump(mode="json")


def _judged(decision: Decision) -> Judged:
    against = [f for f in decision.findings if f.verdict != "pass" and f.severity != "advise" and not f.waiver]
    return Judged(decision.verdict, frozenset(f.rule for f in against), decision.summary)


def said(row: Json, text: str) -> Json:
    """A prepared row in which the customer says something else."""
    messages = json.loads(row["messages"])
    asked = next(m for m in messages if m["role"] == "user")
    old, asked["content"] = asked["content"], text
    return row | {"messages": json.dumps(messages), "prompt": row["prompt"].replace(old, text)}


def asked(row: Json) -> str:
    """What the customer says in a prepared row."""
    return str(next(m["content"] for m in json.loads(row["messages"]) if m["role"] == "user"))
