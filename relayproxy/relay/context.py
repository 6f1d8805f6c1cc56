"""What all sessions of one listener share, worked out once: names, limits, what we offer for what an upstream offers.

Once listeners are open nothing here changes but `shutting_down`, and what is in `rulebook`. What belongs to one client does not belong here (session.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from relayproxy.mail.trace import TRACE_MARGIN
from relayproxy.record.privacy import Privacy
from relayproxy.relay.keeping import refusal_for
from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities

if TYPE_CHECKING:
    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.relay.late import Late
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.relay.settings import Auth, Limits, Timeouts
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.replies import Reply

#: Nothing is left out but secrets.
_NO_MORE = Privacy()
#: Octets of a few fields.
EDIT_MARGIN = 4096
#: Distinct upstream capability lists whose offers are kept; there is one a server, seldom more.
_OFFERS = 64


class Offer(NamedTuple):
    """Our answer to EHLO for one upstream: the capabilities, the reply, and the largest message that both sides take."""

    capabilities: Capabilities
    reply: Reply
    message_bytes: int


class Context:
    """One listener's."""

    #: Seconds, for durations in records. Deadlines have trio's clock.
    now = staticmethod(time.perf_counter)

    def __init__(
        self,
        *,
        listener: str,
        hostname: str,
        instance: str,
        trace: bool,
        says_client_name: bool,
        adds: bool = True,
        upstream: str,
        forwarding: frozenset[str],
        auth: Auth,
        auth_in_clear: bool,
        normalise: bool,
        limits: Limits,
        timeouts: Timeouts,
        reporter: Reporter,
        tls: Literal["off", "starttls", "implicit"] = "off",
        recorder: Recorder | None = None,
        late: Late,
        privacy: Privacy = _NO_MORE,
        rulebook: Rulebook,
    ) -> None:
        self.listener = listener
        self.hostname = hostname
        self.ehlo_name = hostname.encode("ascii")
        #: By what Received fields know this relay from others: of this installation, and where it listens once that is known.
        self.instance = instance
        self.trace = trace
        #: Where TLS with clients begins.
        self.tls = tls
        self.says_client_name = says_client_name
        #: Clients are offered what we can keep by ourselves, too.
        self._adds = adds
        #: The listener's own, by its name.
        self.upstream = upstream
        #: Those that are told with each transaction who the client is (XFORWARD).
        self.forwarding = forwarding
        self.rulebook = rulebook
        self.auth = auth
        self.auth_in_clear = auth_in_clear
        #: Bare CR and LF in mail data are made CRLF, not refused.
        self.normalise = normalise
        self.limits = limits
        self.timeouts = timeouts
        self.reporter = reporter
        self.recorder = recorder
        #: What may wait a moment on its way there.
        self.late = late
        #: What is left out of all that is told.
        self.privacy = privacy
        self.shutting_down = False
        self.greeting = local_replies.greeting(self.ehlo_name)
        self.hello = local_replies.hello(self.ehlo_name)
        self.nothing = Capabilities()
        self._offers: dict[tuple[int, bytes, bool, int], tuple[Capabilities, Offer]] = {}
        #: Of which upstream list, and with rules that edit or not, the largest message was asked for last: each MAIL and DATA asks, and a listener
        #: seldom has two.
        self._asked: tuple[Capabilities | None, bool] = (None, False)
        self._largest = 0

    @property
    def identity(self) -> str:
        """What follows the @ in the id of our Received fields (PROTOCOL §1.8)."""
        return f"{self.instance}-{self.listener}"

    def offer(self, upstream: Capabilities, mechanisms: bytes = b"", *, under_tls: bool = False) -> Offer:
        """What a client may be offered in front of such an upstream (PROTOCOL §1.4), with these mechanisms of AUTH."""
        margin = self.edit_margin + (TRACE_MARGIN if self.trace else 0)
        key = id(upstream), mechanisms, under_tls, margin
        kept = self._offers.get(key)
        if kept is not None:
            return kept[1]
        if len(self._offers) >= _OFFERS:
            self._offers.clear()
        capabilities = upstream.offer(
            message_bytes=self.limits.message_bytes,
            margin=margin,
            mechanisms=mechanisms,
            starttls=self.tls == "starttls" and not under_tls,
            adds=self._adds,
        )
        offer = Offer(
            capabilities, capabilities.to_reply(self.ehlo_name), capabilities.size or self.limits.message_bytes
        )
        self._offers[key] = (upstream, offer)  # the list is kept too, so that its id stays its own
        return offer

    @property
    def edit_margin(self) -> int:
        """Octets by which rules may make a message grow, as far as that is told beforehand (PROTOCOL §1.4, SIZE)."""
        return EDIT_MARGIN if self.rulebook.edits else 0

    @property
    def unrecorded(self) -> Reply | None:
        """What is answered where nothing that is said now could be recorded: in the store, or, where there is none, in the log (PROTOCOL §4 column DF)."""
        if self.recorder is None:
            return None if self.reporter.healthy else local_replies.RECORD_FAILED
        trouble = self.recorder.trouble
        return None if trouble is None else refusal_for(trouble)

    def max_size(self, upstream: Upstream | None) -> int:
        """The largest message in octets that both sides take."""
        if upstream is None:
            return self.limits.message_bytes
        capabilities, edits = self._asked
        if upstream.capabilities is not capabilities or self.rulebook.edits is not edits:
            self._asked = upstream.capabilities, self.rulebook.edits
            self._largest = self.offer(upstream.capabilities).message_bytes
        return self._largest
