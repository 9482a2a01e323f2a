"""Numbers and names as people read them; shared by the report and the terminal summary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slipway.artifacts import Estimate
from slipway.report.release import Outcome, Release, Status


@dataclass(frozen=True)
class Word:
    """A state in words, with a sign and a tone: colour is never the only carrier."""

    text: str
    sign: str
    tone: str  # good | bad | warn | mute: a CSS class, and a colour in the terminal


OUTCOMES: dict[Outcome, Word] = {
    "registered": Word("Registered", "✓", "good"),
    "refused": Word("Refused", "✕", "bad"),
    "undecided": Word("Undecided", "?", "warn"),
    "failed": Word("Failed", "!", "bad"),
    "aborted": Word("Aborted", "■", "mute"),
    "passed": Word("Passed", "✓", "good"),
}
STATUSES: dict[Status, Word] = {
    "ran": Word("ran", "✓", "good"),
    "cached": Word("cached", "↺", "good"),
    "unchanged": Word("unchanged", "=", "good"),
    "failed": Word("failed", "!", "bad"),
    "refused": Word("refused", "✕", "bad"),
    "not run": Word("not run", "–", "mute"),
}
VERDICTS: dict[str, Word] = {
    "pass": Word("pass", "✓", "good"),
    "refuse": Word("refuse", "✕", "bad"),
    "undecided": Word("undecided", "?", "warn"),
}


WAIVED = Word("waived", "◇", "warn")


@dataclass(frozen=True)
class Metric:
    """How a metric is called, whether it is a share of rows, and which way is better."""

    name: str
    share: bool
    higher: bool

    def show(self, value: float) -> str:
        return percent(value) if self.share else number(value)

    def interval(self, estimate: Estimate) -> str:
        return f"{self.show(estimate.low).removesuffix(' %')}–{self.show(estimate.high)}"

    def change(self, value: float) -> str:
        sign = "+" if value > 0 else "−" if value < 0 else "±"
        size = abs(value)
        return f"{sign}{size * 100:.1f} points" if self.share else f"{sign}{number(size)}"

    def change_interval(self, delta: Estimate) -> str:
        return f"{self.change(delta.low).removesuffix(' points')} to {self.change(delta.high)}"

    def tone(self, change: float) -> str:
        if change == 0:
            return "mute"
        return "good" if (change > 0) == self.higher else "bad"


# In the order they are shown. A metric that is not here is shown after them under its own name.
METRICS: dict[str, Metric] = {
    "exact_match": Metric("Exact match", True, True),
    "accuracy": Metric("Label accuracy", True, True),
    "macro_precision": Metric("Macro precision", True, True),
    "macro_recall": Metric("Macro recall", True, True),
    "macro_f1": Metric("Macro F1", True, True),
    "loss": Metric("Held-out loss", False, False),
    "perplexity": Metric("Perplexity", False, False),
    "format_validity": Metric("Valid format", True, True),
    "acc": Metric("Accuracy", True, True),
    "acc_norm": Metric("Accuracy, length-normalised", True, True),
    "mc2": Metric("Weight on true answers", True, True),
    "pass_at_1": Metric("Programs that pass", True, True),
    "word_perplexity": Metric("Perplexity a word", False, False),
    "byte_perplexity": Metric("Perplexity a byte", False, False),
    "bits_per_byte": Metric("Bits a byte", False, False),
}


def metric(name: str) -> Metric:
    """How a metric is shown; `base_` and a rate's ending say what an unlisted one is."""
    if name.startswith("base_") and (known := METRICS.get(name.removeprefix("base_"))):
        return replace(known, name=f"base {known.name.lower()}")
    return METRICS.get(name) or Metric(title(name), name.endswith("_rate"), True)


def metric_order(names: set[str]) -> list[str]:
    return [name for name in METRICS if name in names] + sorted(names - METRICS.keys())


_ACRONYMS = {"json", "iban", "ip", "pii", "id", "nan", "bom"}


def title(name: str) -> str:
    """`leaked_test` → `Leaked test`, `broken_json` → `Broken JSON`."""
    words = name.replace("_", " ").split()
    shown = " ".join(word.upper() if word.lower() in _ACRONYMS else word for word in words)
    return shown[:1].upper() + shown[1:]


def reason(release: Release) -> str:
    """Why a release ended as it did, without the verdict's name, which stands beside it."""
    said = release.reason
    for verdict in VERDICTS:
        said = said.removeprefix(f"{verdict}: ")
    return f"{release.model} {release.version}, {said}" if release.version else said


def places(rows: Sequence[str]) -> str:
    """`a.jsonl:3, a.jsonl:9` → `a.jsonl rows 3, 9`."""
    by_file: dict[str, list[str]] = {}
    for place in rows:
        file, _, row = place.rpartition(":")
        by_file.setdefault(file, []).append(row)
    return "; ".join(f"{file} rows {', '.join(numbers)}".strip() for file, numbers in by_file.items())


def percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def number(value: float | int | str | None) -> str:
    """Four significant digits (two when tiny), thousands apart; whole numbers whole."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.2g}"
    return shown.replace("-", "−")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def count(how_many: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{how_many:,} {one if how_many == 1 else many or one + 's'}"


def short(sha256: str | None) -> str:
    return sha256[:12] if sha256 else "–"
