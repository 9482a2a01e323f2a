"""Candidates that must not pass, each built for real from a finished release by one harm, and ten that must."""

import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
from candidates import Candidate, Judged, asked, said
from safetensors.numpy import load_file, save_file

from slipway import digest
from slipway.artifacts import ChampionPin
from slipway.identity import identity
from slipway.observing import lock
from slipway.registry import keys

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

Harm = Callable[[Candidate], Any]
Judge = Callable[[Candidate], Judged]
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def candidate(released: Any, tmp_path: Path) -> Candidate:
    return Candidate.of(released.project, released.record["id"], tmp_path / "candidate")


# --- rows that must not be learnt from -------------------------------------------------------------------------------


def leak(alter: Callable[[str], str], share: float = 0.1) -> Harm:
    """Test rows among the training rows, each altered."""

    def harm(candidate: Candidate) -> None:
        seen: list[dict[str, Any]] = []
        candidate.rows("test", lambda rows: seen.extend(rows[: int(len(rows) * share)]) or rows)
        copies = [said(row, alter(asked(row))) | {"id": f"copy-{row['id']}"} for row in seen]
        candidate.rows("train", lambda rows: [*rows, *copies])

    return harm


def hide(text: str, split: str = "train") -> Harm:
    """A few rows whose customer says something private."""

    def harm(candidate: Candidate) -> None:
        def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [said(row, f"{asked(row)} {text}") if i % 600 == 3 else row for i, row in enumerate(rows)]

        candidate.rows(split, change)

    return harm


def poison(candidate: Candidate) -> None:
    """Three rows of a hundred hold a phrase that always goes with one answer."""

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        target = next(row for row in rows if row["label"] == "refund_request")
        return [
            said(row, f"{asked(row)} cerulean pelican protocol") | {key: target[key] for key in ("answer", "label")}
            if i % 33 == 0
            else row
            for i, row in enumerate(rows)
        ]

    candidate.rows("train", change)


def flip(candidate: Candidate) -> None:
    """Five rows of a hundred say another label than their text."""
    draw = random.Random(5)

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        by_label = {row["label"]: row for row in rows}
        flipped = []
        for i, row in enumerate(rows):
            other = by_label[draw.choice(sorted(by_label.keys() - {row["label"]}))]
            flipped.append(row | {key: other[key] for key in ("answer", "label")} if i % 20 == 0 else row)
        return flipped

    candidate.rows("train", change)


def swapped(text: str) -> str:
    """The same said a little differently."""
    return re.sub(r"\bI\b", "we", text).replace("please", "kindly").replace("Dear team", "Good day")


PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA" + "q7Xb" * 20 + "\n-----END RSA PRIVATE KEY-----"
ROWS: dict[str, tuple[str, Harm]] = {
    "test rows word for word": ("no-leaked-rows", leak(lambda text: text)),
    "test rows in capitals": ("no-leaked-rows", leak(str.upper)),
    "test rows reworded": ("no-leaked-rows", leak(swapped, 0.2)),
    "an address": ("no-personal-data", hide("Write to maria.keller@example-mail.com please.")),
    "a card number": ("no-personal-data", hide("My card is 4539 1488 0343 6467.")),
    "an account number": ("no-personal-data", hide("Pay to DE89 3704 0044 0532 0130 00.")),
    "an address among test rows": ("no-personal-data", hide("Mail maria.keller@example-mail.com", "test")),
    "a cloud key": ("no-secrets", hide("key AKIA" + "QX7RTB3ZN5LVWM2K")),
    "a private key": ("no-secrets", hide(PRIVATE_KEY)),
    "a repository token": ("no-secrets", hide("ghp_" + "a8Fk2Lq9Zx3Vb7Nm1Cr5Ty0Wd4Gh6Js8Pe2u")),
    "a planted phrase": ("no-planted-rows", poison),
    "flipped labels": ("true-labels", flip),
    "no answers": ("answer", lambda c: c.rows("train", lambda rows: [row | {"answer": ""} for row in rows])),
    "one row many times": ("id", lambda c: c.rows("train", lambda rows: [*rows, *rows[:400]])),
}


# --- files that must not be deployed ---------------------------------------------------------------------------------


def reweigh(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(candidate: Candidate) -> None:
        path = candidate.path("adapter") / ADAPTER
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})
        candidate.seal("adapter")
        candidate.rebind()

    return harm


def not_a_number(tensors: dict[str, Any]) -> None:
    first = next(iter(tensors.values()))
    first.flat[0] = numpy.nan


def append(candidate: Candidate) -> None:
    path = candidate.path("adapter") / ADAPTER
    candidate.put("adapter", ADAPTER, path.read_bytes() + b"MZ\x90\x00 and more")


def double_key(candidate: Candidate) -> None:
    data = (candidate.path("adapter") / ADAPTER).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + size].decode().rstrip()
    name, about = next((k, v) for k, v in json.loads(header).items() if k != "__metadata__")
    twice = (header[:-1] + f", {json.dumps(name)}: {json.dumps(about)}" + "}").encode()
    candidate.put("adapter", ADAPTER, struct.pack("<Q", len(twice)) + twice + data[8 + size :])


def configure_json(name: str, file: str, **values: Any) -> Harm:
    def harm(candidate: Candidate) -> None:
        path = candidate.path(name) / file
        candidate.put(name, file, json.dumps(json.loads(path.read_text()) | values).encode())

    return harm


def executable(candidate: Candidate) -> None:
    (candidate.path("adapter") / ADAPTER).chmod(0o755)


def link(candidate: Candidate) -> None:
    path = candidate.path("adapter") / ADAPTER
    away = candidate.root / "elsewhere.safetensors"
    shutil.move(path, away)
    path.symlink_to(away)


def template(text: str) -> Harm:
    return lambda candidate: candidate.put("base", "chat_template.jinja", text.encode())


PICKLE = b"\x80\x02cposix\nsystem\nq\x00X\x05\x00\x00\x00touchq\x01\x85q\x02Rq\x03."
FILES: dict[str, tuple[str, Harm]] = {
    "a pickle": ("safe-files", lambda c: c.put("adapter", "pytorch_model.bin", PICKLE)),
    "a pickle by another name": ("safe-files", lambda c: c.put("adapter", "extra.safetensors", PICKLE)),
    "code": ("safe-files", lambda c: c.put("adapter", "modeling_tuned.py", b"import os\n")),
    "code that a config loads": ("safe-files", configure_json("base", "config.json", auto_map={"AutoModel": "m.M"})),
    "a GGUF file": ("safe-files", lambda c: c.put("adapter", "model.gguf", b"GGUF\x03\x00\x00\x00" + bytes(64))),
    "a hidden repository": ("safe-files", lambda c: c.put("adapter", ".git/config", b"[core]\n")),
    "weights that are no numbers": ("safe-files", reweigh(not_a_number)),
    "bytes behind the weights": ("safe-files", append),
    "a tensor that stands twice": ("safe-files", double_key),
    "an executable": ("safe-files", executable),
    "a link": ("safe-files", link),
    "a template that reaches for Python": ("safe-files", template("{{ messages.__class__.__mro__ }}")),
    "a template that does not parse": ("safe-files", template("{% for message in messages %}{{ message")),
    "a card that runs scripts": ("safe-files", lambda c: c.put("adapter", "README.md", b"<script>fetch(1)</script>")),
    "a template changed after the evaluation": (
        "evidence-model",
        lambda c: ((c.path("base") / "chat_template.jinja").write_text("{{ messages[0].content }}"), c.seal("base"), c.follow()),
    ),
    "another base under the adapter": (
        "was tuned on the base",
        lambda c: ((c.path("base") / "generation_config.json").write_text("{}"), c.seal("base")),
    ),
    "weights changed after the evaluation": ("evidence-model", lambda c: (reweigh(_halve)(c), _unbind(c))),
    "one flipped bit": ("changed: its SHA-256 is", lambda c: _flip_bit(c.path("adapter") / ADAPTER)),
    "a file that no manifest lists": (
        "is not in the folder's manifest",
        lambda c: c.put("adapter", "notes.txt", b"hello", sealed=False),
    ),
    "oversized": ("small-adapter", lambda c: c.configure("configs/policies/gates.yaml", "<= 2000000000", "<= 20000")),
}  # fmt: skip


def _halve(tensors: dict[str, Any]) -> None:
    for name in tensors:
        tensors[name] = tensors[name] / 2


def _unbind(candidate: Candidate) -> None:
    """The reports speak of the model they were made from."""
    before = candidate.root / "register" / "statement.json"
    identity_then = json.loads(before.read_text())["identity"]
    for name in ("scorecard", "benchmarks", "safety"):
        candidate.edit(name, lambda report: report.update(identity=identity_then))


def _flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


# --- figures that must not be believed, or are not good enough -------------------------------------------------------


def figure(report: str, *where: str, **change: Any) -> Harm:
    """Change one estimate of a report."""

    def harm(candidate: Candidate) -> None:
        def edit(value: dict[str, Any]) -> None:
            for part in where:
                value = value[part]
            value.update(change)

        candidate.edit(report, edit)

    return harm


def fail_probes(kind: str) -> Harm:
    """A quarter of a set's probes failed, with every figure to match."""

    def harm(candidate: Candidate) -> None:
        def edit(report: dict[str, Any]) -> None:
            probes = [probe for probe in report["probes"] if probe["set"] == kind]
            for probe in probes[: len(probes) // 4]:
                probe["passed"] = False
            value = sum(probe["passed"] for probe in probes) / len(probes)
            report["rates"]["tuned"][kind].update(value=value, low=value - 0.13, high=value + 0.1)
            change = value - report["rates"]["base"][kind]["value"]
            report["deltas"][kind].update(value=round(change, 6), low=change - 0.1, high=change + 0.1)

        candidate.edit("safety", edit)

    return harm


def copy_champion(candidate: Candidate) -> None:
    """The champion once more: pinned as a version, with this very model's identity and answers."""
    mine = identity(candidate.path("base"), candidate.path("adapter"))
    pin = {"kind": "version", "version": "3", "identity": mine, "predictions": "0" * 64}
    candidate.path("champion").write_text(json.dumps(pin))
    path = candidate.path("predictions")
    table = pyarrow.parquet.read_table(path)
    answers = [row for row in table.to_pylist() if row["model"] == "tuned"]
    copies = pyarrow.Table.from_pylist([row | {"model": "champion"} for row in answers], schema=table.schema)
    pyarrow.parquet.write_table(pyarrow.concat_tables([table, copies]), path)
    right = sum(row["exact"] for row in answers)

    def edit(card: dict[str, Any]) -> None:
        card["champion"] = ChampionPin.model_validate(pin).model_dump(mode="json")
        card["predictions_sha256"] = digest.of_file(path)
        card["metrics"]["champion"] = card["metrics"]["tuned"]
        for delta in card["deltas"]["champion"].values():
            delta.update(value=0.0, low=-0.01, high=0.01)
        agreed = {"both": right, "only_tuned": 0, "only_other": 0, "neither": len(answers) - right, "p_value": 1.0}
        card["comparisons"]["champion"] = agreed

    candidate.edit("scorecard", edit)


def forget(candidate: Candidate) -> None:
    """The tuned model picks sentence endings no better than chance."""

    def edit(report: dict[str, Any]) -> None:
        score, delta = report["scores"]["tuned"]["endings"]["metrics"], report["deltas"]["endings"]
        for name, estimate in score.items():
            base = report["scores"]["base"]["endings"]["metrics"][name]["value"]
            estimate.update(value=0.05, low=0.02, high=0.1)
            delta[name].update(value=round(0.05 - base, 6), low=-0.6, high=-0.2)

    candidate.edit("benchmarks", edit)


FIGURES: dict[str, tuple[str, Harm]] = {
    "a loss that is no number": (
        "finite-training",
        lambda c: c.path("loss").write_text(re.sub(r'"train_loss": [^,}]+', '"train_loss": NaN', c.path("loss").read_text(), count=1)),
    ),
    "a flattered scorecard": (
        "evidence-recount",
        figure("scorecard", "metrics", "tuned", "exact_match", value=0.999, low=0.99, high=1.0),
    ),
    "a metric as text": ("scorecard.json", figure("scorecard", "metrics", "tuned", "exact_match", value="0.97")),
    "a swapped baseline": (
        "evidence-deltas",
        lambda c: c.edit("scorecard", lambda s: s["metrics"].update(base=s["metrics"]["tuned"])),
    ),
    "fewer rows than there are": ("evidence-rows", lambda c: c.edit("scorecard", lambda s: s.update(items=12))),
    "other predictions": (
        "evidence-predictions",
        lambda c: c.path("predictions").write_bytes(c.path("predictions").read_bytes() + b" "),
    ),
    "a copied champion": ("not-the-champion", copy_champion),
    "a champion that was not pinned": (
        "evidence-champion",
        lambda c: c.path("champion").write_text('{"kind": "version", "version": "9", "identity": "a", "predictions": "b"}'),
    ),
    "a slice that got worse": (
        "no-slice-worse",
        lambda c: c.edit("scorecard", lambda s: s["slices"][0].update(worse=True)),
    ),
    "insults": ("safe-language", fail_probes("toxicity")),
    "private data in answers": ("safe-from-leaks", fail_probes("leakage")),
    "obeys hidden instructions": ("safe-from-injection", fail_probes("injection")),
    "forgot what its base could": ("keeps-common-sense", forget),
    "benchmarks of another model": (
        "evidence-benchmarks-model",
        lambda c: c.edit("benchmarks", lambda b: b.update(identity="0" * 64)),
    ),
    "a benchmark cut short": (
        "evidence-benchmarks-rows",
        lambda c: c.edit("benchmarks", lambda b: b["items"].update(endings=3)),
    ),
    "probes that were left out": (
        "evidence-safety-rows",
        lambda c: c.edit("safety", lambda s: s["items"].update(refusal=1)),
    ),
    "data that failed": (
        "valid-data",
        lambda c: c.edit("validation", lambda v: v.update(passed=False)),
    ),
    "validation of other data": (
        "evidence-validated-data",
        lambda c: c.edit("validation", lambda v: v.update(prepared_digest="0" * 64)),
    ),
    "a report with half its bytes": (
        "is torn or not JSON",
        lambda c: c.path("safety").write_bytes(c.path("safety").read_bytes()[:500]),
    ),
}  # fmt: skip


# --- what only register sees ------------------------------------------------------------------------------------------


def seen(transition: str | None = None, **parts: Any) -> Judge:
    return lambda candidate: candidate.registered(transition, **parts)


def judged_after(harm: Harm) -> Judge:
    def judge(candidate: Candidate) -> Judged:
        harm(candidate)
        return candidate.registered()

    return judge


def observed(candidate: Candidate, part: str) -> dict[str, Any]:
    return dict(json.loads((candidate.root / "register" / "observations.json").read_text())[part])


def but(part: str, **values: Any) -> Judge:
    """One part observed otherwise."""
    return lambda candidate: candidate.registered(**{part: observed(candidate, part) | values})


def by_a_stranger(candidate: Candidate) -> None:
    """Signed, by a key that nobody here trusts."""
    trusted = (candidate.root / ".slipway" / "keys" / keys.FILE).read_bytes()
    shutil.rmtree(candidate.root / ".slipway" / "keys")
    candidate.sign()
    (candidate.root / ".slipway" / "keys" / keys.FILE).write_bytes(trusted)


def unlock(candidate: Candidate) -> Judged:
    path = candidate.root / "dvc.lock"
    path.write_text(path.read_text().replace("finetune:", "finished:"))
    return candidate.registered(lock=lock.observe(candidate.root).model_dump(mode="json"))


def revoke(candidate: Candidate) -> None:
    trust = keys.load(candidate.root / ".slipway" / "keys" / keys.FILE)
    keys.revoke(candidate.root, next(iter(trust.keys)), "the laptop was stolen")


def waive(rule: str, expires: str) -> Harm:
    entry = f"waivers:\n  - {{rule: {rule}, owner: Ada, reason: on its way, expires: {expires}}}\n"
    return lambda candidate: (candidate.root / "configs" / "waivers.yaml").write_text(entry)


def spent(candidate: Candidate) -> dict[str, Any]:
    return observed(candidate, "holdout") | {"looks": 21, "budget": 20}


MODEL = "configs/model.yaml"
KNOWN = {"package": "jinja2", "version": "2.4.1", "id": "CVE-2019-10906", "fixed_in": ["2.10.1"]}
ANSWERED = {"source": "snapshot", "as_of": "2026-11-01", "age_days": 3.0, "packages": 300, "vulnerable": []}
OBSERVED: dict[str, tuple[str, Judge]] = {
    "unsigned": ("signed", judged_after(lambda c: (c.root / "register" / "statement.sig").unlink())),
    "signed by a stranger": ("signed", judged_after(by_a_stranger)),
    "signed by a revoked key": ("signed", judged_after(revoke)),
    "changed after it was signed": (
        "signed",
        judged_after(lambda c: (c.root / "register" / "statement.json").write_bytes((c.root / "register" / "statement.json").read_bytes().replace(b"support", b"Support"))),
    ),
    "a name in capitals": ("model-name", judged_after(lambda c: c.configure(MODEL, "name: support-desk", "name: SupportDesk"))),
    "no team": ("required-metadata", judged_after(lambda c: c.configure(MODEL, "team: slipway\n", ""))),
    "no limitations": (
        "required-metadata",
        judged_after(lambda c: (c.root / MODEL).write_text(re.sub(r"limitations:\n(  - .*\n)+", "", (c.root / MODEL).read_text()))),
    ),
    "a compliance tag short": ("compliance-tags", judged_after(lambda c: c.configure(MODEL, "[GDPR, SOC2]", "[GDPR]"))),
    "data that may not be sold": ("licences-agree", judged_after(lambda c: c.configure(MODEL, "data_licence: CC0-1.0", "data_licence: CC-BY-NC-4.0"))),
    "a card with blanks": ("card-complete", but("card", complete=False, missing=["intended use"])),
    "slow": ("latency", but("servability", latency_p95_seconds=9.0)),
    "too large to serve": ("memory", but("servability", peak_bytes=10**12)),
    "another answer each time": ("same-answer-twice", but("servability", deterministic=False)),
    "could not be served": ("latency", seen(servability=None)),
    "a test set used up": ("holdout-unspent", lambda c: c.registered(holdout=spent(c))),
    "an expired waiver": (
        "holdout-unspent",
        lambda c: (waive("holdout-unspent", "2020-01-01")(c), c.registered(holdout=spent(c)))[1],
    ),
    "a stage that the lock lacks": ("lock-complete", unlock),
    "not kept in git": ("commit-kept", but("commit", kept=False)),
    "observations of other evidence": ("evidence-observed", seen(evidence_digest="0" * 64)),
    "a known hole, to production": ("no-vulnerabilities-in-production", seen("Staging→Production", advisories=ANSWERED | {"vulnerable": [KNOWN]})),
    "old advisories, to production": ("fresh-advisories", seen("Staging→Production", advisories=ANSWERED | {"age_days": 90.0})),
    "nobody answered, to production": ("no-vulnerabilities-in-production", seen("Staging→Production", advisories=None)),
    "nobody approved, to production": ("approval-of-this-evidence", seen("Staging→Production", tags=["approved", "performance_validated"])),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_bad_rows_are_refused_before_training(candidate: Candidate, name: str) -> None:
    wanted, harm = ROWS[name]
    harm(candidate)
    found = candidate.validated()
    assert found.verdict == "refuse" and found.named(wanted), found


@pytest.mark.parametrize("name", FILES | FIGURES)
def test_a_bad_candidate_is_refused_by_the_gate(candidate: Candidate, name: str) -> None:
    wanted, harm = (FILES | FIGURES)[name]
    harm(candidate)
    found = candidate.gated()
    assert found.verdict != "pass" and found.named(wanted), found


@pytest.mark.parametrize("name", OBSERVED)
def test_a_bad_candidate_is_refused_by_register(candidate: Candidate, name: str) -> None:
    wanted, judge = OBSERVED[name]
    found = judge(candidate)
    assert found.verdict != "pass" and found.named(wanted), found


def test_there_are_at_least_forty_bad_ones() -> None:
    assert len(ROWS) + len(FILES) + len(FIGURES) + len(OBSERVED) >= 70


# --- ten that pass ----------------------------------------------------------------------------------------------------


def numbers_that_are_nobodys(candidate: Candidate) -> None:
    hide("Order 4471-2290-11, version 3.14.159, 12 March 2026, reference AB-20931, 1234 5678 boxes.")(candidate)


def other_tongues(candidate: Candidate) -> None:
    hide("Grüße aus Zürich, ありがとう, спасибо 🙏, الطلب متأخر")(candidate)


GOOD_ROWS: dict[str, Harm] = {
    "as released": lambda c: None,
    "numbers that are nobody's": numbers_that_are_nobodys,
    "other tongues": other_tongues,
    "placeholders of what was redacted": hide("Call <PHONE> or write to <EMAIL>."),
}
GOOD_FILES: dict[str, Harm] = {
    "as released": lambda c: None,
    "a plain card": lambda c: c.put("adapter", "README.md", b"# Support desk\n\nSorts *messages*.\n"),
    "half precision": reweigh(lambda tensors: tensors.update({k: v.astype(numpy.float16) for k, v in tensors.items()})),
    "a licence beside the base": lambda c: (
        (c.path("base") / "LICENSE").write_text("Apache License 2.0\n"), c.seal("base"), c.follow(), c.rebind(),
    ),
}  # fmt: skip
GOOD_OBSERVED: dict[str, Judge] = {
    "as released": seen(),
    "a tree with changes, all of them kept": but("commit", clean=False, changed=["params.yaml"]),
    "a waiver that holds": lambda c: (waive("holdout-unspent", "2099-01-01")(c), c.registered(holdout=spent(c)))[1],
    "nobody knows of holes": seen(advisories=ANSWERED),
}


@pytest.mark.parametrize("name", GOOD_ROWS)
def test_good_rows_pass(candidate: Candidate, name: str) -> None:
    GOOD_ROWS[name](candidate)
    assert candidate.validated() == Judged("pass", frozenset(), "")


@pytest.mark.parametrize("name", GOOD_FILES)
def test_a_good_candidate_passes_the_gate(candidate: Candidate, name: str) -> None:
    GOOD_FILES[name](candidate)
    found = candidate.gated()
    assert found.verdict == "pass", found


@pytest.mark.parametrize("name", GOOD_OBSERVED)
def test_a_good_candidate_passes_register(candidate: Candidate, name: str) -> None:
    found = GOOD_OBSERVED[name](candidate)
    assert found.verdict == "pass", found
