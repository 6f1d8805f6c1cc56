"""What must hold between the settings of AUTH and of credentials (DESIGN §5): nobody is asked who cannot answer, and no password leaves in clear.

Secrets are not read: what is right must not depend on them. Logging in does not belong here (relay/credentials.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relayproxy.cli.config_written import listeners, upstream_of, upstreams, urls
from relayproxy.net.address import is_loopback
from relayproxy.smtp.sasl_client import BEARER, VEILED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relayproxy.cli.config_written import Wrong
    from relayproxy.net.dial import UpstreamUrl

_SECRETS: Final = ("password_file", "password_env", "token_command")


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    for place, listener in listeners(settings):
        if listener.get("auth") == "pass" and (its := upstream_of(settings, listener)) is not None:
            for wrong in _cannot_pass(its):
                yield (*place, "auth"), wrong
    for name, upstream, credentials in _logins(settings):
        for wrong in _of_credentials(credentials, urls(upstream)):
            yield ("upstream", name, "credentials"), wrong


def variables(settings: Mapping[str, Any]) -> set[str]:
    """The variables of the environment that hold passwords: whatever their names, they are no flags."""
    return {str(credentials.get("password_env")) for _, _, credentials in _logins(settings)}


def _logins(settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Where we log in: an upstream's name, its table, and that of its credentials."""
    for name, upstream in upstreams(settings).items():
        if upstream is not None and isinstance(credentials := upstream.get("credentials"), dict):
            yield name, upstream, credentials


def _cannot_pass(upstream: Mapping[str, Any]) -> Iterator[str]:
    if any(url.kind == "capture" for url in urls(upstream)):
        yield 'expected "any" or "off", as capture: has nobody to ask'
    elif "credentials" in upstream:
        yield 'expected "any" or "off", as its upstream has credentials of its own'


def _of_credentials(credentials: Mapping[str, Any], beside: list[UpstreamUrl]) -> Iterator[str]:
    given = [key for key in _SECRETS if key in credentials]
    mechanism = credentials.get("mechanism")
    if len(given) != 1:
        yield f"expected one of {', '.join(_SECRETS)}, got {' and '.join(given) or 'none'}"
    elif given == ["token_command"] and mechanism not in (None, BEARER):
        yield f'expected mechanism = "{BEARER}" or none, as token_command gives a token and no password'
    elif given != ["token_command"] and mechanism == BEARER:
        yield f"expected token_command, as {BEARER} shows a token and no password"
    if any(url.kind == "capture" for url in beside):
        yield "expected a server's url beside it, as capture: asks nobody who it is"
    heard = [url.host for url in beside if url.host and url.tls == "off" and not is_loopback(url.host)]
    if heard and not (isinstance(mechanism, str) and mechanism in VEILED):
        veiled = " or ".join(f'mechanism = "{one}"' for one in sorted(VEILED, reverse=True))
        yield f"expected a url beside it that asks for TLS, or {veiled}: others could hear the secret on its way to {heard[0]}"
