"""What a function of a rule file, in a thread, and the test that waits for it tell each other: the file imports it from here."""

from __future__ import annotations

from threading import Event, Lock


class Signals:
    """One function's."""

    def __init__(self) -> None:
        self.began = Event()
        self.go_on = Event()
        #: Held while it runs.
        self.alone = Lock()


#: By rule file.
SIGNALS: dict[str, Signals] = {}
