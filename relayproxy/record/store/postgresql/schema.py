"""The tables of a PostgreSQL store, how an older store becomes one of today, and the function that takes a batch. Pure.

Theory of operation: what is big is parted by days (UTC, of MAIL; of a session, of its beginning): a day's tables are made before anything of it is written, and dropped
together when all of it may go. Nothing refers from one day into another but a transaction to its session, so bodies are kept once a day. `days` says what there
is of each, and how many octets, together with `growth`, to which triggers add; they also note in `loose` the bodies that may have lost their last reference.

A batch is one statement, `SELECT pg_temp.arrive(...)`: four lists in JSON, and the octets of all of them in one piece, into which the lists point. That is faster than COPY
and than a row at a time, and the server begins only when all of it has come. What it does first is to lock the one row of `counters`, as everybody does who writes:
so revisions are seen in the order in which they were given, whoever is slow, and nobody waits for whom waits for him.
The function is the connection's own, so that relays of several versions may write at once as long as the tables are the same; where they are not any more it refuses.
No row is changed by each batch: while somebody keeps a snapshot (a backup) all that a row ever was stays there, and is gone through by who wants it. So what is counted
is written anew, to `revisions` and `growth`, of which upkeep removes what is not needed any more.
Connecting does not belong here (connection.py), nor what the values are (rows.py).
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

SCHEMA: Final = "relayproxy"
#: Who hears of it when something was written.
CHANNEL: Final = "relayproxy"
#: What advisory locks are of: making or changing tables, upkeep.
LOCK_TABLES: Final = 0x726C7078
LOCK_UPKEEP: Final = LOCK_TABLES + 1
#: `arrive`: a body that was taken for known is not there.
BODY_GONE: Final = "RP001"
#: `arrive`: see NEWER; of a class that is the store's.
TAKEN_OVER: Final = "55RP1"
#: There are no tables for that day.
NO_DAY: Final = "23514"

#: Microseconds of a day.
DAY: Final = 86_400_000_000
#: What is parted by days, and by which column.
PARTED: Final = {"transactions": "time", "contents": "day", "chunks": "day", "sessions": "day", "wire": "day"}
#: Characters of a word that are indexed.
WORD: Final = 100

#: Of a transaction: nothing keeps it from being removed. Of a session: it may have transactions of a later day.
FREE: Final = "((outcome <> 'held' OR released) AND final)"
OUTLIVES: Final = f"(ended IS NULL OR ended >= (day + 1)::bigint * {DAY * 1000})"

# Octets of a row besides what is counted, roughly.
_ROW: Final = 100


def _counts(table: str) -> str:
    """What `days` and `growth` say is true whoever writes, and however many rows at once."""
    return f"""
CREATE TRIGGER {table}_came AFTER INSERT ON {table} REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION count_came();
CREATE TRIGGER {table}_went AFTER DELETE ON {table} REFERENCING OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION count_went();
CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} REFERENCING NEW TABLE AS came OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION count_changed();
"""


# Texts are compared by their octets, and only ASCII has case: as the expressions of SELECT are compiled (patterns.py).
_FIRST: Final = f"""
CREATE TABLE counters(
  version integer NOT NULL,      -- steps that were taken
  probes bigint NOT NULL         -- changes when somebody tries whether anything can be written
);
INSERT INTO counters VALUES (0, 0);
CREATE TABLE revisions(number bigint PRIMARY KEY); -- the largest is of the last write to a transaction
INSERT INTO revisions VALUES (0);
CREATE TABLE days(day integer PRIMARY KEY, octets bigint NOT NULL); -- since 1970
CREATE TABLE growth(number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, day integer NOT NULL, octets bigint NOT NULL); -- not yet in `days`
CREATE SEQUENCE numbers;         -- of bodies in chunks

CREATE TABLE transactions(
  id text COLLATE "C" NOT NULL,
  number bigint NOT NULL,        -- its first revision
  session text COLLATE "C" NOT NULL,
  time bigint NOT NULL,          -- MAIL's, microseconds since 1970
  revision bigint NOT NULL, final boolean NOT NULL, outcome text COLLATE "C" NOT NULL, acknowledged boolean NOT NULL,
  listener text COLLATE "C" NOT NULL, client text COLLATE "C" NOT NULL, helo text COLLATE "C", auth text COLLATE "C", upstream text COLLATE "C",
  sender text COLLATE "C" NOT NULL,
  recipients text COLLATE "C" NOT NULL, -- joined and surrounded by line feeds; so are recipients_sent
  sender_sent text COLLATE "C", recipients_sent text COLLATE "C", code integer, size bigint, subject text COLLATE "C", message_id text COLLATE "C",
  words text[] COLLATE "C",      -- those that it is found by; null: not yet
  released boolean NOT NULL DEFAULT false, -- it was held, and somebody has taken it
  document bytea NOT NULL,
  header bytea,                  -- null: no message was kept
  separator bytea, body bytea, body_size bigint, -- bodies by their digests
  header_sent bytea,             -- null: as received
  header_follows boolean,        -- behind header_sent comes the header section as received
  body_sent bytea,               -- null: as received
  whole boolean, exact boolean,
  day integer NOT NULL GENERATED ALWAYS AS ((time / {DAY})::integer) STORED,
  kept bigint NOT NULL GENERATED ALWAYS AS
    ({_ROW} + octet_length(document) + coalesce(octet_length(header), 0) + coalesce(octet_length(header_sent), 0)) STORED,
  PRIMARY KEY (id, time)
) PARTITION BY RANGE (time);
CREATE INDEX ON transactions(upper(id));
CREATE INDEX ON transactions(time, number);
CREATE INDEX ON transactions(upper(session));
CREATE INDEX ON transactions(revision);
CREATE INDEX ON transactions(time) WHERE NOT {FREE};
CREATE INDEX ON transactions(number) WHERE words IS NULL;
CREATE INDEX ON transactions USING gin(words) WHERE words IS NOT NULL;
CREATE INDEX ON transactions(body) WHERE body IS NOT NULL;
CREATE INDEX ON transactions(body_sent) WHERE body_sent IS NOT NULL;

CREATE TABLE contents(
  day integer NOT NULL, digest bytea NOT NULL, size bigint NOT NULL,
  form smallint NOT NULL,        -- contents.py
  octets bytea,                  -- null: in chunks
  number bigint,
  packed bigint NOT NULL,        -- octets in that form
  kept bigint NOT NULL GENERATED ALWAYS AS ({_ROW} + packed) STORED,
  PRIMARY KEY (digest, day), CHECK ((octets IS NULL) <> (number IS NULL))
) PARTITION BY LIST (day);
ALTER TABLE contents ALTER octets SET STORAGE EXTERNAL; -- it is compressed already
-- Written before the row of `contents` that names them, and before anybody is locked out: they are counted there.
CREATE TABLE chunks(
  day integer NOT NULL, number bigint NOT NULL, part integer NOT NULL, octets bytea NOT NULL, PRIMARY KEY (number, part, day)
) PARTITION BY LIST (day);
ALTER TABLE chunks ALTER octets SET STORAGE EXTERNAL;
CREATE TABLE loose(day integer, digest bytea, PRIMARY KEY (digest, day));

CREATE TABLE sessions(
  day integer NOT NULL, id text COLLATE "C" NOT NULL, listener text COLLATE "C" NOT NULL, client text COLLATE "C" NOT NULL,
  began bigint NOT NULL, ended bigint, -- nanoseconds since 1970
  why text COLLATE "C",
  kept bigint NOT NULL GENERATED ALWAYS AS ({_ROW}) STORED,
  PRIMARY KEY (id, day)
) PARTITION BY LIST (day);
CREATE INDEX ON sessions(upper(id));
CREATE INDEX ON sessions(began);
CREATE INDEX ON sessions(day) WHERE {OUTLIVES};
CREATE TABLE wire(
  day integer NOT NULL, session text COLLATE "C" NOT NULL, part integer NOT NULL, form smallint NOT NULL, octets bytea NOT NULL,
  kept bigint NOT NULL GENERATED ALWAYS AS ({_ROW} + octet_length(octets)) STORED,
  PRIMARY KEY (session, part, day)
) PARTITION BY LIST (day);

CREATE TABLE releases(
  id text COLLATE "C" NOT NULL,  -- the transaction's
  attempt integer NOT NULL,      -- from 0
  day integer NOT NULL,
  document text NOT NULL,        -- a ReleaseRecord
  PRIMARY KEY (id, attempt)
);

CREATE FUNCTION count_came() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO {SCHEMA}.growth(day, octets) SELECT day, sum(kept) FROM came GROUP BY day;
  RETURN NULL;
END $$;
CREATE FUNCTION count_went() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO {SCHEMA}.growth(day, octets) SELECT day, -sum(kept) FROM went GROUP BY day;
  RETURN NULL;
END $$;
CREATE FUNCTION count_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO {SCHEMA}.growth(day, octets)
    SELECT day, sum(kept) FROM (SELECT day, kept FROM came UNION ALL SELECT day, -kept FROM went) AS both_ways GROUP BY day HAVING sum(kept) <> 0;
  RETURN NULL;
END $$;
{"".join(_counts(table) for table in PARTED if table != "chunks")}
CREATE FUNCTION note_loose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO {SCHEMA}.loose SELECT OLD.day, digest FROM (VALUES (OLD.body), (OLD.body_sent)) AS named(digest) WHERE digest IS NOT NULL ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;
CREATE FUNCTION drop_wire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE format('DELETE FROM {SCHEMA}.wire WHERE session = $1 AND day = %s', OLD.day) USING OLD.id;
  RETURN NULL;
END $$;
CREATE TRIGGER session_went AFTER DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION drop_wire();
CREATE FUNCTION drop_releases() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  DELETE FROM {SCHEMA}.releases WHERE id = OLD.id;
  RETURN NULL;
END $$;
CREATE TRIGGER held_went AFTER DELETE ON transactions FOR EACH ROW WHEN (OLD.outcome = 'held') EXECUTE FUNCTION drop_releases();
CREATE TRIGGER bodies_went AFTER DELETE ON transactions FOR EACH ROW WHEN (OLD.body IS NOT NULL) EXECUTE FUNCTION note_loose();
CREATE TRIGGER bodies_changed AFTER UPDATE OF body, body_sent ON transactions
  FOR EACH ROW WHEN (OLD.body IS DISTINCT FROM NEW.body OR OLD.body_sent IS DISTINCT FROM NEW.body_sent) EXECUTE FUNCTION note_loose();
"""

STEPS: Final[tuple[str, ...]] = (_FIRST,)

#: The revision of the last write, and makes the next; within the lock on `counters`.
REVISION: Final = "SELECT max(number) FROM revisions"
NEXT_REVISION: Final = f"INSERT INTO revisions SELECT number + 1 FROM ({REVISION}) AS last(number) RETURNING number"
#: Adds what has grown to its day, $1 being the last number that was; gives the last that is.
ADD_GROWTH: Final = """
WITH gone AS (DELETE FROM growth WHERE number > $1 RETURNING number, day, octets),
  added AS (UPDATE days SET octets = days.octets + sums.octets FROM (SELECT day, sum(octets) AS octets FROM gone GROUP BY day) AS sums WHERE days.day = sums.day)
SELECT max(number) FROM gone
"""
#: Removes revisions behind $1 that are not the last; gives the largest that it has removed.
FORGET_REVISIONS: Final = f"""
WITH gone AS (DELETE FROM revisions WHERE number > $1 AND number < ({REVISION}) RETURNING number) SELECT max(number) FROM gone
"""
_ROOM: Final = 1 << 18
#: Changes no row where the tables are of another version.
PROBE: Final = f"UPDATE counters SET probes = probes + 1 WHERE version = {len(STEPS)}"
#: Octets of which a chunk could be made are new on the server's disk, and go again.
TRY_ROOM: Final = f"""
CREATE TABLE room(octets bytea);
ALTER TABLE room ALTER octets SET STORAGE EXTERNAL;
INSERT INTO room VALUES (decode(repeat('00', {_ROOM}), 'hex'));
DROP TABLE room
"""
#: The tables are not those of this version any more.
NEWER: Final = "a newer relayproxy has taken over: its tables are of another version; end this one, and use that one"


def make_day(day: int) -> str:
    """Statements that make a day's tables. They are made beside, and then made parts: that stops nobody who reads or writes."""
    made = [f"INSERT INTO days VALUES ({day}, 0)"]
    for table, column in PARTED.items():
        part = part_of(table, day)
        of = f"FROM ({day * DAY}) TO ({(day + 1) * DAY})" if column == "time" else f"IN ({day})"
        made += [
            f"CREATE TABLE {part}(LIKE {table} INCLUDING ALL)",
            f"ALTER TABLE {table} ATTACH PARTITION {part} FOR VALUES {of}",
        ]
    return "; ".join(made)


def lock_day(day: int) -> str:
    """The statement that locks all that drop_day needs, so that it waits for nobody; the first that somebody uses ends it."""
    tables = [f"ONLY {name}" for table in PARTED for name in (table, part_of(table, day))]
    return f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"


def drop_day(day: int) -> str:
    """Statements that drop them, with all that is in them."""
    dropped = [f"DROP TABLE {part_of(table, day)}" for table in PARTED]
    return "; ".join(
        [*dropped, *(f"DELETE FROM {table} WHERE day = {day}" for table in ("loose", "releases", "growth", "days"))]
    )


def part_of(table: str, day: int) -> str:
    """What a day's part of a table is called."""
    return f"{table}_{date(1970, 1, 1) + timedelta(days=day):%Y%m%d}"


# The batch. Names and types of what comes with each list; `_at`, `_octets`: where it stands in the octets, and how much it is.

#: rows.transaction_columns.
LIGHT: Final = {
    "id": "text", "session": "text", "time": "bigint", "final": "boolean", "outcome": "text", "acknowledged": "boolean", "listener": "text",
    "client": "text", "helo": "text", "auth": "text", "upstream": "text", "sender": "text", "recipients": "text", "sender_sent": "text",
    "recipients_sent": "text", "code": "integer", "size": "bigint", "subject": "text", "message_id": "text",
}  # fmt: skip
#: What never changes of a transaction.
_FIXED: Final = ("id", "session", "time")
_PIECES: Final = ("document", "header", "separator", "header_sent")
_FACTS: Final = {
    "header_follows": "boolean", "whole": "boolean", "exact": "boolean", "body": "text", "body_size": "bigint", "body_sent": "text",
}  # fmt: skip
TRANSACTION: Final = (*LIGHT, *(f"{piece}_{what}" for piece in _PIECES for what in ("at", "octets")), *_FACTS)


def _piece(name: str) -> str:
    return f"substr(pieces, {name}_at + 1, {name}_octets)"


def _recordset(given: str, columns: dict[str, str]) -> str:
    return f"json_to_recordset({given}) AS given({', '.join(f'{name} {kind}' for name, kind in columns.items())})"


_PLACED: Final = {f"{piece}_{what}": "integer" for piece in _PIECES for what in ("at", "octets")}
# Of a message, all is replaced where there is one.
_MESSAGE: Final = (
    "header", "separator", "body", "body_size", "header_sent", "header_follows", "body_sent", "whole", "exact",
)  # fmt: skip


def flushed(*, local: bool) -> str:
    """Has commits on disk when they return, of this transaction or of the session; database or role may be set to more than that."""
    return f"set_config('synchronous_commit', 'on', {local}) WHERE current_setting('synchronous_commit') IN ('off', 'local')"


# Of a day, as a literal: the tables of all others are not even locked.
# Whether a body of $1 that was taken for known is not there.
_GONE: Final = f"""
SELECT EXISTS (SELECT FROM {_recordset("$1", {"day": "integer", "digest": "text", "form": "smallint"})} WHERE form IS NULL AND given.day = %1$s
  AND NOT EXISTS (SELECT FROM contents WHERE contents.day = %1$s AND contents.digest = decode(given.digest, ''hex'')))
"""
# The chunks of number $1, where another has brought the body $2 meanwhile.
_NOT_NEEDED: Final = """
DELETE FROM chunks WHERE day = %1$s AND number = $1 AND NOT EXISTS (SELECT FROM contents WHERE day = %1$s AND digest = $2 AND number = $1)
"""

ARRIVE: Final = f"""
CREATE FUNCTION pg_temp.arrive(came json, bodies json, opened json, parts json, pieces bytea, durable boolean) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  many bigint := json_array_length(came);
  base bigint;
  one record;
  gone boolean;
BEGIN
  IF durable THEN
    PERFORM {flushed(local=True)};
  END IF;
  PERFORM FROM counters WHERE version = {len(STEPS)} FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION '{NEWER}' USING ERRCODE = '{TAKEN_OVER}';
  END IF;
  IF json_array_length(bodies) > 0 THEN
    INSERT INTO contents(day, digest, size, form, number, packed, octets)
      SELECT day, decode(digest, 'hex'), size, form, number, packed, {_piece("body")}
        FROM {_recordset("bodies", {"day": "integer", "digest": "text", "size": "bigint", "form": "smallint", "number": "bigint", "packed": "bigint", "body_at": "integer", "body_octets": "integer"})}
        WHERE form IS NOT NULL
      ON CONFLICT DO NOTHING;
    FOR one IN SELECT DISTINCT day FROM {_recordset("bodies", {"day": "integer", "form": "smallint"})} WHERE form IS NULL LOOP
      EXECUTE format('{_GONE}', one.day) INTO gone USING bodies;
      IF gone THEN
        RAISE EXCEPTION 'a body is gone' USING ERRCODE = '{BODY_GONE}';
      END IF;
    END LOOP;
    FOR one IN SELECT * FROM {_recordset("bodies", {"day": "integer", "digest": "text", "number": "bigint"})} WHERE number IS NOT NULL LOOP
      EXECUTE format('{_NOT_NEEDED}', one.day) USING one.number, decode(one.digest, 'hex');
    END LOOP;
  END IF;
  IF many > 0 THEN
    SELECT max(number) INTO base FROM revisions;
    INSERT INTO revisions VALUES (base + many);
    INSERT INTO transactions({", ".join(LIGHT)}, {", ".join(_PIECES)}, {", ".join(_FACTS)}, number, revision)
      SELECT {", ".join(LIGHT)}, {", ".join(_piece(piece) for piece in _PIECES)}, header_follows, whole, exact,
          decode(body, 'hex'), body_size, decode(body_sent, 'hex'), base + nth, base + nth
        FROM ROWS FROM (json_to_recordset(came) AS ({", ".join(f"{name} {kind}" for name, kind in (LIGHT | _PLACED | _FACTS).items())}))
          WITH ORDINALITY AS given({", ".join((*LIGHT, *_PLACED, *_FACTS))}, nth)
      ON CONFLICT (id, time) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in LIGHT if name not in _FIXED)},
        revision = excluded.revision, words = NULL, document = excluded.document,
        {", ".join(f"{name} = CASE WHEN excluded.header IS NULL THEN transactions.{name} ELSE excluded.{name} END" for name in _MESSAGE)}
      WHERE excluded.final OR NOT transactions.final; -- what comes late, of a connection that was given up, takes nothing back
    PERFORM pg_notify('{CHANNEL}', '');
  END IF;
  IF json_array_length(opened) > 0 THEN
    INSERT INTO sessions(day, id, listener, client, began, ended, why)
      SELECT * FROM {_recordset("opened", {"day": "integer", "id": "text", "listener": "text", "client": "text", "began": "bigint", "ended": "bigint", "why": "text"})}
      ON CONFLICT (id, day) DO UPDATE SET ended = excluded.ended, why = excluded.why;
  END IF;
  IF json_array_length(parts) > 0 THEN
    INSERT INTO wire(day, session, part, form, octets)
      SELECT day, session, part, form, {_piece("wire")}
        FROM {_recordset("parts", {"day": "integer", "session": "text", "part": "integer", "form": "smallint", "wire_at": "integer", "wire_octets": "integer"})}
      ON CONFLICT (session, part, day) DO UPDATE SET form = excluded.form, octets = excluded.octets;
  END IF;
END $$
"""
CALL: Final = "SELECT pg_temp.arrive($1, $2, $3, $4, $5, $6)"
