"""The control database's tables. JSON stands as canonical text, so that what was hashed is what is kept, on any database.

`events` only ever grows (triggers hold it); every other table is what stands now, and changes only together with an
event. migrations/ makes these tables; a test compares the two.
"""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, Table, Text, UniqueConstraint

metadata = MetaData()
# SQLite's own row number, which holds nothing but integers and needs no index of its own.
_ROW_NUMBER = BigInteger().with_variant(Integer, "sqlite")

events = Table(
    "events",
    metadata,
    Column("sequence", _ROW_NUMBER, primary_key=True, autoincrement=False),  # from 1, without gaps
    Column("at", Text, nullable=False),  # UTC, as the writer's clock showed it
    Column("elapsed_ms", BigInteger, nullable=False),  # time that has credibly passed since event 1; never goes back
    Column("boot", Text, nullable=False),  # which start of which machine wrote it, and
    Column("ticks_ms", BigInteger, nullable=False),  # how long after that start: a clock nobody can set
    Column("kind", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("subject", Text, nullable=False),  # what of the model: a version, a release, ""
    Column("actor", Text, nullable=False),  # JSON: who (sealed) and via what
    Column("payload", Text, nullable=False),  # JSON
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("ix_events_kind", "kind", "sequence"),  # each of these gives events in their order
    Index("ix_events_model", "model", "sequence"),
    Index("ix_events_subject", "subject", "sequence"),
    Index("ix_events_boot", "boot", "ticks_ms"),
)

# What people are called and say lies beside the chain, which holds only a salted digest of it: it can be erased.
sealed = Table(
    "sealed",
    metadata,
    Column("id", Text, primary_key=True),
    Column("salt", Text),
    Column("text", Text),  # both None once erased
    Index("ix_sealed_text", "text", postgresql_using="hash"),  # PostgreSQL's trees hold no text of this length
)

# Events that moved to an archive: the first event that is left follows on the last one's hash.
archives = Table(
    "archives",
    metadata,
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("last_hash", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("sha256", Text, nullable=False),
)

# How far each sink has been told.
sinks = Table(
    "sinks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

champions = Table(
    "champions",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("previous", Text),  # the version that served before
    Column("generation", BigInteger, nullable=False),  # rises by one with each change
    Column("sequence", BigInteger, nullable=False),  # the event that tells the change
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("token", BigInteger, nullable=False),  # rises with each holder: an old one is fenced off
    Column("holder", Text),  # None: free
    Column("ttl_ms", BigInteger, nullable=False),
    Column("at", Text, nullable=False),  # of the last heartbeat, with the clocks that were read then
    Column("boot", Text, nullable=False),
    Column("ticks_ms", BigInteger, nullable=False),
)

# Each side effect on the world has an id, looked up before it is repeated.
operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("request", Text, nullable=False),  # JSON: all that is needed to finish it in another process
    Column("state", Text, nullable=False, index=True),  # begun | done | undone
    Column("result", Text),  # JSON
)

versions = Table(
    "versions",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("serial", Integer, nullable=False),  # 1, 2, 3, … a model
    Column("release", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("stage", Text, nullable=False),  # None | Staging | Production | Archived
    Column("state", Text, nullable=False),  # present | cold | deleted (a tombstone)
    Column("stage_sequence", BigInteger, nullable=False),  # the event that brought it to its stage
    Column("at", Text, nullable=False),
    Column("mlflow_version", Text),
    Column("parent", Text),  # the version it was compared with, or grew from
    Column("evidence_digest", Text, nullable=False),
    Column("policy_digest", Text, nullable=False),
    Column("data_digest", Text, nullable=False, index=True),
    Column("base_digest", Text, nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
    Column("metrics", Text, nullable=False),  # JSON, flat: name → number
    Column("about", Text, nullable=False),  # JSON: the whole artifact (registry.versions.Version)
    UniqueConstraint("model", "identity"),
    UniqueConstraint("model", "serial"),
)

holds = Table(
    "holds",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Text, primary_key=True),  # a nonce
    Column("model", Text, nullable=False, index=True),
    Column("release", Text, nullable=False, index=True),
    Column("state", Text, nullable=False),  # valid | revoked | used | expired
    Column("about", Text, nullable=False),  # JSON: the whole artifact (registry.approvals.Given)
    Column("sequence", BigInteger, nullable=False),
)

# Waivers and break-glass that somebody gave from the command line or a form.
grants = Table(
    "grants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # waiver | break_glass
    Column("model", Text, nullable=False, index=True),
    Column("release", Text, nullable=False),
    Column("state", Text, nullable=False),  # open | followed_up | withdrawn
    Column("about", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)

# The way of a candidate to being the champion: at most one that runs a model.
canaries = Table(
    "canaries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False, index=True),
    Column("version", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("champion", Text),  # None: the base model
    Column("generation", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # running | ended
    Column("outcome", Text),
    Column("about", Text, nullable=False),  # JSON: what was fixed at its beginning
    Column("step", Integer, nullable=False),
    Column("percent", Float, nullable=False),
    Column("progress", Text, nullable=False),  # JSON: what was seen so far, and how far the sources were read
    Column("asked", Text, nullable=False),  # JSON: what people want of it
    Column("sequence", BigInteger, nullable=False),
)
