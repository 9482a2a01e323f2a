"""`slipway keys` and `slipway models verify`, as a person types them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import slipway

from slipway.artifacts import Manifest
from slipway.ledger import events, sealed
from slipway.ledger.database import Database
from slipway.registry import keys, signing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a signed model in an export folder."""
    for name in ("configs/env", "dvc.yaml", "params.yaml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    export = tmp_path / "export"
    for name in ("base", "adapter"):
        (export / name).mkdir(parents=True)
        (export / name / "weights").write_text(name)
    about = Manifest.write(export / "base", {"source": "tiny"})
    Manifest.write(export / "adapter", {"base_digest": about.digest})
    monkeypatch.chdir(tmp_path)
    said = signing.About(model="desk", version=None, release="r1", evidence_digest="e", policy_digest="p")
    signing.sign(tmp_path, export, said, export / "base", export / "adapter")
    return tmp_path


def test_a_whole_model_is_verified(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = slipway(capsys, "models", "verify", "export")
    assert code == 0 and "desk of release r1: 4 files as signed" in out
    code, out, _ = slipway(capsys, "models", "verify", "export", "--json")
    assert code == 0 and json.loads(out)["verified"] is True


def test_what_differs_is_named_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "export" / "base" / "weights").write_text("bose")
    code, out, err = slipway(capsys, "models", "verify", "export")
    assert code == 3 and not out
    assert len(err.splitlines()) == 1 and "export/base/weights changed: its SHA-256 is" in err
    code, out, _ = slipway(capsys, "models", "verify", "export", "--json")
    assert code == 3 and "weights changed" in json.loads(out)["reason"]


def test_another_trust_file_can_be_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trust = keys.folder(project) / keys.FILE
    shutil.copy(trust, project / "theirs.json")
    trust.unlink()
    assert slipway(capsys, "models", "verify", "export")[0] == 3
    assert slipway(capsys, "models", "verify", "export", "--trust", "theirs.json")[0] == 0
    assert slipway(capsys, "models", "verify", "export", "--trust", "nothing.json")[0] == 2


def test_a_release_that_is_not_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = slipway(capsys, "models", "verify", "2031")
    assert code == 2 and "no release 2031" in err


def test_keys_from_the_first_to_the_revoked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = keys.load(keys.folder(project) / keys.FILE).signing
    assert first
    code, out, _ = slipway(capsys, "keys", "list")
    assert code == 0 and first[:16] in out and "signs here" in out
    assert slipway(capsys, "keys", "rotate", "--days", "30")[0] == 0
    assert slipway(capsys, "models", "verify", "export")[0] == 0
    code, out, _ = slipway(capsys, "keys", "revoke", first[:8], "--reason", "lost")
    assert code == 0 and first[:16] in out
    code, out, _ = slipway(capsys, "keys", "list", "--json")
    listed = json.loads(out)
    assert listed["keys"][first]["state"] == "revoked" and listed["keys"][listed["signing"]]["state"] == "valid"
    code, _, err = slipway(capsys, "models", "verify", "export")
    assert code == 3 and "was revoked" in err and "(lost)" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke", "00", "--reason", "x"], "no key '00'"),
        (["revoke", "", "--reason", "x"], "''"),
        (["rotate", "--days", "0"], "0 days"),
        (["rotate", "--days", "99999999999"], "99999999999 days"),
        (["new", "--owner", "x", "--folder", "people", "--days", "99999999"], "99999999 days"),
        (["new", "--owner", "x", "--folder", "dvc.yaml"], "dvc.yaml takes no key (File exists)"),
        (["new", "--owner", "x", "--folder", "/proc/nope"], "/proc/nope takes no key"),
        (["trust", "nothing.pem"], "not a public key"),
        (["trust"], "name a file"),
        (["trust", "nothing.pem", "--for-approvals", "--for-project"], "not both"),
        (["trust", "--identity", "me"], "name a file"),
    ],
)
def test_a_mistake_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    before = sorted(path for path in project.rglob("*") if path.suffix in (".pem", ".pub", ".json"))
    code, _, err = slipway(capsys, "keys", *words)
    assert (code, len(err.splitlines())) == (2, 1) and said in err
    assert sorted(path for path in project.rglob("*") if path.suffix in (".pem", ".pub", ".json")) == before


def test_an_identity_of_sigstores_can_be_trusted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("keys", "trust", "--identity", "ci@example.org", "--issuer", "https://issuer.example.org")
    assert slipway(capsys, *words)[0] == 0
    assert slipway(capsys, *words)[0] == 0
    trust = keys.load(keys.folder(project) / keys.FILE)
    assert [(one.name, one.issuer) for one in trust.identities] == [("ci@example.org", "https://issuer.example.org")]


def test_case_H6_an_address_that_is_trusted_stands_sealed_in_the_chain(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("keys", "trust", "--identity", "ada@example.org", "--issuer", "https://issuer.example.org")
    assert slipway(capsys, *words)[0] == 0
    with Database.of(project).read() as connection:
        (told,) = events.read(connection, kind="key_changed")
        assert "ada@example.org" in sealed.texts(connection).values()
    assert "ada@example.org" not in told.model_dump_json() and told.payload["issuer"] == "https://issuer.example.org"


def test_a_key_that_could_not_be_believed_leaves_no_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for days in ("0", "1000000000"):
        code, _, err = slipway(capsys, "keys", "new", "--owner", "Bob", "--folder", "people", "--days", days)
        assert code == 2 and f"for {days} days" in err and len(err.splitlines()) == 1
    assert not (project / "people").exists()


def test_listing_keys_loads_nothing_heavy(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; from slipway.registry import keys, receipt, signing; "
         "print(sorted({'torch', 'mlflow', 'prefect', 'transformers', 'model_signing'} & set(sys.modules)))"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_persons_key_is_made_trusted_for_approvals_and_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = slipway(capsys, "keys", "new", "--owner", "Grace", "--folder", "people", "--json")
    made = json.loads(out)
    assert code == 0 and Path(made["private"]).stat().st_mode & 0o777 == 0o600
    known = keys.load(keys.folder(project) / keys.FILE).keys[made["key"]]
    assert (known.owner, known.purpose) == ("Grace", "approvals")
    code, out, _ = slipway(capsys, "keys", "new", "--owner", "Ada", "--folder", "people")
    assert code == 0 and "It counts once it stands in configs/policies/approvals.yaml" in out
    assert slipway(capsys, "models", "verify", "export")[0] == 0  # the project's own key is still the one that signs
    code, out, _ = slipway(capsys, "keys", "list")
    assert code == 0 and "signs approvals" in out and "signs here" in out
    assert slipway(capsys, "keys", "revoke", made["key"][:16], "--reason", "lost")[0] == 0
    with Database.of(project).read() as connection:
        told = [event.payload for event in events.read(connection, kind="key_changed")]
    assert [(one["change"], one["purpose"]) for one in told] == [
        ("new", "approvals"),
        ("new", "approvals"),
        ("revoked", "approvals"),
    ]
    code, _, err = slipway(capsys, "keys", "new", "--owner", " ", "--folder", "people")
    assert code == 2 and "say whose key it is" in err
    code, _, err = slipway(capsys, "keys", "trust", "people/x.pub", "--for-approvals")
    assert code == 2 and "--owner" in err


def test_a_first_key_of_a_person_does_not_keep_the_project_from_making_its_own(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs" / "env", tmp_path / "configs" / "env")
    keys.new(tmp_path, "Grace", tmp_path / "people")
    fingerprint, _ = keys.signing_key(tmp_path)
    assert keys.load(keys.folder(tmp_path) / keys.FILE).keys[fingerprint].purpose == "project"
