"""The Python packages beneath a model: which are installed, which of them Slipway needs, and under what licence."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from urllib.parse import quote

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

OURS = "slipway"

# What classifiers and free text mean, as an SPDX expression where they say that much.
_MEANINGS = {
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "new bsd license": "BSD-3-Clause",
    "gplv2 with linking exception": "GPL-2.0-only WITH GCC-exception-2.0",
    "gplv2 | eplv1": "GPL-2.0-only OR EPL-1.0",
    "gnu affero general public license v3": "AGPL-3.0-only",
    "gnu general public license (gpl)": "GPL-1.0-or-later",
    "gnu affero general public license v3 or later (agplv3+)": "AGPL-3.0-or-later",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "zope public license": "ZPL-2.1",
}
_SAY_NOTHING = {"OSI Approved", "DFSG approved"}
_OPENING = 2500  # letters of a licence's text: further down it names others, or those of parts it carries
_LINE = 80  # letters; a longer licence field is the licence's text
# Where nothing else speaks, a licence's own words do: all of one line's must stand in it, the first such line counts.
_PHRASES = (
    ("CC-BY-NC-ND-4.0", ("Attribution-NonCommercial-NoDerivatives 4.0 International",)),
    ("CC-BY-NC-SA-4.0", ("Attribution-NonCommercial-ShareAlike 4.0 International",)),
    ("CC-BY-NC-4.0", ("Attribution-NonCommercial 4.0 International",)),
    ("CC-BY-SA-4.0", ("Attribution-ShareAlike 4.0 International",)),
    ("CC-BY-4.0", ("Attribution 4.0 International",)),
    ("llama2", ("LLAMA 2 COMMUNITY LICENSE AGREEMENT",)),
    ("llama3", ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT",)),
    ("llama3.1", ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT",)),
    ("llama3.2", ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT",)),
    ("llama3.3", ("LLAMA 3.3 COMMUNITY LICENSE AGREEMENT",)),
    ("llama4", ("LLAMA 4 COMMUNITY LICENSE AGREEMENT",)),
    ("gemma", ("Gemma Terms of Use",)),
    ("AGPL-3.0-only", ("GNU AFFERO GENERAL PUBLIC LICENSE", "Version 3")),
    ("LGPL-3.0-only", ("GNU LESSER GENERAL PUBLIC LICENSE", "Version 3")),
    ("GPL-3.0-only", ("GNU GENERAL PUBLIC LICENSE", "Version 3")),
    ("GPL-2.0-only", ("GNU GENERAL PUBLIC LICENSE", "Version 2")),
    ("MPL-2.0", ("Mozilla Public License", "2.0")),
    ("Apache-2.0", ("Apache License", "Version 2.0, January 2004")),
    ("MIT", ("Permission is hereby granted, free of charge, to any person obtaining a copy",)),
    ("BSD-3-Clause", ("Redistribution and use in source and binary forms", "Neither the name of")),
    ("BSD-2-Clause", ("Redistribution and use in source and binary forms", "THIS SOFTWARE IS PROVIDED BY")),
)


@dataclass(frozen=True)
class Package:
    """One installed package, and every licence it names: an SPDX expression each, or its own words."""

    name: str
    version: str
    licences: tuple[str, ...] = ()

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{quote(self.name)}@{quote(self.version)}"


@cache
def installed() -> tuple[Package, ...]:
    """Every package of this environment but Slipway itself, in the order of their names."""
    return tuple(_package(found) for name, found in sorted(_found().items()) if name != OURS)


@cache
def needed() -> tuple[Package, ...]:
    """The installed packages that Slipway needs to run, those of its tests left out."""
    found, seen = _found(), set[tuple[str, str]]()
    waiting: deque[tuple[str, str]] = deque([(OURS, "")])
    while waiting:
        name, extra = waiting.popleft()
        if name in found and (name, extra) not in seen:
            seen.add((name, extra))
            waiting += _requirements(found[name], extra)
    return tuple(_package(found[name]) for name in sorted({name for name, _ in seen} - {OURS}))


def _found() -> dict[str, metadata.Distribution]:
    """By canonical name; of two copies the one that is imported, which stands first on the path."""
    found: dict[str, metadata.Distribution] = {}
    for one in metadata.distributions():
        found.setdefault(canonicalize_name(one.metadata["Name"]), one)
    return found


def _requirements(one: metadata.Distribution, extra: str) -> Iterator[tuple[str, str]]:
    """What a package with one of its extras ("": none) needs on this machine."""
    for line in one.requires or []:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue  # an old package's free text: nothing can be asked of it
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            yield from ((canonicalize_name(wanted.name), asked) for asked in ("", *sorted(wanted.extras)))


def _package(one: metadata.Distribution) -> Package:
    return Package(canonicalize_name(one.metadata["Name"]), one.version, licences_of(one))


def licences_of(one: metadata.Distribution) -> tuple[str, ...]:
    """What a package says its licence is: the SPDX field, else an SPDX line, its licence file, its classifiers."""
    about = one.metadata
    if expressions := about.get_all("License-Expression"):
        return (_meant(expressions[0]),)
    line = (about.get_all("License") or [""])[0].strip()
    if len(line) <= _LINE and is_spdx(known := _meant(line)):
        return (known,)
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]
    named = sorted({_meant(c) for c in classifiers} - _SAY_NOTHING)
    if named and all(is_spdx(one) for one in named):
        return tuple(named)
    of_file = _of_file(one)
    return (of_file,) if of_file else tuple(named) or ((line,) if 0 < len(line) <= _LINE else ())


def _meant(words: str) -> str:
    known = _MEANINGS.get(words.strip().lower(), words.strip())
    try:
        return str(canonicalize_license_expression(known))
    except InvalidLicenseExpression:
        return known


def is_spdx(words: str) -> bool:
    try:
        canonicalize_license_expression(words)
    except InvalidLicenseExpression:
        return False
    return True


def _of_file(one: metadata.Distribution) -> str | None:
    names = [file for file in one.files or [] if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))]
    for file in names:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if found := licence_of_text(text):
            return found
    return None


def licence_of_text(text: str) -> str | None:
    """The licence whose words a text holds; None when it is none that we know."""
    words = " ".join(text.split()).lower()[:_OPENING]
    return next((name for name, phrases in _PHRASES if all(phrase.lower() in words for phrase in phrases)), None)
