"""What a Python rule sees and says (DESIGN §6): `[rules] files` may name a .py file with functions that have the names of stages.

    from relayproxy.rules.python import Mail, address

    ACTIONS = {"rcpt": ["redirect_recipient"], "eom": ["reject"]}  # what they may do at most

    def rcpt(mail: Mail) -> None:
        if mail.recipient.domain != "example.test":
            mail.redirect_recipient(address(f"qa+{mail.recipient.local}", "example.test"))

    def eom(mail: Mail) -> None:
        if len(mail.attachments) > 10:
            mail.reject("550 5.7.1 Too many attachments")

`connect`, `helo`, `mail`, `data`, `eoh` (the header section is there) and `eom` (all is there) are called once at their stage, `rcpt` once for each recipient.
A function is a rule, called `FILE: function`, at its file's place among the files; it runs at its own stage, whatever rules above it wait for. It sees the mail as the
rules before it left it. What it asks for is done when it has returned; where it raises, returns something, or takes too long, nothing of it is done and the client hears 451 4.3.0.
Nobody knows what a function will do, so mail is held back as for the worst that it could: without ACTIONS until the end of the message. ACTIONS names the actions that each function
may ask for, or is one list for all; another one is an error. Above, RCPTs still leave as they come, and so does the message, but for its header section and its
final dot.
Functions run in threads, those of several sessions at the same time, those of one session never.

What may be asked for does not belong here (asked.py), nor how a file is loaded (python_file.py).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self

from relayproxy.mail.canonical import canonical_domain, dequoted, quoted, split
from relayproxy.rules.asked import ActionError, Asking
from relayproxy.rules.facts import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from relayproxy.mail.header import HeaderSection
    from relayproxy.rules import facts as known
    from relayproxy.rules.asked import Allowed

__all__ = ["ActionError", "Address", "Header", "Mail", "NotKnown", "Recipient", "address"]


class NotKnown(AttributeError):  # noqa: N818  what is the matter
    """A fact is asked for at a stage at which it is not known: as far as that stage goes it is not there."""


class Address(str):
    """What stands between the angle brackets; "" is the null sender."""

    __slots__ = ()

    @property
    def local(self) -> str:
        """The local part that is meant: without quotes."""
        return dequoted(split(self)[0])

    @property
    def domain(self) -> str:
        """As domains are compared: A-labels in lower case; "" where there is none."""
        return canonical_domain(split(self)[1])


class Recipient(Address):
    """One of the mail's recipients, as the rules before left it."""

    __slots__ = ("parameters", "place")
    #: Its RCPT's, by keywords in upper case.
    parameters: Mapping[str, str | None]
    #: Which of the mail's recipients it is, from 0.
    place: int

    def __new__(cls, recipient: known.Recipient, place: int) -> Self:
        made = super().__new__(cls, recipient.address)
        made.parameters = MappingProxyType(dict(recipient.parameters))
        made.place = place
        return made


def address(local: str, domain: str) -> str:
    """An address of a local part that is meant and a domain; the local part is quoted where it must be."""
    return f"{quoted(local)}@{domain}"


class Header:
    """The header section. Names are compared without case; texts are decoded and unfolded."""

    __slots__ = ("_section",)

    def __init__(self, section: HeaderSection) -> None:
        self._section = section

    def all(self, name: str) -> tuple[str, ...]:
        """What each field of that name says, in order."""
        return self._section.texts(name.encode("ascii", "replace"))

    def get(self, name: str) -> str | None:
        """What the first field of that name says; None where there is none."""
        found = self.all(name)
        return found[0] if found else None

    def __getitem__(self, name: str) -> str:
        found = self.all(name)
        if not found:
            raise KeyError(name)
        return found[0]

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fields, each once, in lower case."""
        return tuple([name.decode("ascii") for name in self._section.names])

    def __bytes__(self) -> bytes:
        """The octets of it."""
        return bytes(self._section)


class Mail:
    """The session and its mail, as far as they have come, and what is to be done with them.

    Each attribute says from which stage on it is there. A method asks for an action, which has the name and the values of a TOML rule's; but texts
    have no placeholders. It raises ActionError where that cannot be.
    """

    __slots__ = ("_asking", "_facts", "_place", "_stage")

    def __init__(self, stage: Stage, facts: known.Facts, place: int | None, allowed: Allowed) -> None:
        """`place` of the recipient that a function is called for."""
        self._stage = stage
        self._facts = facts
        self._place = place
        self._asking = Asking(stage, allowed)

    def _from(self, stage: Stage, name: str) -> known.Facts:
        if self._stage < stage:
            raise NotKnown(
                f"{name} is known from {stage.name.lower()} on, and this is {self.stage}", name=name, obj=self
            )
        return self._facts

    # What is known.

    @property
    def stage(self) -> str:
        """The function's name."""
        return self._stage.name.lower()

    @property
    def listener(self) -> str:
        """The name of the listener."""
        return self._facts.listener

    @property
    def client(self) -> str:
        """The client's IP address; "" on a Unix socket."""
        return self._facts.client

    @property
    def session(self) -> str:
        """The session's id, as in the log."""
        return self._facts.session

    @property
    def tags(self) -> tuple[str, ...]:
        """Those that rules before this one gave."""
        return self._facts.tags

    @property
    def helo(self) -> str:
        """From helo on: the client's name in EHLO or HELO."""
        return self._from(Stage.HELO, "helo").helo

    @property
    def tls(self) -> str | None:
        """From mail on: the version of TLS; None in clear."""
        return self._from(Stage.MAIL, "tls").tls

    @property
    def auth(self) -> str | None:
        """From mail on: the user that the client has logged in as; None where it has not, "" where the mechanism showed none."""
        return self._from(Stage.MAIL, "auth").user

    @property
    def transaction(self) -> str:
        """From mail on: the transaction's id, as in the log."""
        return self._from(Stage.MAIL, "transaction").transaction

    @property
    def sender(self) -> Address:
        """From mail on: the reverse-path."""
        return Address(self._from(Stage.MAIL, "sender").sender)

    @property
    def parameters(self) -> Mapping[str, str | None]:
        """From mail on: MAIL's parameters, by keywords in upper case."""
        return MappingProxyType(dict(self._from(Stage.MAIL, "parameters").parameters))

    @property
    def recipient(self) -> Recipient:
        """At rcpt: the one that the function is called for."""
        recipients = self._from(Stage.RCPT, "recipient").recipients
        if self._place is None:
            raise NotKnown(
                f"recipient is known at rcpt, and this is {self.stage}: it has recipients", name="recipient", obj=self
            )
        return Recipient(recipients[self._place], self._place)

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """From data on: all that stand."""
        recipients = self._from(Stage.DATA, "recipients").recipients
        return tuple([Recipient(recipient, place) for place, recipient in enumerate(recipients)])

    @property
    def header(self) -> Header:
        """From eoh on: the header section."""
        section = self._from(Stage.EOH, "header").header
        assert section is not None, "from eoh on there is one"  # noqa: S101
        return Header(section)

    @property
    def size(self) -> int:
        """At eom: octets of the message, as RFC 1870 counts them."""
        return self._content("size").size

    @property
    def body(self) -> str:
        """At eom: the decoded text parts."""
        return self._content("body").text

    @property
    def attachments(self) -> tuple[str, ...]:
        """At eom: the file names of attachments, decoded."""
        return self._content("attachments").attachments

    @property
    def unreadable(self) -> bool:
        """At eom: whether the structure of the message could not be read to its end, so that an attachment may hide."""
        return not self._content("unreadable").complete

    def _content(self, name: str) -> known.Content:
        content = self._from(Stage.EOM, name).content
        assert content is not None, "at eom there is one"  # noqa: S101
        return content

    # What is to be done.

    def change_sender(self, address: str) -> None:
        """From mail on: replaces the reverse-path; "" is the null sender."""
        self._asking.ask("change_sender", address)

    def add_recipient(self, address: str | Sequence[str]) -> None:
        """From rcpt on: adds a recipient, or several."""
        self._asking.ask("add_recipient", address)

    def delete_recipient(
        self, which: Literal[True] | str | Sequence[str] = True, /, of: Recipient | None = None
    ) -> None:
        """From rcpt on: takes away this recipient, behind rcpt the one that `of` is; or, from data on, all that a pattern matches."""
        self._about_one("delete_recipient", which, of, is_needed=which is True)

    def rewrite_recipient(self, address: str | Sequence[str], of: Recipient | None = None) -> None:
        """From rcpt on: replaces this recipient, behind rcpt the one that `of` is, in the envelope by an address, or by several."""
        self._about_one("rewrite_recipient", address, of)

    def redirect_recipient(self, address: str, of: Recipient | None = None) -> None:
        """From rcpt on: replaces this recipient, behind rcpt the one that `of` is, in the envelope and in To, Cc and Bcc."""
        self._about_one("redirect_recipient", address, of)

    def rewrite_header_addresses(self, fields: Sequence[str], to: str, spare: str | Sequence[str] = ()) -> None:
        """Replaces every address in these fields that no pattern of `spare` (in TOML: except) matches."""
        table = {"fields": fields, "to": to}
        self._asking.ask("rewrite_header_addresses", {**table, "except": spare} if spare else table)

    def add_header(self, name: str, value: str) -> None:
        """Adds a field at the end."""
        self._asking.ask("add_header", [name, value])

    def insert_header(self, index: int, name: str, value: str) -> None:
        """Puts in a field; 0 is the top."""
        self._asking.ask("insert_header", [index, name, value])

    def change_header(self, name: str, value: str, n: int = 1) -> None:
        """Gives another value to the n-th field of that name, from 1."""
        self._asking.ask("change_header", [name, n, value])

    def delete_header(self, name: str, n: int | None = None) -> None:
        """Takes away all fields of that name, or the n-th, from 1."""
        self._asking.ask("delete_header", name if n is None else [name, n])

    def replace_body(self, text: str) -> None:
        """The whole body is this plain text."""
        self._asking.ask("replace_body", text)

    def strip_attachment(self, pattern: str) -> None:
        """Takes away attachments whose file name the pattern matches."""
        self._asking.ask("strip_attachment", pattern)

    def reject(self, line: Literal[True] | str = True, /) -> None:
        """Answers 5yz: a text (550 5.7.1), or a reply such as "554 5.6.0 No"."""
        self._asking.ask("reject", line)

    def tempfail(self, line: Literal[True] | str = True, /) -> None:
        """Answers 4yz: a text (451 4.7.1), or a reply such as "452 4.2.2 Mailbox full"."""
        self._asking.ask("tempfail", line)

    def reply(self, line: str, /) -> None:
        """Answers with this 4yz or 5yz reply."""
        self._asking.ask("reply", line)

    def discard(self) -> None:
        """Answers 250; nothing of the message goes on."""
        self._asking.ask("discard", True)

    def hold(self, reason: str) -> None:
        """Keeps the message in the store until it is released."""
        self._asking.ask("hold", reason)

    def accept(self) -> None:
        """No further rule runs."""
        self._asking.ask("accept", True)

    def route(self, upstream: str) -> None:
        """Sends the message to the upstream of this name."""
        self._asking.ask("route", upstream)

    def tag(self, word: str) -> None:
        """Notes this word in the record."""
        self._asking.ask("tag", word)

    def delay(self, duration: str) -> None:
        """Waits so long before the reply, such as "2s"."""
        self._asking.ask("delay", duration)

    def throttle(self, rate: str) -> None:
        """Reads the message no faster than this, such as "10KiB/s"."""
        self._asking.ask("throttle", rate)

    def disconnect(self, how: Literal["before-reply", "after-reply", "reset"]) -> None:
        """Cuts the connection to the client."""
        self._asking.ask("disconnect", how)

    def drop_reply(self) -> None:
        """The client does not hear the reply."""
        self._asking.ask("drop_reply", True)

    def _about_one(self, name: str, value: object, of: object, *, is_needed: bool = True) -> None:
        place = None
        if of is not None:
            there = self._facts.recipients
            if not isinstance(of, Recipient) or of not in [one.address for one in there[of.place : of.place + 1]]:
                raise ActionError(f"{name}: expected one of the mail's recipients, got another {type(of).__name__}")
            place = of.place
        elif is_needed and self._stage > Stage.RCPT:
            raise ActionError(f"{name}: expected one of the mail's recipients, as this is {self.stage}, got none")
        self._asking.ask(name, value, place)
