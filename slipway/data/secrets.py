"""Credentials in text, told by the marks their issuers give them, or by an assignment of something random."""

import math
import re
from collections import Counter

from slipway.data.visible import visible

# kind → marks, without any of which a text is not searched (nearly every text is such), and the pattern.
# Every repetition is bounded, so that no text makes a search slow.
_DETECTORS: dict[str, tuple[tuple[str, ...], str]] = {
    "aws-key": (("AKIA", "ASIA", "AROA", "AIDA"), r"(?<![A-Z0-9])A(?:KIA|SIA|ROA|IDA)[A-Z0-9]{16}(?![A-Z0-9])"),
    "gcp-key": (("AIza",), r"(?<![\w-])AIza[\w-]{35}(?![\w-])"),
    "gcp-service-account": (("private_key_id",), r'private_key_id\\?"\s{0,4}:\s{0,4}\\?"[0-9a-f]{40}'),
    "azure-storage-key": (("AccountKey=",), r"AccountKey=[A-Za-z0-9+/]{86}=="),
    "azure-client-secret": (("8Q~",), r"(?<![\w~.-])[\w~.-]{3}8Q~[\w~.-]{34}(?![\w~-])"),
    "azure-shared-access": (("sig=",), r"[?&]sig=[A-Za-z0-9%+/]{43,80}(?:=|%3D)"),
    "github-token": (("gh", "github_pat_"), r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{60,255})(?!\w)"),
    "gitlab-token": (("glpat-",), r"(?<![\w-])glpat-[\w-]{20,64}(?![\w-])"),
    "slack-token": (("xox",), r"(?<!\w)xox[abeoprs]-[A-Za-z0-9-]{10,250}"),
    "slack-webhook": (("hooks.slack.com",), r"hooks\.slack\.com/services/T\w{6,12}/B\w{6,12}/\w{20,30}"),
    "stripe-key": (("k_live_", "k_test_"), r"(?<!\w)[rs]k_(?:live|test)_[A-Za-z0-9]{16,247}(?!\w)"),
    "anthropic-key": (("sk-ant-",), r"(?<![\w-])sk-ant-[\w-]{30,200}"),
    "openai-key": (("sk-",), r"(?<![\w-])sk-(?!ant-)(?=[\w-]{0,190}\d)[\w-]{32,200}(?![\w-])"),
    "hugging-face-token": (("hf_", "api_org_"), r"(?<!\w)(?:hf|api_org)_[A-Za-z0-9]{34}(?!\w)"),
    "package-token": (("pypi-", "npm_"), r"(?<!\w)(?:pypi-AgEIcHlwaS5vcmc[\w-]{50,250}|npm_[A-Za-z0-9]{36}(?!\w))"),
    "sendgrid-key": (("SG.",), r"(?<!\w)SG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),
    "telegram-token": ((":AA",), r"(?<!\d)\d{8,10}:AA[\w-]{33}(?![\w-])"),
    "private-key": (("-----BEGIN ",), r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    "json-web-token": (("eyJ",), r"(?<![\w-])eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000}"),
    "url-password": (("://",), r"\b[A-Za-z][\w+.-]{1,20}://[^\s:/?#@]{0,80}:(?P<value>[^\s/?#@]{3,120})@[\w.-]"),
    "assignment": (
        ("passw", "pwd", "secret", "token", "key", "credential"),
        r"(?i)(?:passwor[dt]|passwd|pwd|secret|token|(?:api|access|private|account|auth)[_ -]?key|credential)s?"
        r"[\"'\\]{0,2}\s{0,3}(?::?=>?|:|\bis\b)\s{0,3}[\"'`\\]{0,2}(?P<value>[^\s\"'`,;<>\\]{8,200})",
    ),
}
KINDS = tuple(_DETECTORS)
_SEARCH = {kind: (marks, re.compile(pattern)) for kind, (marks, pattern) in _DETECTORS.items()}
_DOCUMENTED = re.compile(r"(?i)example|x{6}")  # keys that manuals print
_PLACEHOLDER = re.compile(r"(?i)example|redacted|placeholder|your|change.?me|\$\{|\{\{|\*{3}|x{4}|\.{3}|(.)\1{5}|^<")
_BITS = 3.0  # a character: words and dates have less, random text of ten characters and more has more


def entropy(text: str) -> float:
    """Bits a character, by the text's own characters."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def _random(value: str) -> bool:
    """Letters and digits, mixed as no word mixes them."""
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and len(value) >= 10 and entropy(value) >= _BITS


def _is_secret(kind: str, match: re.Match[str]) -> bool:
    value = match.groupdict().get("value")
    if value is None:
        return not _DOCUMENTED.search(match[0])
    return not _PLACEHOLDER.search(value) and (kind != "assignment" or _random(value))


def found(text: str) -> Counter[str]:
    """How many secrets of each kind a text holds."""
    text = visible(text)
    folded, counts = text.casefold(), Counter[str]()
    for kind, (marks, pattern) in _SEARCH.items():
        within = folded if kind == "assignment" else text
        if any(mark in within for mark in marks):
            counts[kind] += sum(_is_secret(kind, match) for match in pattern.finditer(text))
    return +counts
