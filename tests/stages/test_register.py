"""The register act on a whole workspace: what was not observed is never a pass, and the receipt is whole or absent."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

import made_evidence
import pyarrow
import pyarrow.parquet
import pytest
import stub_project
import yaml
from made_evidence import RELEASE, Workspace, serves

from slipway import digest, git, model
from slipway.artifacts import Decision, Manifest, Servability, Waiver
from slipway.documents import bom, card
from slipway.errors import Refused, StageError, Transient, UsageError
from slipway.governance import receipt as receipts
from slipway.ledger import events, operations
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.observing import lock, observations, servability
from slipway.people import approvals, waivers
from slipway.people.entering import said_of
from slipway.registry import entry, keys, learned, mirror, receipt, signing, store, versions
from slipway.registry.place import Place
from slipway.registry.versions import Version

FILES = {"observations.json", "decision.json", "README.md", "eval_results.yaml", "bom.json", "statement.json", "model.yaml",
         "dvc.lock", "policy.yaml", "receipt.json"}  # fmt: skip
SIGNATURES = {"statement.sig", "receipt.sig"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    return made_evidence.workspace(tmp_path / "a project", monkeypatch)


def blamed(decision: Decision) -> set[str]:
    return {f.rule for f in decision.findings if f.verdict != "pass" and f.severity != "advise" and not f.waiver}


def test_a_pass_leaves_a_whole_receipt_that_holds(workspace: Workspace) -> None:
    decision = workspace.register()
    assert (decision.verdict, blamed(decision), decision.act) == ("pass", set(), "register")
    assert decision.pending == [] and len(decision.findings) > 55
    seen = workspace.seen
    assert {path.name for path in workspace.kept.iterdir()} == FILES | SIGNATURES
    assert [
        name for name in ("commit", "lock", "holdout", "licences", "signature") if getattr(seen, name) is None
    ] == []
    assert seen.commit and (seen.commit.clean, seen.commit.kept) == (True, True)
    assert seen.evidence_digest == decision.evidence_digest and decision.observations_digest == seen.saved_digest
    assert seen.model["hyper_parameters"]["method"] == "lora" and seen.model["metrics"]["exact_match"] > 0.9
    trust = keys.load(keys.folder(workspace.root) / keys.FILE)
    found = signing.verify(workspace.kept, workspace.path("base"), workspace.path("adapter"), trust, keys.now())
    assert found == seen.signature
    statement = signing.Statement.load(workspace.kept / "statement.json")
    assert (statement.release, statement.evidence_digest) == (RELEASE, decision.evidence_digest)
    assert receipts.recheck(workspace.root, workspace.kept / "decision.json", workspace.policy) == decision


def test_a_second_register_changes_nothing(workspace: Workspace) -> None:
    first = workspace.register()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in workspace.kept.iterdir()}
    assert workspace.register() == first
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in workspace.kept.iterdir()} == before


def test_a_receipt_about_other_evidence_is_never_overwritten(workspace: Workspace) -> None:
    workspace.register()
    before = (workspace.kept / "decision.json").read_bytes()
    workspace.score(390)
    assert workspace.judge(workspace.policy).verdict == "pass"
    with pytest.raises(StageError, match="the receipt of other evidence"):
        workspace.register()
    assert (workspace.kept / "decision.json").read_bytes() == before


def test_what_the_gate_refused_is_not_registered(workspace: Workspace) -> None:
    workspace.score(100)
    assert workspace.judge(workspace.policy).verdict == "refuse"
    with pytest.raises(Refused, match="the gate's verdict is refuse"):
        workspace.register()
    assert not workspace.kept.exists()


def test_what_the_gate_refused_goes_on_where_somebody_has_waived_all_of_it(workspace: Workspace) -> None:
    workspace.edit("scorecard", lambda card: card["slices"][0].update(worse=True))
    assert workspace.judge(workspace.policy).verdict == "refuse"
    with pytest.raises(Refused, match="the gate's verdict is refuse"):
        workspace.register()
    waiver = {"rule": "no-slice-worse", "owner": "Ada", "reason": "Two rows, both known.", "expires": "2099-01-01"}
    (workspace.root / waivers.FILE).write_text(yaml.safe_dump({"waivers": [waiver]}))
    workspace.keep()
    decision = workspace.register()
    assert decision.verdict == "pass" and "1 waived" in decision.summary
    assert [f.waiver for f in decision.findings if f.waiver] == [Waiver.model_validate(waiver)]


@pytest.mark.parametrize("name", ["scorecard", "safety", "policy"])
def test_what_moved_since_the_gate_is_named(workspace: Workspace, name: str) -> None:
    path = workspace.policy if name == "policy" else workspace.path(name)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(StageError, match=rf"{path.name} is {digest.of_file(path)}, the gate judged [0-9a-f]{{64}}"):
        workspace.register()
    assert not workspace.kept.exists()


# --- what could not be observed -------------------------------------------------------------------------------------


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*words: Any, **more: Any) -> Any:
        raise error

    return fail


PARTS = {
    "servability": (servability, "observe"),
    "lock": (lock, "observe"),
    "commit": (observations, "commit"),
    "holdout": (observations, "holdout"),
    "card": (card, "write"),
    "signature": (signing, "sign"),
}


@pytest.mark.parametrize("error", [StageError("the disk is gone"), OSError("the disk is gone"), KeyError("a bug")])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_cannot_be_observed_is_never_a_pass(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> None:
    monkeypatch.setattr(*PARTS[part], failing(error))
    decision = workspace.register()
    assert decision.verdict == "undecided", part
    assert getattr(workspace.seen, part) is None
    assert ("the disk is gone" in workspace.seen.missing[part]) != ("please report it" in workspace.seen.missing[part])
    assert not any((workspace.kept / name).exists() for name in SIGNATURES), "nobody vouches for what did not pass"
    assert workspace.register() == decision, "its receipt is whole all the same"


def test_a_bill_that_cannot_be_written_leaves_the_card_missing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bom, "write", failing(OSError("no space")))
    assert workspace.register().verdict == "undecided"
    assert workspace.seen.missing == {"card": "no space"}


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (serves(deterministic=False), "same-answer-twice"),
        (serves(latency_p95_seconds=9999.0, latency_p99_seconds=9999.0), "latency"),
        (serves(peak_bytes=10**15), "memory"),
    ],
)
def test_a_model_that_serves_badly_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, found: Servability, rule: str
) -> None:
    monkeypatch.setattr(servability, "observe", lambda *words, **more: found)
    decision = workspace.register()
    assert decision.verdict == "refuse"
    assert any(rule in name for name in blamed(decision)), blamed(decision)


def test_a_release_that_its_tag_does_not_keep_is_refused(workspace: Workspace) -> None:
    (workspace.root / "notes.txt").write_text("after the tag")
    decision = workspace.register()
    assert decision.verdict == "refuse"
    seen = workspace.seen.commit
    assert seen and (seen.clean, seen.kept, seen.changed) == (False, False, ["notes.txt"])
    git._git(workspace.root, "tag", "-d", f"slipway/{RELEASE}")
    assert not git.kept(workspace.root, f"slipway/{RELEASE}")


def test_an_unclean_tree_that_is_kept_is_enough(workspace: Workspace) -> None:
    (workspace.root / "notes.txt").write_text("before the tag")
    git._git(workspace.root, "tag", "-d", f"slipway/{RELEASE}")
    git.keep(workspace.root, f"slipway/{RELEASE}", "Release")
    assert workspace.register().verdict == "pass"
    assert workspace.seen.commit and not workspace.seen.commit.clean


def test_a_key_that_is_gone_or_open_signs_nothing(workspace: Workspace) -> None:
    keys.signing_key(workspace.root)
    for path in keys.folder(workspace.root).glob("*.pem"):
        path.chmod(0o644)
    assert workspace.register().verdict == "undecided"
    assert "may be read by others" in workspace.seen.missing["signature"]


# --- who the model is -----------------------------------------------------------------------------------------------


REQUIRED = ["task_type", "description", "author", "team", "licence", "limitations", "hardware",
            "deployment_targets", "dataset"]  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_a_value_that_is_missing_is_named_by_its_rule(workspace: Workspace, name: str) -> None:
    workspace.change(**{name: None})
    decision = workspace.register()
    assert decision.verdict != "pass"
    said = " ".join(f"{f.rule} {f.reason}" for f in decision.findings if f.verdict != "pass" and f.severity != "advise")
    assert name in said, said


def test_missing_compliance_tags_are_refused(workspace: Workspace) -> None:
    workspace.change(compliance_tags=["GDPR"])
    decision = workspace.register()
    assert decision.verdict == "refuse"
    assert any("compliance" in rule for rule in blamed(decision))


def test_a_model_file_that_cannot_be_read_is_no_crash_and_no_pass(workspace: Workspace) -> None:
    (workspace.root / model.FILE).write_text("nmae: desk\n")
    workspace.keep()
    assert workspace.register().verdict != "pass"
    assert "unknown key nmae" in workspace.seen.missing["model"]


HOSTILE = [
    "<script>alert(1)</script>", "{{ 7 * 7 }}", "${jndi:ldap://x}", "a\nb", "a\r\nname: b", "../../etc/passwd", "a b",
    "'; DROP TABLE models; --", "[x](javascript:alert(1))", "a\u202eb", "a\x1b[2Jb", "", "x" * 64, "-rf", ".hidden",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_case_E11_a_name_that_is_more_than_a_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / model.FILE
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"team": "desk", "name": name}, allow_unicode=True))
    with pytest.raises(UsageError, match=r"model\.yaml:\d+: name is "):
        model.load(tmp_path)


@pytest.mark.parametrize("key", ["description", "author", "team", "intended_use"])
@pytest.mark.parametrize("text", ["a\nb", "a\u2028b", "a\x1b[31mb", "a\u202eb", "a\ufeffb", "x" * 1001])
def test_case_E11_text_stands_on_one_visible_line(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / model.FILE
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"name": "desk", key: text}))
    with pytest.raises(UsageError, match=key):
        model.load(tmp_path)


def test_case_E11_hostile_words_are_kept_as_words(workspace: Workspace) -> None:
    """A description may hold anything visible; it reaches the receipt as text, and the card shows it escaped."""
    text = "<script>alert(1)</script> {{ 7 * 7 }} ${x}"
    workspace.change(description=text)
    assert workspace.register().verdict == "pass"
    assert workspace.seen.model["description"] == text
    assert "<script>" not in (workspace.kept / "README.md").read_text()
    assert "49" not in (workspace.kept / "README.md").read_text().split("## ")[0].split("---")[-1]


@pytest.mark.parametrize(
    "text",
    ["version: 1.0", "version: '1'", "version: 01.2.3", "holdout_budget: 0", "holdout_budget: true", "tags: [a]",
     "licence: a<b", "dataset: sample", "hardware: {memory_gb: -1}", "limitations: none", "name: [a]"],
)  # fmt: skip
def test_values_of_another_kind_are_named_with_their_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / model.FILE
    path.parent.mkdir()
    path.write_text(f"team: desk\n{text}\n")
    with pytest.raises(UsageError, match=r"model\.yaml:2: "):
        model.load(tmp_path)


# --- waivers and looks ----------------------------------------------------------------------------------------------


def look(workspace: Workspace, times: int) -> None:
    test_digest = json.loads(workspace.path("scorecard").read_text())["test_digest"]
    folder = workspace.root / ".slipway" / "memory" / "evaluate" / "looks" / test_digest
    folder.mkdir(parents=True)
    for n in range(times):
        (folder / f"{n:064x}").touch()


def test_case_E4_a_test_set_looked_at_too_often_is_counted_and_said(workspace: Workspace) -> None:
    look(workspace, 21)
    decision = workspace.register()
    seen = workspace.seen.holdout
    assert seen and (seen.looks, seen.budget) == (21, 20)
    finding = next(f for f in decision.findings if "holdout" in f.rule)
    assert finding.verdict == "refuse" and "21" in finding.reason


def test_a_waiver_waives_what_may_be_waived_and_is_shown(workspace: Workspace) -> None:
    look(workspace, 21)
    entry = {"rule": "holdout-unspent", "owner": "Ada", "reason": "A fresh set is on its way.", "expires": "2999-01-01"}
    (workspace.root / waivers.FILE).write_text(yaml.safe_dump({"waivers": [entry]}))
    workspace.keep()
    decision = workspace.register()
    finding = next(f for f in decision.findings if "holdout" in f.rule)
    assert workspace.seen.waivers == [Waiver.model_validate(entry)]
    if finding.severity == "waivable":
        assert finding.waiver and decision.verdict == "pass"


@pytest.mark.parametrize(
    "text",
    ["waivers: none", "other: []", "waivers: [a]", "waivers: [{rule: a, owner: b, reason: c}]",
     "waivers: [{rule: a, owner: b, reason: c, expires: soon}]", "waivers: [{rule: a, owner: b, reason: ' ', expires: 2999-01-01}]",
     "waivers: [{rule: a, owner: b, reason: c, expires: 2999-01-01, more: d}]", "waivers: &a []"],
)  # fmt: skip
def test_a_broken_waivers_file_waives_nothing(workspace: Workspace, text: str) -> None:
    (workspace.root / waivers.FILE).write_text(text)
    with pytest.raises(UsageError, match=r"waivers\.yaml"):
        waivers.load(workspace.root)
    workspace.keep()
    workspace.register()
    assert workspace.seen.waivers == [] and "waivers" in workspace.seen.missing


def test_dates_are_read_as_dates(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / waivers.FILE).write_text("waivers:\n  - {rule: a, owner: b, reason: c, expires: 2999-01-01}\n")
    assert waivers.load(tmp_path) == [Waiver(rule="a", owner="b", reason="c", expires="2999-01-01")]


# --- flipped bits ---------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit, with size, time and mode as they were."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


FLIPPED = [
    ("base", "model.safetensors"), ("adapter", "adapter_model.safetensors"), ("prepared", "rows/train.parquet"),
    ("raw", "rows.jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file"), FLIPPED)
def test_case_D1_a_flipped_bit_is_named_by_the_next_stage_that_uses_the_file(
    workspace: Workspace, name: str, file: str
) -> None:
    from slipway import params as sections
    from tasks.evaluate import evaluate
    from tasks.finetune import finetune
    from tasks.prepare import prepare

    root, out = workspace.root, workspace.root / "out"
    path = (root / "data" / "raw" if name == "raw" else workspace.path(name)) / file
    recorded = digest.of_file(path)
    flip(path)
    section: dict[str, Any] = {n: sections.load(n, root / "params.yaml") for n in ("prepare", "finetune", "evaluate")}
    raw, base, adapter, prepared = root / "data" / "raw", *(workspace.path(n) for n in ("base", "adapter", "prepared"))
    uses: dict[str, list[Callable[[], Any]]] = {
        "raw": [lambda: prepare(section["prepare"], raw, base, out)],
        "base": [
            lambda: prepare(section["prepare"], raw, base, out),
            lambda: finetune(section["finetune"], base, prepared, workspace.path("validation"), out, out, out),
            workspace.register,
        ],
        "prepared": [
            lambda: finetune(section["finetune"], base, prepared, workspace.path("validation"), out, out, out),
            workspace.register,
        ],
        "adapter": [
            lambda: evaluate(section["evaluate"], base, adapter, prepared, *[out] * 9),
            workspace.register,
        ],
    }
    assert uses[name]
    for use in uses[name]:
        with pytest.raises(StageError) as caught:
            use()
        said = str(caught.value)
        assert all(part in said for part in (str(path), recorded, digest.of_file(path))), said
    assert not out.exists() and not workspace.kept.exists()


def dvc(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(
        command, cwd=project, env=stub_project.environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def by_dvc(stub_of_module: Path) -> Path:
    """A stub project that DVC has made."""
    done = stub_project.repro(stub_of_module)
    assert done.returncode == 0, done.stderr
    return stub_of_module


def test_a_lock_that_is_not_whole_says_what_it_lacks(by_dvc: Path) -> None:
    path = by_dvc / "dvc.lock"
    before, whole = path.read_text(), yaml.safe_load(path.read_text())
    assert lock.observe(by_dvc).complete
    for change, said in (
        (lambda stages: stages.pop("gate"), "gate: not in dvc.lock"),
        (lambda stages: stages["finetune"]["outs"].pop(), "finetune: 2 outputs in dvc.lock, 3 in dvc.yaml"),
        (lambda stages: stages["fetch"]["outs"][0].update(md5="0.dir"), "fetch: models/base is"),
        (lambda stages: stages["fetch"]["outs"][0].pop("md5"), "fetch: models/base is"),
    ):
        stages = json.loads(json.dumps(whole))
        change(stages["stages"])
        path.write_text(yaml.safe_dump(stages))
        found = lock.observe(by_dvc)
        assert not found.complete and any(line.startswith(said) for line in found.missing), found.missing
    path.unlink()
    with pytest.raises(StageError, match="does not exist"):
        lock.observe(by_dvc)
    path.write_text(before)


def test_case_D1_a_flipped_bit_in_dvcs_cache_or_remote_is_rejected_at_its_next_use(by_dvc: Path) -> None:
    """DVC itself does not notice one in its cache; the manifest does, and so does the lock that `register` hashes."""
    stub = by_dvc
    assert dvc(stub, "push").returncode == 0
    file = stub / "data" / "prepared" / "rows.txt"
    key, recorded = md5(file.read_bytes()).hexdigest(), digest.of_file(file)

    cached = stub / ".dvc" / "cache" / "files" / "md5" / key[:2] / key[2:]
    flip(cached)
    shutil.rmtree(file.parent)
    assert dvc(stub, "checkout", "data/prepared").returncode == 0
    found = digest.of_file(file)
    assert found != recorded and "up to date" in dvc(stub, "status").stdout, "DVC believes sizes and times"
    stage = stub_project.stage(stub, "finetune")
    assert stage.returncode == 1
    assert all(part in stage.stderr for part in ("data/prepared/rows.txt", recorded, found)), stage.stderr
    assert any("data/prepared is" in line for line in lock.observe(stub).missing)

    shutil.rmtree(file.parent)
    shutil.rmtree(stub / ".dvc" / "cache")
    shutil.rmtree(stub / ".dvc" / "tmp", ignore_errors=True)
    flip(stub / ".slipway" / "dvc-remote" / "files" / "md5" / key[:2] / key[2:])
    pulled = dvc(stub, "pull", "data/prepared")
    assert pulled.returncode != 0 and "data/prepared" in pulled.stderr
    assert not file.exists() or digest.of_file(file) == recorded


# --- a pass becomes a version ---------------------------------------------------------------------------------------


@pytest.fixture
def entering(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same with rows that can be read; MLflow has tests of its own (services/test_mlflow_mirror.py)."""
    prepared = workspace.path("prepared")
    about = Manifest.load(prepared / digest.MANIFEST)
    rows = {"id": ["0123456789abcdef"], "source_file": ["rows.jsonl"], "source_row": [1]}
    pyarrow.parquet.write_table(pyarrow.table(rows), prepared / "rows" / "train.parquet")
    counts = {file.path: file.rows for file in about.files if file.rows}
    found = Manifest.write(prepared, about.facts, counts).digest
    for name in ("validation", "inspection"):
        workspace.edit(name, lambda report: report.update(prepared_digest=found))
    workspace.keep()
    assert workspace.judge(workspace.policy).verdict == "pass"
    monkeypatch.setattr(mirror, "reconcile", lambda *words: [])
    return workspace


def enter(workspace: Workspace) -> Version:
    return entry.enter(workspace.root, Place.of(workspace.root, RELEASE), workspace.register())


def kinds(workspace: Workspace) -> list[str]:
    with Database.of(workspace.root).read() as connection:
        return [event.kind for event in events.read(connection)]


def unfinished(workspace: Workspace) -> list[str]:
    with Database.of(workspace.root).read() as connection:
        return [op.id for op in operations.unfinished(connection) if op.kind == entry.KIND]


def test_a_pass_becomes_a_version_that_knows_where_it_comes_from(entering: Workspace) -> None:
    version = enter(entering)
    decision = Decision.load(entering.kept / receipt.DECISION)
    assert (version.model, version.version, version.serial, version.stage) == ("support-desk", "1.0.0", 1, "None")
    assert (version.identity, version.evidence_digest) == (decision.identity, decision.evidence_digest)
    assert version.policy_digest == digest.of_file(entering.policy)
    assert version.data_digest == Manifest.load(entering.path("prepared") / digest.MANIFEST).digest
    assert [file.path for file in version.sources] == ["rows.jsonl"] and version.data_version == "1.0.0"
    assert version.metrics["tuned.exact_match"] > 0.9 and version.metrics["servability.latency_p95_seconds"] == 0.2
    assert version.metrics["scan.bytes"] > 0 and version.metadata["version"] == "1.0.0"
    assert version.params["finetune"]["method"] == "lora" and version.parent is None
    assert {"receipt/evidence/predictions.parquet", "receipt/evidence/prepared/card.json", "adapter/manifest.json"} <= {
        file.path for file in version.files
    }
    assert store.problems(entering.root, version) == [] and learned.problem(entering.root, version.data_digest) is None
    assert kinds(entering) == ["decision_made", "model_registered"] and unfinished(entering) == []
    assert stub_project.git(entering.root, "cat-file", "-t", "support-desk@v1.0.0") == "tag"
    tagged = stub_project.git(entering.root, "rev-parse", "support-desk@v1.0.0^{commit}")
    assert tagged == stub_project.git(entering.root, "rev-parse", f"slipway/{RELEASE}^{{commit}}")


def test_entered_again_it_is_the_same_version(entering: Workspace) -> None:
    assert enter(entering) == enter(entering)
    assert kinds(entering) == ["decision_made", "model_registered"]


def test_what_was_judged_can_be_judged_again_from_the_store(entering: Workspace) -> None:
    """Without the workspace: every piece of evidence under its name, each as the decision has it."""
    version = enter(entering)
    place = store.folder(entering.root, version.model, version.version) / store.RECEIPT
    decision = Decision.load(place / receipt.DECISION)
    for name, sha256 in decision.evidence.items():
        assert digest.of_file(place / store.EVIDENCE / name) == sha256, name
    assert digest.of_file(place / store.EVIDENCE / "policy.yaml") == decision.policy_digest


def test_the_card_the_statement_and_the_observations_bear_the_number(entering: Workspace) -> None:
    entering.change(version="3.1.4")
    version = enter(entering)
    statement = signing.Statement.load(entering.kept / signing.Statement.FILE)
    assert version.version == statement.version == entering.seen.model["version"] == "3.1.4"
    assert "3.1.4" in (entering.kept / "README.md").read_text()


def test_a_version_that_nobody_stated_is_numbered(entering: Workspace) -> None:
    entering.change(version=None)
    assert enter(entering).version == "1.0.0"


def test_a_refusal_gives_the_number_back(entering: Workspace) -> None:
    entering.change(compliance_tags=["GDPR"])
    assert entering.register().verdict == "refuse"
    assert unfinished(entering) == [] and kinds(entering) == []
    with Database.of(entering.root).read() as connection:
        assert versions.listed(connection) == []


def test_a_candidate_without_a_name_is_no_version(entering: Workspace) -> None:
    entering.change(name=None)
    decision = entering.register()
    assert decision.verdict != "pass"
    with pytest.raises(UsageError, match="has no name, and a version needs one"):
        entry.enter(entering.root, Place.of(entering.root, RELEASE), decision)


def test_a_deleted_candidate_does_not_come_back_by_itself(entering: Workspace) -> None:
    version = enter(entering)
    with Database.of(entering.root).write() as connection:
        versions.set_state(connection, version.model, version.version, "deleted")
    with pytest.raises(Refused, match=r"was support-desk 1\.0\.0 and that version was deleted"):
        enter(entering)


def test_what_passed_and_changed_before_it_was_entered_is_not(entering: Workspace) -> None:
    decision = entering.register()
    flip(entering.path("adapter") / "adapter_model.safetensors")
    with pytest.raises(StageError, match=r"is not what was judged and signed: .*changed: its SHA-256"):
        entry.enter(entering.root, Place.of(entering.root, RELEASE), decision)
    with Database.of(entering.root).read() as connection:
        assert versions.listed(connection) == []
    assert not store.folder(entering.root, "support-desk", "1.0.0").exists()


def test_case_B9_nothing_is_entered_into_an_older_copy_of_the_ledger(entering: Workspace) -> None:
    """The number could have been given before: the checkpoints beside the ledger remember what it has forgotten."""
    enter(entering)
    database = Database.of(entering.root)
    database.close()
    assert database.file is not None
    for path in database.file.parent.glob("ledger.db*"):
        path.unlink()
    with pytest.raises(Refused, match="the ledger is frozen: event 2 stood in it"):
        entry.reserve(entering.root, Place.of(entering.root, RELEASE))


def test_what_follows_an_entry_may_fail_without_undoing_it(
    entering: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*words: object) -> None:
        raise Transient("MLflow is away")

    monkeypatch.setattr(mirror, "reconcile", away)
    stub_project.git(entering.root, "tag", "support-desk@v1.0.0", "HEAD~1")
    assert enter(entering).version == "1.0.0"
    said = capsys.readouterr().out
    assert "registered, but MLflow did not follow: MLflow is away" in said
    assert "registered, but the git tag did not follow: git has a tag support-desk@v1.0.0 on" in said


def test_an_hour_has_a_price_where_one_is_configured(entering: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOUR_PRICE", "7.2")
    with Database.of(entering.root).write() as connection:
        for stage, seconds in (("finetune", 100.0), ("evaluate", 50.0)):
            told = {"stage": stage, "status": "ran", "seconds": seconds}
            events.append(connection, "stage_finished", "support-desk", RELEASE, told)
    version = enter(entering)
    assert version.seconds == {"finetune": 100.0, "evaluate": 50.0} and version.cost == pytest.approx(0.3)


# --- what people say of its entering ----------------------------------------------------------------------------------


def asked(workspace: Workspace, quorum: int | None = 1, release: str = RELEASE, by: str = "ada") -> None:
    """The rules for entering, and who asked for a release that is kept as a flow keeps it."""
    path = workspace.root / "configs" / "policies" / "approvals.yaml"
    transitions = {"register": {"approvals": quorum, "roles": {}}} if quorum else {}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"transitions": transitions}))
    workspace.keep()
    with Database.of(workspace.root).write() as connection:
        events.append(
            connection, "release_started", "support-desk", release, {"release": release}, Actor(by, "os-user")
        )
    workspace.record(release)


def say(workspace: Workspace, answer: Any, by: str, release: str = RELEASE) -> None:
    approvals.give(workspace.root, release, answer, "read it", "register", actor=Actor(by, "os-user"))


def test_case_F3_what_needs_approvals_to_enter_does_not_without(workspace: Workspace) -> None:
    asked(workspace, 2)
    say(workspace, "approve", "bob")
    decision = workspace.register()
    assert decision.verdict == "refuse" and blamed(decision) == {"evidence-approvals"}
    assert "wanting: 1 more approval" in decision.findings[-1].reason
    assert workspace.register() == decision
    listed = approvals.listed(workspace.root, None)
    assert [(one["by"], one["act"], one["state"]) for one in listed] == [("bob", "register", "counts")]
    assert approvals.listed(workspace.root, RELEASE) == listed


def test_case_F3_what_somebody_rejected_does_not_enter_though_nobody_must_approve_it(workspace: Workspace) -> None:
    asked(workspace, None)
    say(workspace, "reject", "carol")
    decision = workspace.register()
    assert decision.verdict == "refuse" and "carol has rejected it: read it" in decision.findings[-1].reason


def test_what_enough_people_approved_enters_and_can_be_judged_again(workspace: Workspace) -> None:
    asked(workspace)
    say(workspace, "approve", "bob")
    decision = workspace.register()
    assert (decision.verdict, decision.findings[-1].rule) == ("pass", "evidence-approvals")
    assert [one.by for one in workspace.seen.approvals] == ["bob"]
    assert receipts.recheck(workspace.root, workspace.kept / "decision.json", workspace.policy) == decision
    assert workspace.register() == decision


def test_case_F2_a_yes_to_anothers_release_is_none_to_ones_own(workspace: Workspace) -> None:
    """Bob approves ada's release, then brings the same evidence himself; carol's yes carries over, his does not."""
    again = "20260102-000000-abcdef"
    asked(workspace)
    say(workspace, "approve", "bob")
    asked(workspace, release=again, by="bob")
    gate = Decision.load(workspace.path("decision"))
    own = said_of(workspace.root, "support-desk", again, gate)
    assert own.counted == [] and own.wanting == ["1 more approval"]
    say(workspace, "approve", "carol")
    assert said_of(workspace.root, "support-desk", again, gate).people == ["carol"]
    assert said_of(workspace.root, "support-desk", RELEASE, gate).people == ["bob", "carol"]
