"""Personal data in text, recognised by pattern and checksum, replaced by a placeholder."""

import re
from collections import Counter
from collections.abc import Callable, Iterable

# Length of an IBAN by country: a checksum alone would also fit one in 97 chance strings.
_IBAN_LENGTHS = {
    **dict.fromkeys(["NO"], 15), **dict.fromkeys(["BE"], 16), **dict.fromkeys(["DK", "FI", "FO", "GL", "NL"], 18),
    **dict.fromkeys(["MK", "SI"], 19), **dict.fromkeys(["AT", "BA", "EE", "LT", "LU", "XK"], 20),
    **dict.fromkeys(["CH", "HR", "LI", "LV"], 21), **dict.fromkeys(["BG", "DE", "GB", "GE", "IE", "ME", "RS"], 22),
    **dict.fromkeys(["AE", "GI", "IL"], 23),
    **dict.fromkeys(["AD", "CZ", "ES", "MD", "RO", "SA", "SE", "SK", "TN"], 24),
    **dict.fromkeys(["PT"], 25), **dict.fromkeys(["IS", "TR"], 26), **dict.fromkeys(["FR", "GR", "IT", "MC", "SM"], 27),
    **dict.fromkeys(["AL", "AZ", "CY", "DO", "HU", "LB", "PL"], 28), **dict.fromkeys(["BR", "PS", "QA", "UA"], 29),
    **dict.fromkeys(["JO", "KW", "MU"], 30), **dict.fromkeys(["MT"], 31),
}  # fmt: skip

_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_PATTERNS = {
    "email": r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,24}\b",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,27}",
    "card": r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])",
    "ip": rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\.?\w)",
    "phone": r"(?<![\w+])(?:(?:\+|00)[1-9](?:[ ().\-/]{0,2}\d){6,13}|\(?\d{3}\)?[ .\-]\d{3}[ .\-]\d{4})(?!\w)",
}
KINDS = tuple(_PATTERNS)


def luhn(digits: str) -> bool:
    """Whether a card number's check digit is right."""
    total = sum(sum(divmod(int(d) * (1 + i % 2), 10)) for i, d in enumerate(reversed(digits)))
    return total % 10 == 0


def iban(text: str) -> bool:
    """Whether an account number without spaces has its country's length and the right check digits."""
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _card(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match[0])
    return "<CARD>" if len(set(digits)) > 1 and luhn(digits) else match[0]


def _iban(match: re.Match[str]) -> str:
    """The IBAN at the start of a match gives way; what stood behind it stays."""
    found = match[0]
    length, kept = _IBAN_LENGTHS.get(found[:2], 0), 0
    for end, character in enumerate(found, start=1):
        kept += character != " "
        if kept == length:
            return "<IBAN>" + found[end:] if iban(found[:end].replace(" ", "")) else found
    return found


_REPLACE: dict[str, str | Callable[[re.Match[str]], str]] = {
    "email": "<EMAIL>",
    "iban": _iban,
    "card": _card,
    "ip": "<IP>",
    "phone": "<PHONE>",
}
_COMPILED = {kind: re.compile(pattern, re.ASCII if kind != "email" else 0) for kind, pattern in _PATTERNS.items()}


def redact(text: str, kinds: Iterable[str], found: Counter[str] | None = None) -> str:
    """Text with every recognised item replaced by <KIND>; `found` counts them."""
    wanted = set(kinds)
    for kind, pattern in _COMPILED.items():
        if kind in wanted:
            before = text.count(f"<{kind.upper()}>")
            text = pattern.sub(_REPLACE[kind], text)
            if found is not None and (count := text.count(f"<{kind.upper()}>") - before):
                found[kind] += count
    return text
