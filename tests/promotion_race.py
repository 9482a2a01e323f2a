"""A process that races others to promote; spawned by test_promotion.py, so it imports little."""

from pathlib import Path
from typing import Any

MODEL = "support-desk"


def race(root: Path, number: int, races: int, start: Any, done: Any) -> None:
    """In each race it promotes a version of its own, decided on what served when the race began."""
    from slipway.errors import SlipwayError
    from slipway.ledger import champions
    from slipway.ledger.database import Database
    from slipway.ledger.events import Actor
    from slipway.registry import promotion

    database, ada = Database.of(root), Actor("ada", "os-user")
    for count in range(races):
        with database.read() as connection:
            now = champions.find(connection, MODEL)
        others = [f"1.{minor}.0" for minor in range(9) if now is None or f"1.{minor}.0" != now.version]
        generation = now.generation if now else 0
        start.wait(300)
        try:
            won = promotion.promote(root, MODEL, others[number], generation, "race", ada, mirrored=False)
            done.put((count, "won", won.generation, won.version, won.previous))
        except SlipwayError as error:
            done.put((count, "lost to generation" if "lost to generation" in str(error) else str(error), 0, "", None))
        start.wait(300)
    database.close()
