"""A receipt as an attacker would have it: whatever is wrong with one is refused in one line that names it."""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import made_evidence
import made_versions
import pytest
from made_evidence import RELEASE, Workspace

from slipway import cli, digest, git, model
from slipway.artifacts import Decision, Observations
from slipway.cli import verify
from slipway.errors import Refused
from slipway.governance import receipt as receipts
from slipway.governance.judge import judge
from slipway.governance.policy import Policy
from slipway.registry import keys, receipt, signing, store

OTHER = "20260101-000000-abcdee"
# Every file of a receipt that passed: what is signed, what it stands on, and the two signatures.
FILES = ["README.md", "bom.json", "decision.json", "dvc.lock", "eval_results.yaml", "model.yaml", "observations.json",
         "policy.yaml", "receipt.json", "receipt.sig", "statement.json", "statement.sig"]  # fmt: skip
# Those that may hold the same bytes whichever release of this evidence they are of; of the card's results, the second counts.
COMMON = {"dvc.lock", "model.yaml", "policy.yaml", "eval_results.yaml"}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two registered releases of one candidate."""
    with pytest.MonkeyPatch.context() as patch:
        made = made_evidence.workspace(tmp_path_factory.mktemp("registered") / "a project", patch)
        for release in (RELEASE, OTHER):
            made.tag(release)
            assert made.register(release).verdict == "pass"
            made.record(release)
        yield made.root


@pytest.fixture
def workspace(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of them, to harm."""
    made = Workspace(tmp_path / "a project")
    shutil.copytree(registered, made.root, symlinks=True)
    monkeypatch.chdir(made.root)
    return made


def other(made: Workspace) -> Path:
    return receipt.folder_of(made.root, OTHER)


def verified(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """`slipway models verify`: its exit code and its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "verify", *(words or [RELEASE])])
    said = capsys.readouterr()
    code = int(ended.value.code or 0)
    assert "Traceback" not in said.err + said.out
    if code:
        assert len(said.err.splitlines()) == 1 and not said.out, said
    return code, said.err if code else said.out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code, said = verified(capsys, *words)
    assert code == Refused.exit_code, said
    return said


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_receipt_that_nobody_has_touched_holds(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(path.name for path in workspace.kept.iterdir()) == FILES
    for release in (RELEASE, OTHER):
        assert verified(capsys, release)[0] == 0
    assert receipts.recheck(workspace.root, workspace.kept / "decision.json").verdict == "pass"
    assert workspace.register().verdict == "pass"


# --- they belong together -------------------------------------------------------------------------------------------


def test_case_D6_another_releases_receipt_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(workspace.kept)
    shutil.copytree(other(workspace), workspace.kept)
    said = refused(capsys)
    assert OTHER in said and RELEASE in said


def test_case_D6_a_mixture_of_two_releases_files_is_refused_and_named(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = 0
    for name in FILES:
        path = workspace.kept / name
        whole, theirs = path.read_bytes(), (other(workspace) / name).read_bytes()
        if whole == theirs:
            assert name in COMMON, name
            continue
        path.write_bytes(theirs)
        assert name in refused(capsys)
        path.write_bytes(whole)
        mixed += 1
    assert mixed in (8, 9)
    # Each with the signature that is its own; the first file that another receipt has otherwise is named.
    for name, named in (("statement", "statement.json"), ("receipt", "README.md")):
        for path in (f"{name}.json", f"{name}.sig"):
            shutil.copy2(other(workspace) / path, workspace.kept / path)
        assert f"{named} changed" in refused(capsys)


@pytest.mark.parametrize("name", ["release", "evidence_digest", "policy_digest", "identity"])
def test_case_D6_a_statement_about_something_else_is_refused_though_it_is_signed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """As whoever holds the key could write it: every digest and signature is right, and one word is another."""
    resigned(workspace, "statement.json", **{name: OTHER if name == "release" else "0" * 64})
    said = refused(capsys)
    assert name in said and "statement.json" in said


def resigned(made: Workspace, name: str, **values: Any) -> None:
    """A file of the receipt with other values, and new signatures over all of it."""
    private = keys.signing_key(made.root)[1]
    edit(made.kept / name, **values)
    if name == "statement.json":
        signing._sign_with_key(made.kept / name, made.kept / "statement.sig", private)
    if name != "receipt.json":
        listed = json.loads((made.kept / "receipt.json").read_text())["files"]
        edit(made.kept / "receipt.json", files={file: digest.of_file(made.kept / file) for file in listed})
    signing._sign_with_key(made.kept / "receipt.json", made.kept / "receipt.sig", private)


# --- a stored decision is not believed ------------------------------------------------------------------------------


def test_a_decision_that_its_evidence_does_not_lead_to_is_refused_though_it_is_signed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    decision = json.loads((workspace.kept / "decision.json").read_text())
    for finding in decision["findings"]:
        if finding["rule"] == "exact-answers":
            finding["severity"] = "advise"
    resigned(workspace, "decision.json", findings=decision["findings"])
    assert "exact-answers" in refused(capsys)
    with pytest.raises(Refused, match="exact-answers"):
        receipts.recheck(workspace.root, workspace.kept / "decision.json")
    with pytest.raises(Refused, match="exact-answers"):
        workspace.register()


def forge(made: Workspace) -> None:
    """A refusal turned into a pass: better observations, the decision that they lead to, every digest right; unsigned."""
    seen = Observations.load(made.kept / "observations.json")
    assert seen.servability
    seen = seen.model_copy(update={"servability": seen.servability.model_copy(update={"peak_bytes": 1})})
    seen.save(made.kept / "observations.json")
    stored = Decision.load(made.kept / "decision.json")
    found = receipts.evidence.gather(receipts.Places.of(made.root, made_evidence.PATHS))
    again = judge(found, Policy.load(made.policy), stored.policy_digest, "register", seen)
    assert again.verdict == "pass" and again != stored
    again.save(made.kept / "decision.json")


@pytest.mark.parametrize("more", ["alone", "with the list of files", "without any list"])
def test_a_pass_that_nobody_signed_is_none(workspace: Workspace, capsys: pytest.CaptureFixture[str], more: str) -> None:
    forge(workspace)
    listing = workspace.kept / "receipt.json"
    if more == "without any list":
        listing.unlink()
        (workspace.kept / "receipt.sig").unlink()
    elif more == "with the list of files":
        files = {name: digest.of_file(workspace.kept / name) for name in json.loads(listing.read_text())["files"]}
        edit(listing, files=files)
    assert "receipt" in refused(capsys)
    with pytest.raises(Refused):
        receipts.recheck(workspace.root, workspace.kept / "decision.json")
    with pytest.raises(Refused):
        workspace.register()


def test_case_D7_a_receipt_without_its_signature_is_unsigned(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.kept / "receipt.sig").unlink()
    assert "receipt.sig does not exist" in refused(capsys)
    with pytest.raises(Refused, match=r"receipt\.sig does not exist"):
        receipts.recheck(workspace.root, workspace.kept / "decision.json")


def test_evidence_that_was_changed_in_the_releases_record_is_named(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    record = workspace.kept.parent
    names = sorted(Decision.load(workspace.kept / "decision.json").evidence)
    assert len(names) == 14
    for name in [*names, "prepared/card.json"]:
        flip(record / name)
        assert name in refused(capsys)
        flip(record / name)
        (record / name).rename(record / "away")
        assert name in refused(capsys) or name == "prepared/card.json"
        (record / "away").rename(record / name)
    assert verified(capsys)[0] == 0


# --- every file -----------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit, with size and time as they were."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_case_D1_one_byte_changed_in_any_file_of_a_receipt_is_refused_by_name(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    flipped = 0
    for name in FILES:
        path = workspace.kept / name
        flip(path)
        assert name in refused(capsys)
        for check in (lambda: receipts.recheck(workspace.root, workspace.kept / "decision.json"), workspace.register):
            with pytest.raises(Exception) as caught:
                check()
            assert name in str(caught.value), (name, caught.value)
        flip(path)
        flipped += 1
    assert flipped == 12
    assert verified(capsys)[0] == 0 and workspace.register().verdict == "pass"


@pytest.mark.parametrize("name", [model.FILE.as_posix(), "dvc.lock"])
def test_what_the_release_stood_on_is_compared_with_what_lies_here(workspace: Workspace, name: str) -> None:
    path = workspace.root / name
    recorded = digest.of_file(path)
    path.write_text(path.read_text() + "\n")
    for check in (lambda: receipts.recheck(workspace.root, workspace.kept / "decision.json"), workspace.register):
        with pytest.raises(Refused) as caught:
            check()
        assert all(part in str(caught.value) for part in (name, recorded, digest.of_file(path))), caught.value


def test_a_registration_whose_model_has_changed_is_not_kept(workspace: Workspace) -> None:
    (workspace.path("adapter") / "adapter_model.safetensors").chmod(0o755)
    with pytest.raises(Refused, match=r"adapter_model\.safetensors has the mode 755"):
        workspace.register()


# --- an attacker ----------------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere").parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


def gone(path: Path) -> None:
    path.unlink()


def runs(path: Path) -> None:
    path.chmod(0o755)


def for_everybody(path: Path) -> None:
    path.chmod(0o666)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 50)


def list_of_nothing(path: Path) -> None:
    path.write_text("[]")


HARM = [empty, link, loop, folder, pipe, huge, gone, runs, for_everybody, nested, binary, list_of_nothing]


@pytest.mark.parametrize("harm", HARM)
def test_whatever_lies_in_a_files_place_is_refused_in_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None]
) -> None:
    for name in FILES:
        before = workspace.kept.with_name("before")
        shutil.copytree(workspace.kept, before)
        harm(workspace.kept / name)
        assert name in refused(capsys), name
        shutil.rmtree(workspace.kept)
        before.rename(workspace.kept)
    assert verified(capsys)[0] == 0


def test_a_file_that_may_not_be_read_is_refused_in_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the kernel's answer is given here."""
    opened, kept = Path.open, workspace.kept
    for name in FILES:

        def denied(path: Path, *words: Any, name: str = name, **more: Any) -> Any:
            if path == kept / name:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *words, **more)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", denied)
            assert name in refused(capsys), name


@pytest.mark.parametrize("name", ["more.txt", ".hidden", "more/", ".git/hooks/post-checkout"])
def test_case_D5_a_file_too_many_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = workspace.kept / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("more")
    assert name.partition("/")[0] in refused(capsys)


@pytest.mark.parametrize("name", ["base", "adapter"])
def test_case_D5_a_folder_that_everybody_may_write_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    workspace.path(name).chmod(0o777)
    assert "777" in refused(capsys)


def test_a_list_that_names_files_elsewhere_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads((workspace.kept / "receipt.json").read_text())["files"]
    for name in ("../release.json", "/etc/hostname", "a/../../release.json"):
        resigned(workspace, "receipt.json", files=listed | {name: digest.of_file(Path("/etc/hostname"))})
        assert name in refused(capsys)


def test_a_list_that_leaves_a_file_out_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads((workspace.kept / "receipt.json").read_text())["files"]
    for name in listed:
        resigned(workspace, "receipt.json", files={n: sha for n, sha in listed.items() if n != name})
        assert name in refused(capsys)
    assert len(listed) == 10


def test_case_D7_a_receipt_is_verified_after_a_rotation_and_not_after_a_revocation(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    first = keys.signing_key(workspace.root)[0]
    keys.rotate(workspace.root)
    assert verified(capsys)[0] == 0
    keys.revoke(workspace.root, first, "the laptop was stolen")
    assert "was revoked at" in refused(capsys)
    with pytest.raises(Refused, match="was revoked at"):
        workspace.register()


def test_case_D7_another_key_over_the_receipt_than_one_that_is_trusted_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(workspace.root / "configs", tmp_path / "theirs" / "configs")
    private = keys.signing_key(tmp_path / "theirs")[1]
    signing._sign_with_key(workspace.kept / "receipt.json", workspace.kept / "receipt.sig", private)
    said = refused(capsys)
    assert "receipt.sig" in said and "which nobody here trusts" in said


def test_case_D7_a_key_for_approvals_signs_no_receipt(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    private = keys.new(workspace.root, "Grace", workspace.root / "people")[1]
    signing._sign_with_key(workspace.kept / "receipt.json", workspace.kept / "receipt.sig", private)
    assert "trusted for approvals alone" in refused(capsys)


def test_case_D7_what_is_dated_before_its_key_was_made_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    early = keys.shown(keys.now() - timedelta(days=1))
    resigned(workspace, "receipt.json", at=early)
    assert "was made at" in refused(capsys) and "receipt.sig" in refused(capsys)


# --- a folder that somebody brings ----------------------------------------------------------------------------------


@pytest.fixture
def brought(workspace: Workspace) -> Path:
    """The model with its receipt and the evidence, as `models artifacts` downloads it."""
    place = workspace.root / "brought"
    shutil.copytree(workspace.path("base"), place / "base")
    shutil.copytree(workspace.path("adapter"), place / "adapter")
    shutil.copytree(workspace.kept, place / "receipt")
    record = workspace.kept.parent
    for name in [*Decision.load(workspace.kept / "decision.json").evidence, "prepared/card.json"]:
        (place / "receipt" / "evidence" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(record / name, place / "receipt" / "evidence" / name)
    return place


def test_a_folder_with_its_evidence_is_judged_again(brought: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(capsys, "brought")[0] == 0
    flip(brought / "receipt" / "evidence" / "scorecard.json")
    assert "scorecard.json" in refused(capsys, "brought")


def test_a_decision_in_a_folder_without_a_receipt_is_unsigned(
    brought: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(brought / "receipt" / "evidence")
    (brought / "receipt" / "receipt.json").unlink()
    assert "receipt.json does not exist" in refused(capsys, "brought")


def test_a_folder_with_a_statement_alone_says_that_no_decision_was_looked_at(
    brought: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in list((brought / "receipt").iterdir()):
        if path.name not in ("statement.json", "statement.sig"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "verify", "brought"])
    assert not ended.value.code
    assert "no receipt" in capsys.readouterr().err


def test_the_mode_of_a_file_in_the_receipt_is_as_it_was_written(workspace: Workspace) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) & 0o133 for path in workspace.kept.iterdir()} == {0}
    assert git.kept(workspace.root, f"slipway/{RELEASE}")


# --- a version --------------------------------------------------------------------------------------------------------


def test_a_version_is_judged_again_from_what_the_store_has_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_versions.project(tmp_path / "a project")
    version = made.version()
    monkeypatch.chdir(made.root)
    assert verified(capsys, version.version)[0] == 0
    place = store.folder(made.root, version.model, version.version) / store.RECEIPT
    for path in [*place.glob("*.*"), *place.glob("evidence/*/*")]:
        flip(path)
        assert path.name in refused(capsys, version.version), path
        flip(path)
    monkeypatch.setattr(store, "problems", lambda *words: [])  # whoever can write the ledger too
    for name in ("release", "identity", "evidence_digest", "policy_digest"):
        row = version.model_copy(update={name: "0" * 64})
        monkeypatch.setattr(verify.versions, "find", lambda *words, row=row: row)
        assert f"has the {name}" in refused(capsys, version.version)
