"""What people are called and what they write: kept beside the chain, which holds only a salted digest, so it can be erased."""

import secrets
import unicodedata

from sqlalchemy import Connection, insert, select, update

from slipway import digest
from slipway.artifacts import Json
from slipway.ledger.tables import sealed

LONGEST = 4_000  # characters that are kept of one text
LONGEST_NAME = 300  # and of a name, which is indexed


def seal(connection: Connection, text: str) -> Json:
    """Keep a text; what an event may hold of it. The same text is kept once."""
    text = cleaned(text)
    row = connection.execute(select(sealed).where(sealed.c.text == text)).first()
    if row is None:
        identifier, salt = secrets.token_hex(8), secrets.token_hex(16)
        connection.execute(insert(sealed).values(id=identifier, salt=salt, text=text))
        return {"sealed": identifier, "digest": _digest(salt, text)}
    return {"sealed": row.id, "digest": _digest(row.salt, row.text)}


def texts(connection: Connection) -> dict[str, str | None]:
    """Every sealed text by its id; None where it was erased."""
    return {row.id: row.text for row in connection.execute(select(sealed.c.id, sealed.c.text))}


def is_true(connection: Connection, held: Json) -> bool:
    """Whether a text still is what an event says it was; an erased one is not disproved."""
    row = connection.execute(select(sealed).where(sealed.c.id == str(held.get("sealed")))).first()
    return row is not None and (row.text is None or _digest(row.salt, row.text) == held.get("digest"))


def erase(connection: Connection, text: str) -> list[str]:
    """Forget a text for good; the ids that stood for it. The events that name them stay as they are."""
    found = list(connection.execute(select(sealed.c.id).where(sealed.c.text == cleaned(text))).scalars())
    if found:
        connection.execute(update(sealed).where(sealed.c.id.in_(found)).values(salt=None, text=None))
    return found


def cleaned(text: str, longest: int = LONGEST) -> str:
    """One line of visible text of bounded length, whatever came in."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    shown = "".join(_visible(character) for character in text[: longest + 1])
    if len(text) <= longest and len(shown) <= longest:
        return shown
    return f"{shown[:longest]}… ({len(text):,} characters, SHA-256 {digest.of_bytes(text.encode())})"


def cleaned_name(text: str) -> str:
    """The same for what a column is searched by."""
    return cleaned(text, LONGEST_NAME)


def _visible(character: str) -> str:
    """Nothing that ends a line, hides, or turns the reading direction."""
    if unicodedata.category(character)[0] == "C":
        return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
    return " " if unicodedata.category(character) in ("Zl", "Zp") else character


def _digest(salt: str, text: str) -> str:
    return digest.of_bytes(f"{salt}:{text}".encode())
