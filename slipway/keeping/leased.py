"""Hold a lease of the ledger for as long as a piece of work takes."""

import contextlib
import threading
from collections.abc import Iterator

from slipway.errors import SlipwayError
from slipway.ledger import leases
from slipway.ledger.database import Database
from slipway.ledger.leases import Lease

TTL_SECONDS = 15.0


@contextlib.contextmanager
def leased(database: Database, name: str, ttl_seconds: float = TTL_SECONDS) -> Iterator[Lease]:
    """A lease with a heartbeat. Whoever loses it all the same is refused in the next transaction that writes under it."""
    with database.write() as connection:
        lease = leases.acquire(connection, name, ttl_seconds)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(database, lease, ttl_seconds / 3, done), daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        done.set()
        beating.join()
        with contextlib.suppress(SlipwayError), database.write() as connection:  # else it ends by itself
            leases.release(connection, lease)


def _beat(database: Database, lease: Lease, seconds: float, done: threading.Event) -> None:
    while not done.wait(seconds):
        try:
            with database.write() as connection:
                leases.beat(connection, lease)
        except SlipwayError:
            continue  # away or lost: `leases.held` tells the writer
