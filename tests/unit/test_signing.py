"""Signatures and keys: only the very bytes that a trusted key signed are believed, and every difference is named."""

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from slipway import digest
from slipway.artifacts import Manifest, Signature
from slipway.errors import Refused, StageError, UsageError
from slipway.registry import keys, signing
from slipway.registry.signing import About, Statement

ROOT = Path(__file__).parents[2]
ABOUT = About(model="desk", version="1.0.0", release="r1", evidence_digest="e" * 64, policy_digest="p" * 64)


def make_base(folder: Path, weights: str = "base weights") -> Manifest:
    folder.mkdir(parents=True)
    files = {"config.json": "{}", "tokenizer.json": '{"a": 1}', "chat_template.jinja": "{{ messages }}"}
    for name, text in (files | {"generation_config.json": "{}", "model.safetensors": weights}).items():
        (folder / name).write_text(text)
    return Manifest.write(folder, {"source": "tiny", "quantisation": None})


def make_adapter(folder: Path, base: Manifest) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text("adapter weights")
    Manifest.write(folder, {"method": "lora", "base_digest": base.digest})


class Project:
    """A signed model in a folder of its own, with its keys."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "receipt"
        self.base, self.adapter = root / "models" / "base", root / "models" / "adapter"
        shutil.copytree(ROOT / "configs" / "env", root / "configs" / "env")
        self.folder.mkdir()
        make_adapter(self.adapter, make_base(self.base))

    @property
    def trust_file(self) -> Path:
        return keys.folder(self.root) / keys.FILE

    def sign(self) -> Signature:
        return signing.sign(self.root, self.folder, ABOUT, self.base, self.adapter)

    def verify(self, days_later: float = 0) -> Signature:
        now = keys.now() + timedelta(days=days_later)
        return signing.verify(self.folder, self.base, self.adapter, keys.load(self.trust_file), now)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.sign()
    return made


def flip(path: Path, at: int = -1) -> None:
    """One bit, with the file's size and time as they were."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_signed_model_is_verified_and_the_statement_binds_what_it_should(project: Project) -> None:
    found, statement = project.verify(), Statement.load(project.folder / Statement.FILE)
    assert found.verified and found.identity == statement.identity
    assert found.key == keys.load(project.trust_file).signing
    assert found.statement_sha256 == digest.of_file(project.folder / Statement.FILE)
    assert {"base", "adapter", "tokenizer", "chat_template", "generation", "quantisation"} == set(statement.parts)
    assert (statement.model, statement.version, statement.release) == ("desk", "1.0.0", "r1")
    assert (statement.evidence_digest, statement.policy_digest) == ("e" * 64, "p" * 64)
    assert len(statement.files) == 9, "six of the base, three of the adapter, the manifests too"
    for name, sha256 in statement.files.items():
        assert digest.of_file(project.root / "models" / name) == sha256


def test_the_private_key_is_ours_alone(project: Project) -> None:
    private = list(keys.folder(project.root).glob("*.pem"))
    assert len(private) == 1
    assert stat.S_IMODE(private[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.folder(project.root).stat().st_mode) == 0o700
    assert "PRIVATE" not in project.trust_file.read_text()
    private[0].chmod(0o640)
    with pytest.raises(Refused, match="read by others"):
        project.sign()


def test_two_first_uses_at_once_make_one_key(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(keys.signing_key(project.root)[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert len(keys.load(project.trust_file).keys) == 1 == len(list(keys.folder(project.root).glob("*.pem")))


# --- who signed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [Statement.FILE, signing.BUNDLE])
def test_case_D7_an_unsigned_model_is_rejected(project: Project, name: str) -> None:
    (project.folder / name).unlink()
    with pytest.raises(Refused, match=rf"{name} does not exist.*nobody vouches"):
        project.verify()


def test_case_D7_a_key_that_nobody_trusts_is_rejected(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "other")
    other.sign()
    with pytest.raises(Refused, match="which nobody here trusts"):
        signing.verify(project.folder, project.base, project.adapter, keys.load(other.trust_file), keys.now())
    project.trust_file.unlink()
    with pytest.raises(Refused, match="which nobody here trusts"):
        project.verify()


def test_case_D7_a_signature_that_names_a_trusted_key_but_is_anothers_is_rejected(
    project: Project, tmp_path: Path
) -> None:
    """The same statement signed by an attacker's key, the bundle's hint changed to the trusted one."""
    trusted = keys.load(project.trust_file).signing
    other = Project(tmp_path / "other")
    signing._sign_with_key(
        project.folder / Statement.FILE, project.folder / signing.BUNDLE, keys.signing_key(other.root)[1]
    )
    bundle = json.loads((project.folder / signing.BUNDLE).read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = trusted
    (project.folder / signing.BUNDLE).write_text(json.dumps(bundle))
    with pytest.raises(Refused, match="no signature of its key"):
        project.verify()


def test_case_D7_a_revoked_key_is_rejected_whenever_it_signed(project: Project) -> None:
    key = project.verify().key
    keys.revoke(project.root, key[:12], "the laptop was stolen")
    with pytest.raises(Refused, match=r"was revoked at .*the laptop was stolen"):
        project.verify()
    assert not list(keys.folder(project.root).glob("*.pem")), "its private half is gone"
    with pytest.raises(StageError, match="slipway keys rotate"):
        project.sign()
    keys.rotate(project.root)
    assert project.sign().key != key


def test_case_D7_an_expired_key_is_rejected_and_signs_no_more(project: Project) -> None:
    keys.rotate(project.root, days=30)
    project.sign()
    assert project.verify(days_later=29).verified
    with pytest.raises(Refused, match="expired at"):
        project.verify(days_later=30)
    trust = json.loads(project.trust_file.read_text())
    trust["keys"][trust["signing"]]["expires"] = keys.shown(keys.now() - timedelta(seconds=1))
    project.trust_file.write_text(json.dumps(trust))
    with pytest.raises(StageError, match="expired"):
        project.sign()


def test_case_D7_rotation_keeps_old_evidence_verifiable(project: Project) -> None:
    old, private = keys.signing_key(project.root)
    stolen = private.read_bytes()
    new = keys.rotate(project.root)
    assert new != old and not private.exists()
    assert project.verify().key == old, "signed before the rotation"
    assert project.verify(days_later=keys.DAYS - 1).verified

    statement = json.loads((project.folder / Statement.FILE).read_text())
    statement["at"] = keys.shown(keys.now() + timedelta(hours=1))
    (project.folder / Statement.FILE).write_text(json.dumps(statement))
    private.write_bytes(stolen)
    signing._sign_with_key(project.folder / Statement.FILE, project.folder / signing.BUNDLE, private)
    with pytest.raises(Refused, match="was retired at"):
        project.verify()
    assert project.sign().key == new


def test_case_D7_a_statement_dated_before_its_key_was_made_is_rejected(project: Project) -> None:
    path = project.folder / Statement.FILE
    edit(path, "at", keys.shown(keys.now() - timedelta(days=1)))
    signing._sign_with_key(path, project.folder / signing.BUNDLE, keys.signing_key(project.root)[1])
    with pytest.raises(Refused, match=r"was made at .*, after the statement of"):
        project.verify()


def test_another_projects_key_counts_once_it_is_trusted(project: Project, tmp_path: Path) -> None:
    here = Project(tmp_path / "here")
    public = tmp_path / "theirs.pub"
    key = keys.load(project.trust_file).keys[project.verify().key]
    public.write_text(key.public)
    name = keys.trust_key(here.root, public, "the other desk")
    assert name == project.verify().key
    found = signing.verify(project.folder, project.base, project.adapter, keys.load(here.trust_file), keys.now())
    assert found.verified
    with pytest.raises(UsageError, match="already"):
        keys.trust_key(here.root, public, "again")


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_only_a_public_key_can_be_trusted(project: Project, tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(UsageError):
        keys.trust_key(project.root, tmp_path / "key", "nobody")


DAMAGE: dict[str, Callable[[str], str]] = {
    "torn": lambda text: text[: len(text) // 2],
    "unknown key": lambda text: text.replace('"signing"', '"signed"'),
    "another public key under this name": lambda text: text.replace(json.loads(text)["signing"], "0" * 64),
    "no time": lambda text: text.replace("expires", "expired"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_trust_file_trusts_nobody(project: Project, how: str) -> None:
    project.trust_file.write_text(DAMAGE[how](project.trust_file.read_text()))
    with pytest.raises(StageError, match="restore"):
        project.verify()
    with pytest.raises(StageError, match="restore"):
        keys.rotate(project.root)


def test_without_a_key_sigstore_signs_and_its_absence_is_said(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing answers at the proxy, so no service of Sigstore's does."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(StageError, match="could not sign without a key"):
        signing.sign(project.root, project.folder, ABOUT, project.base, project.adapter, keyless=True)


def test_a_certificate_needs_a_trusted_identity(project: Project) -> None:
    bundle = json.loads((project.folder / signing.BUNDLE).read_text())
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}
    (project.folder / signing.BUNDLE).write_text(json.dumps(bundle))
    with pytest.raises(Refused, match="an identity that nobody here trusts"):
        project.verify()


# --- what was signed ------------------------------------------------------------------------------------------------


def edit(statement: Path, key: str, value: object) -> None:
    said = json.loads(statement.read_text())
    said[key] = value
    statement.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("key", "value"),
    [("release", "r2"), ("model", "other"), ("identity", "0" * 64), ("evidence_digest", "f" * 64), ("files", {})],
)
def test_an_edited_statement_is_rejected(project: Project, key: str, value: object) -> None:
    edit(project.folder / Statement.FILE, key, value)
    with pytest.raises(Refused):
        project.verify()


HOSTILE = [
    "",
    "{}",
    "[]",
    "null",
    '{"verificationMaterial": {}}',
    '{"verificationMaterial": {"publicKey": {}}}',
    "\x00",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_bundle_is_rejected_in_words(project: Project, text: str) -> None:
    (project.folder / signing.BUNDLE).write_text(text)
    with pytest.raises(Refused):
        project.verify()


def test_a_bundle_stripped_of_its_envelope_is_rejected(project: Project) -> None:
    whole = json.loads((project.folder / signing.BUNDLE).read_text())
    for key in ("dsseEnvelope", "mediaType"):
        (project.folder / signing.BUNDLE).write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(Refused):
            project.verify()
    whole["dsseEnvelope"]["signatures"] = []
    (project.folder / signing.BUNDLE).write_text(json.dumps(whole))
    with pytest.raises(Refused):
        project.verify()


def test_case_D1_one_flipped_bit_in_any_file_is_named_with_both_digests(project: Project) -> None:
    files = [path for folder in (project.base, project.adapter) for path in digest.files_under(folder)]
    assert len(files) == 9
    for path in files:
        signed = digest.of_file(path)
        flip(path)
        with pytest.raises(Refused) as caught:
            project.verify()
        assert str(path) in str(caught.value)
        assert signed in str(caught.value) and digest.of_file(path) in str(caught.value)
        flip(path)
    assert project.verify().verified


def _extra(project: Project) -> str:
    (project.adapter / "extra.txt").write_text("hello")
    return "extra.txt is not in the signed statement"


def _git(project: Project) -> str:
    (project.base / ".git" / "hooks").mkdir(parents=True)
    (project.base / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\n")
    return r"\.git/ is not in the signed statement"


def _empty(project: Project) -> str:
    (project.base / "empty").mkdir()
    return "empty/ is not in the signed statement"


def _executable(project: Project) -> str:
    (project.base / "config.json").chmod(0o755)
    return "config.json has the mode 755"


def _writable(project: Project) -> str:
    (project.base / "config.json").chmod(0o666)
    return "config.json has the mode 666"


def _open_folder(project: Project) -> str:
    project.base.chmod(0o777)
    return "base/ has the mode 777"


def _open_folder_within(project: Project) -> str:
    (project.base / "rows").mkdir()
    (project.base / "rows" / "more.txt").write_text("more")
    Manifest.write(project.base, {"source": "tiny", "quantisation": None})
    make_adapter(project.root / "other", Manifest.load(project.base / digest.MANIFEST))
    shutil.rmtree(project.adapter)
    (project.root / "other").rename(project.adapter)
    project.sign()
    (project.base / "rows").chmod(0o757)
    return "base/rows/ has the mode 757"


def _missing(project: Project) -> str:
    (project.adapter / "adapter_config.json").unlink()
    return "adapter_config.json is missing"


def _link(project: Project) -> str:
    path = project.base / "model.safetensors"
    path.rename(project.root / "elsewhere")
    path.symlink_to(project.root / "elsewhere")
    return "model.safetensors is no regular file"


def _folder_link(project: Project) -> str:
    (project.base / "more").symlink_to(project.adapter)
    return "more is not in the signed statement"


def _renamed(project: Project) -> str:
    (project.base / "config.json").rename(project.base / "CONFIG.json")
    return "CONFIG.json is not in the signed statement.*config.json is missing"


def _gone(project: Project) -> str:
    shutil.rmtree(project.adapter)
    return "adapter does not exist"


CHANGES = [
    _extra,
    _git,
    _empty,
    _executable,
    _writable,
    _open_folder,
    _open_folder_within,
    _missing,
    _link,
    _folder_link,
    _renamed,
    _gone,
]


@pytest.mark.parametrize("change", CHANGES)
def test_case_D5_whatever_else_differs_is_rejected_and_named(
    project: Project, change: Callable[[Project], str]
) -> None:
    expected = change(project)
    with pytest.raises(Refused, match=expected):
        project.verify()


def test_case_D8_an_adapter_beside_another_base_is_rejected_before_serving(project: Project) -> None:
    shutil.rmtree(project.base)
    make_base(project.base, "another base")
    with pytest.raises(Refused, match=r"model\.safetensors changed: its SHA-256 is"):
        project.verify()
    with pytest.raises(StageError, match="was tuned on the base"):
        project.sign()


def test_case_D8_a_signature_does_not_move_to_another_model(project: Project, tmp_path: Path) -> None:
    """A whole model, sound in itself, under a statement that was signed for another."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    make_adapter(adapter, make_base(base, "another base"))
    with pytest.raises(Refused, match="not the model that"):
        signing.verify(project.folder, base, adapter, keys.load(project.trust_file), keys.now())
