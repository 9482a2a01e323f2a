"""Where the rows went: in, left after each step, dropped or altered by reason, out by split."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from slipway import strict
from slipway.errors import StageError
from slipway.report import words

SPLITS = {"train": "Training", "validation": "Validation", "test": "Test"}
MOST_LABELS = 20


class _Part(BaseModel):
    """A piece of the data card; what the report does not show may change without breaking it."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class CardStep(_Part):
    step: str
    rows: int


class CardSplit(_Part):
    rows: int
    tokens: int
    labels: dict[str, int]
    languages: dict[str, int]
    length_tokens: dict[str, float]


class Card(_Part):
    """What the report shows of data/prepared/card.json."""

    rows_in: int
    rows_out: int
    steps: list[CardStep]
    dropped: dict[str, int]
    altered: dict[str, int]
    splits: dict[str, CardSplit]
    overlap: dict[str, int]

    @classmethod
    def load(cls, path: Path) -> "Card":
        try:
            return cls.model_validate(strict.read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise StageError(f"{path} is not a data card: {where}: {first['msg']}; run prepare again") from None


@dataclass(frozen=True)
class Share:
    """One part of all rows, for the stacked bar."""

    name: str
    rows: int
    share: float
    colour: int


@dataclass(frozen=True)
class Step:
    """One step, reason or label with its bar, 0 to 1 of the longest in its table."""

    name: str
    rows: int
    bar: float


@dataclass(frozen=True)
class Table:
    heading: str
    column: str
    steps: list[Step]
    tone: str = "mute"


@dataclass(frozen=True)
class Funnel:
    rows_in: int
    rows_out: int
    parts: list[Share]
    tables: list[Table]
    facts: list[tuple[str, str]]

    @property
    def dropped_rows(self) -> int:
        return self.rows_in - self.rows_out


def _steps(counts: Mapping[str, int]) -> list[Step]:
    largest = max(counts.values(), default=0) or 1
    return [Step(words.title(name), rows, rows / largest) for name, rows in counts.items()]


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _facts(card: Card) -> list[tuple[str, str]]:
    """Lengths and languages of what is trained on, and what splits share."""
    train = card.splits.get("train")
    languages: Counter[str] = Counter()
    for split in card.splits.values():
        languages.update(split.languages)
    facts = [(f"Language {name}", words.percent(n / max(card.rows_out, 1))) for name, n in languages.most_common(3)]
    if train:
        facts.append(("Training tokens", words.number(train.tokens)))
    if train and train.length_tokens:
        middle, longest = train.length_tokens.get("p50"), train.length_tokens.get("max")
        facts += [("Tokens a row, middle", words.number(middle)), ("Tokens a row, longest", words.number(longest))]
    shared = ((words.title(f"prompts_in_{name.replace('_', '_and_')}"), n) for name, n in card.overlap.items())
    return facts + [(name, words.number(n)) for name, n in shared]


def funnel(card: Card | None) -> Funnel | None:
    """The funnel that a data card tells of; None where there is none, or no row came in."""
    if card is None or card.rows_in <= 0:
        return None
    labels: Counter[str] = Counter()
    for split in card.splits.values():
        labels.update(split.labels)
    sizes = {SPLITS[name]: card.splits[name].rows for name in SPLITS if name in card.splits}
    sizes["Dropped"] = card.rows_in - card.rows_out
    tables = [
        Table("Rows after each step", "Step", _steps({step.step: step.rows for step in card.steps}), "accent"),
        Table("Dropped rows", "Reason", _steps(_most_first(card.dropped))),
        Table("Altered rows", "Reason", _steps(_most_first(card.altered))),
    ]
    shown = dict(labels.most_common(MOST_LABELS))
    largest = max(shown.values(), default=0) or 1
    tables.append(Table("Labels", "Label", [Step(name, n, n / largest) for name, n in shown.items()], "accent"))
    return Funnel(
        rows_in=card.rows_in,
        rows_out=card.rows_out,
        parts=[Share(name, n, n / card.rows_in, place) for place, (name, n) in enumerate(sizes.items()) if n],
        tables=[table for table in tables if table.steps],
        facts=_facts(card),
    )
