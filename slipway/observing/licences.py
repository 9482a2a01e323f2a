"""May this model be given away under the licence it claims? Its base's, its data's and its tools' licences say.

The rules are few and strict, and no lawyer: a conflict is a question for one. A licence that is not in the table is
listed as unknown, never taken for compatible.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from slipway import strict
from slipway.artifacts import Licences
from slipway.errors import SlipwayError
from slipway.observing import packages
from slipway.observing.packages import Package

Terms = frozenset[Literal["pass on", "non-commercial", "no derivatives", "restricts use"]]
Outcome = tuple[int, str]  # fine, unknown or conflict, and why

FREE: Terms = frozenset()
PASS_ON: Terms = frozenset({"pass on"})  # what is made from it carries the same licence
FINE, UNKNOWN, CONFLICT = 0, 1, 2
UNSTATED = "not stated"

_FREE_TO_USE = """
    0BSD AFL-3.0 Apache-2.0 Artistic-1.0 Artistic-2.0 BSD BSD-2-Clause BSD-3-Clause BSL-1.0 BlueOak-1.0.0 CC-BY-2.0
    CC-BY-3.0 CC-BY-4.0 CC0-1.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0 CNRI-Python HPND ISC MIT MIT-0 MIT-CMU MS-PL
    NCSA ODC-By-1.0 PDDL-1.0 PSF-2.0 Python-2.0 Unicode-3.0 Unlicense X11 ZPL-2.1 Zlib
"""
# Their terms hold for changed files of their own; an adapter beside an unchanged base is none.
_OF_FILES = "LGPL-2.0 LGPL-2.1 LGPL-3.0 MPL-1.1 MPL-2.0 EPL-1.0 EPL-2.0 CDDL-1.0 CDDL-1.1"
_PASS_ON = """
    CC-BY-SA-2.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CDLA-Sharing-1.0 EUPL-1.2 GPL-1.0 GPL-2.0 GPL-3.0 ODbL-1.0
    llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma openrail openrail++ bigscience-openrail-m
    bigcode-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
"""
TERMS: dict[str, Terms] = {
    **{name.lower(): FREE for name in (*_FREE_TO_USE.split(), *_OF_FILES.split(), "BSD License", "Artistic License")},
    **{name.lower(): PASS_ON for name in _PASS_ON.split()},
    **{f"cc-by-nc-{v}": frozenset({"non-commercial"}) for v in ("2.0", "3.0", "4.0")},
    **{f"cc-by-nc-sa-{v}": frozenset({"non-commercial", "pass on"}) for v in ("2.0", "3.0", "4.0")},
    **{f"cc-by-nd-{v}": frozenset({"no derivatives"}) for v in ("2.0", "3.0", "4.0")},
    **{f"cc-by-nc-nd-{v}": frozenset({"non-commercial", "no derivatives"}) for v in ("2.0", "3.0", "4.0")},
    "agpl-3.0": frozenset({"pass on", "restricts use"}),
    "sspl-1.0": frozenset({"pass on", "restricts use"}),
    "busl-1.1": frozenset({"non-commercial", "restricts use"}),
    "elastic-2.0": frozenset({"restricts use"}),
    "polyform-noncommercial-1.0.0": frozenset({"non-commercial", "restricts use"}),
}
# Families of base models whose licence is known by their name on the hub.
_KNOWN_BASES = {
    "meta-llama/Llama-2-": "llama2",
    "meta-llama/Meta-Llama-3-": "llama3",
    "meta-llama/Llama-3.1-": "llama3.1",
    "meta-llama/Meta-Llama-3.1-": "llama3.1",
    "meta-llama/Llama-3.2-": "llama3.2",
    "meta-llama/Llama-3.3-": "llama3.3",
    "meta-llama/Llama-4-": "llama4",
    "google/gemma-": "gemma",
}
_LONGEST = 1_000  # letters of an expression; no honest one comes near
_DEEPEST = 20
_README_BYTES = 200_000


def observe(
    model: Mapping[str, Any], base: Path, source: str | None = None, dependencies: Sequence[Package] | None = None
) -> Licences:
    """The licences of a model (configs/model.yaml), its base folder (`source`: its name on the hub) and its tools."""
    tools = packages.needed() if dependencies is None else dependencies
    licence, data = _stated(model, "licence"), _stated(model, "data_licence")
    base_licence, disagreements = _of_base(_stated(model, "base_licence"), list(_own_statements(base, source)))
    found = [_known("model", licence), _against("base", base_licence, licence), _against("data", data, licence)]
    found += [_of_tool(tool) for tool in tools]
    found += [(CONFLICT, text) for text in disagreements]
    return Licences(
        model=licence,
        base=base_licence,
        data=data,
        dependencies=len(tools),
        conflicts=sorted(text for outcome, text in found if outcome == CONFLICT),
        unknown=sorted(text for outcome, text in found if outcome == UNKNOWN),
    )


def _stated(model: Mapping[str, Any], name: str) -> str:
    value = model.get(name)
    return value if isinstance(value, str) and value.strip() else UNSTATED


# --- one part against the model's own licence ---


def _known(part: str, licence: str) -> Outcome:
    return judged(licence, lambda one: (FINE, "") if _terms(one) is not None else (UNKNOWN, f"{part}: {one}"))


def _against(part: str, licence: str, model: str) -> Outcome:
    """Whether something under `licence` may go into a model under `model`."""
    granted = identifiers(model)

    def one(name: str) -> Outcome:
        terms = _terms(name)
        if terms is None:
            return UNKNOWN, f"{part}: {name}"
        if "no derivatives" in terms:
            return CONFLICT, f"{part}: {name} allows no changed work, and a tuned model is one"
        if model == UNSTATED:
            return (UNKNOWN, f"{part}: {name}, against a model without a licence") if terms else (FINE, "")
        if "non-commercial" in terms and not all("non-commercial" in (_terms(own) or FREE) for own in granted):
            return CONFLICT, f"{part}: {name} forbids commercial use, which {model} allows"
        if "pass on" in terms and {_plain(own) for own in granted} != {_plain(name)}:
            return CONFLICT, f"{part}: {name} must be passed on, and the model's licence is {model}"
        return FINE, ""

    return judged(licence, one)


def _of_tool(tool: Package) -> Outcome:
    """A tool is not given away with the model, so copyleft does not reach it; a ban on using the tool does."""

    def one(name: str) -> Outcome:
        terms = _terms(name)
        if terms is None:
            return UNKNOWN, f"{tool.name} {tool.version}: {name}"
        if terms & {"non-commercial", "restricts use"}:
            return CONFLICT, f"{tool.name} {tool.version}: {name} restricts those who run it as a service"
        return FINE, ""

    # Several names without an operator may mean "and" as well as "or": all must do.
    return max(
        (judged(name, one) for name in tool.licences), default=(UNKNOWN, f"{tool.name} {tool.version}: {UNSTATED}")
    )


def _terms(name: str) -> Terms | None:
    return TERMS.get(_plain(name))


def _plain(name: str) -> str:
    """An identifier without what makes no difference here: case, version suffix, exception."""
    return re.sub(r"(-only|-or-later|\+)$", "", name.partition(" WITH ")[0].strip().lower())


# --- SPDX expressions ---


def judged(expression: str, one: Callable[[str], Outcome]) -> Outcome:
    """The outcome of an SPDX expression: the worst of what AND joins, the best of what OR offers."""
    return _Reader(expression, one).outcome()


def identifiers(expression: str) -> list[str]:
    """Every licence that an expression names."""
    found: list[str] = []

    def note(name: str) -> Outcome:
        found.append(name)
        return FINE, ""

    judged(expression, note)
    return found


class _Reader:
    """Reads an expression once, from left to right; one that cannot be read is a single, unknown licence."""

    def __init__(self, expression: str, one: Callable[[str], Outcome]) -> None:
        self.expression, self.one, self.depth = expression, one, 0
        self.words = re.findall(r"[()]|[^\s()]+", expression)[::-1]

    def outcome(self) -> Outcome:
        whole = len(self.expression) > _LONGEST or _plain(self.expression) in TERMS
        if whole or self.expression == UNSTATED or (not packages.is_spdx(self.expression) and len(self.words) > 1):
            return self.one(self.expression[:_LONGEST])
        return self._either()

    def _either(self) -> Outcome:
        found = [self._all()]
        while self.words and self.words[-1].upper() == "OR":
            self.words.pop()
            found.append(self._all())
        return min(found)

    def _all(self) -> Outcome:
        found = [self._part()]
        while self.words and self.words[-1].upper() == "AND":
            self.words.pop()
            found.append(self._part())
        return max(found)

    def _part(self) -> Outcome:
        word = self.words.pop()
        if word == "(":
            self.depth += 1
            found = self._either() if self.depth <= _DEEPEST else self.one(self.expression)
            if self.words:
                self.words.pop()  # its closing bracket
            return found
        if len(self.words) > 1 and self.words[-1].upper() == "WITH":
            word += f" WITH {self.words[-2]}"
            del self.words[-2:]
        return self.one(word)


# --- what the base says of itself ---


def _of_base(stated: str, own: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """The base's licence, and every disagreement between configs/model.yaml and the base itself."""
    if stated == UNSTATED:
        return (own[0][1] if own else UNSTATED), _disagreements(own[:1], own)
    return stated, _disagreements([("configs/model.yaml", stated)], own)


def _disagreements(first: list[tuple[str, str]], others: list[tuple[str, str]]) -> list[str]:
    said = [(where, licence) for where, licence in others if first and _plain(licence) != _plain(first[0][1])]
    return [f"base: {first[0][0]} says {first[0][1]}, {where} says {licence}" for where, licence in said]


def _own_statements(base: Path, source: str | None) -> Iterator[tuple[str, str]]:
    """Where the base names its licence, and which: its name, its card, its configuration, its licence file."""
    for start, licence in _KNOWN_BASES.items():
        if (source or "").lower().startswith(start.lower()):
            yield str(source), licence
    for name, said in (("README.md", _of_card(base / "README.md")), ("config.json", _of_config(base))):
        if said:
            yield name, said
    for path in sorted(base.glob("*")):
        if path.is_file() and re.match(r"(licen[sc]e|copying)([.-].*)?$", path.name.lower()):
            text = path.read_bytes()[:_README_BYTES].decode("utf-8", errors="replace")
            yield path.name, packages.licence_of_text(text) or f"a text that is not known ({path.name})"


def _of_card(path: Path) -> str | None:
    """`license` of a Hugging Face card; `license_name` where it says "other"."""
    if not path.is_file():
        return None
    text = path.read_bytes()[:_README_BYTES].decode("utf-8", errors="replace")
    block = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.S)
    try:
        about = yaml.safe_load(block.group(1)) if block else {}
    except (yaml.YAMLError, ValueError, RecursionError):
        return "metadata that cannot be read"
    if not isinstance(about, dict):
        return None
    licence = about.get("license")
    named = about.get("license_name") if licence == "other" else licence
    if isinstance(named, list):
        return " AND ".join(str(one) for one in named)
    return str(named or licence) if licence else None


def _of_config(base: Path) -> str | None:
    path = base / "config.json"
    try:
        about = strict.read_json(path) if path.is_file() else {}
    except SlipwayError:
        return "a configuration that cannot be read"
    licence = about.get("license") if isinstance(about, dict) else None
    return str(licence) if licence else None
