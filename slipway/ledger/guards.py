"""The triggers that keep events as they were written: an event may neither change nor go, but for those that an archive holds,
and never the newest: what comes hangs on it. A migration makes them, and `audit verify` holds what stands against this.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, text

_SAY = "the ledger only grows"
_OLD = "(SELECT coalesce(max(last), 0) FROM archives)"

SQLITE = {
    "events_stay": f"CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, '{_SAY}'); END",
    "events_go_to_archives": (
        f"CREATE TRIGGER events_go_to_archives BEFORE DELETE ON events WHEN OLD.sequence > {_OLD} "
        f"OR OLD.sequence = (SELECT max(sequence) FROM events) BEGIN SELECT RAISE(ABORT, '{_SAY}'); END"
    ),
}
_BODY = f"""
    BEGIN
        IF TG_OP = 'DELETE' THEN
            IF OLD.sequence <= {_OLD} AND OLD.sequence < (SELECT max(sequence) FROM events) THEN
                RETURN OLD;
            END IF;
        END IF;
        RAISE EXCEPTION '{_SAY}';
    END
"""
POSTGRESQL = {
    "events_stay": (
        "CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION events_stay()"
    ),
    "events_stay_whole": (
        "CREATE TRIGGER events_stay_whole BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION events_stay()"
    ),
}
_TYPES = {"events_stay": 27, "events_stay_whole": 34}  # pg_trigger's bits: before, row or statement, and on what
_OF_POSTGRESQL = """
    SELECT t.tgname AS name, t.tgtype AS type, t.tgqual IS NULL AND t.tgattr = '' AS always, p.prosrc AS body
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
    WHERE t.tgrelid = 'events'::regclass AND t.tgenabled IN ('O', 'A') AND l.lanname = 'plpgsql'
"""


def statements(is_sqlite: bool) -> Iterator[str]:
    """What makes them."""
    if not is_sqlite:
        yield f"CREATE FUNCTION events_stay() RETURNS trigger LANGUAGE plpgsql AS $${_BODY}$$"
    yield from (SQLITE if is_sqlite else POSTGRESQL).values()


def wrong(connection: Connection) -> list[str]:
    """The names of those that are gone, switched off or do something else."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'"
        found = {row.name: _plain(row.sql) for row in connection.execute(text(query))}
        return sorted(name for name, sql in SQLITE.items() if found.get(name) != _plain(sql))
    there = {
        row.name for row in connection.execute(text(_OF_POSTGRESQL))
        if row.always and row.type == _TYPES.get(row.name) and _plain(row.body) == _plain(_BODY)
    }  # fmt: skip
    return sorted(POSTGRESQL.keys() - there)


def _plain(sql: str) -> str:
    """The same however it is laid out."""
    return " ".join(sql.split())
