"""The tables of a SQLite store, how an older store becomes one of today, and the programs that write to it.

Theory of operation: what is looked for is in `transactions`, a light table; what is shown is in `documents`, a heavy one with the same numbers. Bodies are
`contents`, once each, by digest; `loose` names those that may have lost their last reference, and upkeep.py removes the ones that have. Triggers keep the tables
true to each other whoever deletes a row. `releases` are the tries to send on what is held. `user_version` counts the STEPS that were taken; a step is never changed once it was released.

A whole batch is one statement: rows are inserted into a view of the connection's own, and its trigger does what one write means. So SQLite runs it in one
go, without the GIL: a statement for each table would ask for the GIL back after each, and on a busy relay wait for it each time.
Opening files does not belong here (connection.py), nor what the values are (rows.py).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

#: "rlpx": tells a store from other programs' databases.
APPLICATION: Final = 0x726C7078

# Ids are ours: they never differ by case alone.
_FIRST: Final = """
CREATE TABLE counters(
  revision INTEGER NOT NULL,     -- of the last write to a transaction
  file_octets INTEGER NOT NULL,  -- what the files beside take
  probes INTEGER NOT NULL        -- changes when somebody tries whether there is room
) STRICT;
INSERT INTO counters VALUES (0, 0, 0);

CREATE TABLE transactions(
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE COLLATE NOCASE, session TEXT NOT NULL COLLATE NOCASE,
  time INTEGER NOT NULL,         -- MAIL's, microseconds since 1970
  revision INTEGER NOT NULL, final INTEGER NOT NULL, outcome TEXT NOT NULL, acknowledged INTEGER NOT NULL,
  listener TEXT NOT NULL, client TEXT NOT NULL, helo TEXT, auth TEXT, upstream TEXT,
  sender TEXT NOT NULL,
  recipients TEXT NOT NULL,      -- joined and surrounded by line feeds; so are recipients_sent
  sender_sent TEXT, recipients_sent TEXT, code INTEGER, size INTEGER, subject TEXT, message_id TEXT,
  indexed INTEGER NOT NULL,      -- 1: its words, as they are now, are in `words`
  released INTEGER NOT NULL DEFAULT 0 -- 1: it was held, and somebody has taken it
) STRICT;
CREATE INDEX transactions_time ON transactions(time);
CREATE INDEX transactions_session ON transactions(session);
CREATE INDEX transactions_revision ON transactions(revision);
CREATE INDEX transactions_unindexed ON transactions(number) WHERE indexed = 0 AND final = 1;

CREATE TABLE contents(
  number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
  form INTEGER NOT NULL,         -- contents.py
  octets BLOB, file TEXT, file_octets INTEGER,
  CHECK ((octets IS NULL) <> (file IS NULL))
) STRICT;
CREATE TABLE loose(content INTEGER PRIMARY KEY) STRICT;

CREATE TABLE documents(
  number INTEGER PRIMARY KEY, document BLOB NOT NULL,
  header BLOB,                   -- null: no message was kept
  separator BLOB, body INTEGER, body_size INTEGER,
  header_sent BLOB,              -- null: as received
  header_follows INTEGER,        -- 1: behind header_sent comes the header section as received
  body_sent INTEGER,             -- null: as received
  whole INTEGER, exact INTEGER
) STRICT;
CREATE INDEX documents_body ON documents(body) WHERE body IS NOT NULL;
CREATE INDEX documents_body_sent ON documents(body_sent) WHERE body_sent IS NOT NULL;

CREATE TABLE sessions(
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE COLLATE NOCASE, listener TEXT NOT NULL, client TEXT NOT NULL,
  began INTEGER NOT NULL, ended INTEGER, -- nanoseconds since 1970
  why TEXT
) STRICT;
CREATE INDEX sessions_began ON sessions(began);
CREATE TABLE wire(
  session INTEGER NOT NULL, part INTEGER NOT NULL, form INTEGER NOT NULL, octets BLOB NOT NULL, PRIMARY KEY (session, part)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE words USING fts5(text, content='', contentless_delete=1, detail=none, tokenize="unicode61 remove_diacritics 0");

CREATE TRIGGER transaction_gone AFTER DELETE ON transactions BEGIN
  DELETE FROM documents WHERE number = OLD.number;
END;
CREATE TRIGGER words_gone AFTER DELETE ON transactions WHEN OLD.indexed = 1 BEGIN
  DELETE FROM words WHERE rowid = OLD.number;
END;
CREATE TRIGGER words_old AFTER UPDATE OF indexed ON transactions WHEN OLD.indexed = 1 AND NEW.indexed = 0 BEGIN
  DELETE FROM words WHERE rowid = OLD.number;
END;
CREATE TRIGGER document_gone AFTER DELETE ON documents BEGIN
  INSERT INTO loose SELECT OLD.body WHERE OLD.body IS NOT NULL ON CONFLICT DO NOTHING;
  INSERT INTO loose SELECT OLD.body_sent WHERE OLD.body_sent IS NOT NULL ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER document_changed AFTER UPDATE OF body, body_sent ON documents
WHEN OLD.body IS NOT NEW.body OR OLD.body_sent IS NOT NEW.body_sent BEGIN
  INSERT INTO loose SELECT OLD.body WHERE OLD.body IS NOT NULL ON CONFLICT DO NOTHING;
  INSERT INTO loose SELECT OLD.body_sent WHERE OLD.body_sent IS NOT NULL ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER session_gone AFTER DELETE ON sessions BEGIN
  DELETE FROM wire WHERE session = OLD.number;
END;
CREATE TRIGGER file_came AFTER INSERT ON contents WHEN NEW.file IS NOT NULL BEGIN
  UPDATE counters SET file_octets = file_octets + NEW.file_octets;
END;
CREATE TRIGGER file_gone AFTER DELETE ON contents WHEN OLD.file IS NOT NULL BEGIN
  UPDATE counters SET file_octets = file_octets - OLD.file_octets;
END;
"""

_RELEASES: Final = """
CREATE TABLE releases(
  number INTEGER NOT NULL,       -- the transaction's
  attempt INTEGER NOT NULL,      -- from 0
  document TEXT NOT NULL,        -- a ReleaseRecord
  PRIMARY KEY (number, attempt)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER releases_gone AFTER DELETE ON transactions BEGIN
  DELETE FROM releases WHERE number = OLD.number;
END;
"""

STEPS: Final[tuple[str, ...]] = (_FIRST, _RELEASES)


def version(connection: apsw.Connection) -> int:
    """How many steps were taken."""
    number: int = connection.pragma("user_version")
    return number


def migrate(connection: apsw.Connection, steps: Sequence[str] = STEPS) -> None:
    """Take the steps that were not taken yet, all or none; several processes may try at once."""
    if version(connection) >= len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps[version(connection) :]:  # asked again: another may just have taken them
            connection.execute(step)
        connection.pragma("application_id", APPLICATION)
        connection.pragma("user_version", len(steps))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


# What comes with a transaction, a column of the view each: what is in `transactions` under the same name, then the rest.

LIGHT: Final = (
    "id", "session", "time", "final", "outcome", "acknowledged", "listener", "client", "helo", "auth", "upstream", "sender", "recipients",
    "sender_sent", "recipients_sent", "code", "size", "subject", "message_id",
)  # fmt: skip
#: What never changes of a transaction: to set it to what it is would cost its indexes a turn.
_FIXED: Final = ("id", "session", "time")
_CONTENT: Final = ("digest", "size", "form", "octets", "file", "file_octets")
_HEAVY: Final = ("document", "header", "separator", "header_sent", "header_follows", "whole", "exact")
_TRANSACTION: Final = (
    *LIGHT,
    *_HEAVY,
    *(f"body_{column}" for column in _CONTENT),
    *(f"sent_{column}" for column in _CONTENT),
)
_SESSION: Final = ("id", "listener", "client", "began", "ended", "why", "part", "form", "octets")


def _view(name: str, columns: Sequence[str]) -> str:
    return f"CREATE TEMP VIEW {name} AS SELECT {', '.join(f'NULL AS {column}' for column in columns)};"


def _content(prefix: str) -> str:
    """A body without a form is one that was found in the store; should it be gone by now, the batch is to bring it."""
    return f"""
  INSERT INTO contents({", ".join(_CONTENT)}) SELECT {", ".join(f"NEW.{prefix}_{column}" for column in _CONTENT)}
    WHERE NEW.{prefix}_form IS NOT NULL ON CONFLICT(digest) DO NOTHING;
  SELECT RAISE(ABORT, 'a body is gone') WHERE NEW.{prefix}_digest IS NOT NULL AND NEW.{prefix}_form IS NULL
    AND NOT EXISTS (SELECT 1 FROM contents WHERE digest = NEW.{prefix}_digest);"""


# Of a message: a column of `documents`, and what it is made of.
_MESSAGE: Final = {
    "header": "NEW.header",
    "separator": "NEW.separator",
    "body": "(SELECT number FROM contents WHERE digest = NEW.body_digest)",
    "body_size": "NEW.body_size",
    "header_sent": "NEW.header_sent",
    "header_follows": "NEW.header_follows",
    "body_sent": "(SELECT number FROM contents WHERE digest = NEW.sent_digest)",
    "whole": "NEW.whole",
    "exact": "NEW.exact",
}

PROGRAMS: Final = f"""
{_view("arriving", _TRANSACTION)}
CREATE TEMP TRIGGER arrive INSTEAD OF INSERT ON arriving BEGIN
  UPDATE counters SET revision = revision + 1;
  {_content("body")}
  {_content("sent")}
  INSERT INTO transactions({", ".join(LIGHT)}, revision, indexed)
    VALUES ({", ".join(f"NEW.{column}" for column in LIGHT)}, (SELECT revision FROM counters), 0)
    ON CONFLICT(id) DO UPDATE SET {", ".join(f"{column} = excluded.{column}" for column in LIGHT if column not in _FIXED)}, revision = excluded.revision, indexed = 0;
  INSERT INTO documents(number, document) SELECT number, NEW.document FROM transactions WHERE id = NEW.id AND NEW.header IS NULL
    ON CONFLICT(number) DO UPDATE SET document = excluded.document;
  INSERT INTO documents(number, document, {", ".join(_MESSAGE)})
    SELECT number, NEW.document, {", ".join(_MESSAGE.values())} FROM transactions WHERE id = NEW.id AND NEW.header IS NOT NULL
    ON CONFLICT(number) DO UPDATE SET document = excluded.document, {", ".join(f"{column} = excluded.{column}" for column in _MESSAGE)};
END;
{_view("arriving_session", _SESSION)}
CREATE TEMP TRIGGER arrive_session INSTEAD OF INSERT ON arriving_session BEGIN
  INSERT INTO sessions(id, listener, client, began, ended, why) VALUES (NEW.id, NEW.listener, NEW.client, NEW.began, NEW.ended, NEW.why)
    ON CONFLICT(id) DO UPDATE SET ended = excluded.ended, why = excluded.why;
  INSERT INTO wire(session, part, form, octets) SELECT number, NEW.part, NEW.form, NEW.octets FROM sessions WHERE id = NEW.id AND NEW.octets IS NOT NULL
    ON CONFLICT(session, part) DO UPDATE SET form = excluded.form, octets = excluded.octets;
END;
"""

#: Rows that one statement takes at most: it is prepared once for each power of two up to here.
ROWS: Final = 32


@cache
def arrive(rows: int) -> str:
    """The statement that takes so many transactions."""
    return f"INSERT INTO arriving VALUES {', '.join([_places(_TRANSACTION)] * rows)}"


@cache
def arrive_session(rows: int) -> str:
    return f"INSERT INTO arriving_session VALUES {', '.join([_places(_SESSION)] * rows)}"


def _places(columns: Sequence[str]) -> str:
    return f"({', '.join('?' * len(columns))})"
