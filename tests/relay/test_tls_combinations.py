"""Every way to TLS with the client x every way to TLS with upstream: the same mail, the same record but for its TLS."""

from __future__ import annotations

import pytest
from dialog_runner import play

CLIENT = {
    "off": ("", "@ client says EHLO\n", "null"),
    "starttls": ("", "@ client says EHLO\nC> STARTTLS\nC< 220 *\nC tls TLSv1.3 *\n@ client says EHLO\n", '"TLSv1.3"'),
    "implicit": ("C tls TLSv1.3 *\n", "@ client says EHLO\n", '"TLSv1.3"'),
}
HELLO = "U< 220 upstream.test\nU> EHLO relay.test\n"
UPSTREAM = {
    "smtp": (f"U open upstream.test:25\n{HELLO}", "null"),
    "smtp+starttls": (
        f"U open upstream.test:587\n{HELLO}U< 250-upstream.test\n& U< 250 STARTTLS\nU> STARTTLS\nU< 220 go\nU tls TLSv1.3 *\nU> EHLO relay.test\n",
        '"TLSv1.3"',
    ),
    "smtps": (f"U open upstream.test:465\nU tls TLSv1.3 *\n{HELLO}", '"TLSv1.3"'),
}
MESSAGE = """
@ envelope a@example.test b@example.test
@ data
C> |Subject: hi
& C> |
& C> |.
U> |Received: from client.test ([127.0.0.1])
U> |\\x09by relay.test with {protocol}
U> |\\x09id *
U> |\\x09for <b@example.test>;
U> |\\x09*
U> |Subject: hi
U> |
U> |.
U< 250 2.0.0 ok
C< 250 2.0.0 ok
@ record outcome = "accepted"
@ quit
"""


@pytest.mark.parametrize("bytewise", [False, True], ids=["", "bytewise"])
@pytest.mark.parametrize("scheme", UPSTREAM)
@pytest.mark.parametrize("tls", CLIENT)
def test_all_combinations(tls: str, scheme: str, bytewise: bool) -> None:
    before, hello, client_version = CLIENT[tls]
    approach, upstream_version = UPSTREAM[scheme]
    message = MESSAGE.format(protocol="ESMTP" if tls == "off" else "ESMTPS")
    for leg, version in (("client", client_version), ("upstream", upstream_version)):
        fact = f"{leg}.tls = null" if version == "null" else f"{leg}.tls.version = {version}"
        message = message.replace("@ quit", f"@ record {fact}\n@ quit")
    play(
        "relayproxy dialog 1\n"
        f'@ config listener.tls = "{tls}"\n'
        f'@ config upstream.default.url = "{scheme}://upstream.test"\n'
        f"{before}{approach}U< 250 upstream.test\nC< 220 *\n{hello}{message}",
        bytewise=bytewise,
    )
