"""What must hold between the settings of AUTH and of credentials (DESIGN §5): nobody is asked who cannot answer, and no password leaves in clear.

Settings are looked at as they were written, since what is wrong with them otherwise has been told already. Secrets are not read: what is
right must not depend on them. Logging in does not belong here (relay/credentials.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relayproxy.net.address import is_loopback
from relayproxy.net.dial import UpstreamUrl
from relayproxy.smtp.sasl_client import BEARER, VEILED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relayproxy.cli.locate import Place

#: Where a setting stands, and what is wrong with it.
Wrong = tuple["Place", str]

_SECRETS: Final = ("password_file", "password_env", "token_command")


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    upstreams = settings.get("upstream", {"capture": {}})
    if not isinstance(upstreams, dict) or not upstreams:
        return
    listeners = settings.get("listener", [{}])
    for index, listener in enumerate(listeners if isinstance(listeners, list) else []):
        name = isinstance(listener, dict) and (listener.get("upstream") or next(iter(upstreams)))
        upstream = upstreams.get(name) if isinstance(name, str) else None
        if isinstance(upstream, dict) and listener.get("auth") == "pass":
            yield from _cannot_pass(index, upstream)
    for name, upstream in upstreams.items():
        if isinstance(upstream, dict) and isinstance(credentials := upstream.get("credentials"), dict):
            place = ("upstream", name, "credentials")
            for wrong in _of_credentials(credentials, _urls(upstream)):
                yield place, wrong


def variables(settings: Mapping[str, Any]) -> set[str]:
    """The variables of the environment that hold passwords: whatever their names, they are no flags."""
    upstreams = settings.get("upstream")
    tables = [one for one in upstreams.values() if isinstance(one, dict)] if isinstance(upstreams, dict) else []
    found = [one.get("credentials") for one in tables]
    return {str(one.get("password_env")) for one in found if isinstance(one, dict)}


def _urls(upstream: Mapping[str, Any]) -> list[UpstreamUrl]:
    """As far as they are some."""
    urls = upstream.get("url", "capture:")
    made = []
    for url in [urls] if isinstance(urls, str) else urls if isinstance(urls, list) else []:
        try:
            made.append(UpstreamUrl.parse(url))
        except (ValueError, AttributeError):
            return []
    return made


def _cannot_pass(index: int, upstream: Mapping[str, Any]) -> Iterator[Wrong]:
    place = ("listener", index, "auth")
    if any(url.kind == "capture" for url in _urls(upstream)):
        yield place, 'expected "any" or "off", as capture: has nobody to ask'
    elif "credentials" in upstream:
        yield place, 'expected "any" or "off", as its upstream has credentials of its own'


def _of_credentials(credentials: Mapping[str, Any], urls: list[UpstreamUrl]) -> Iterator[str]:
    given = [key for key in _SECRETS if key in credentials]
    mechanism = credentials.get("mechanism")
    if len(given) != 1:
        yield f"expected one of {', '.join(_SECRETS)}, got {' and '.join(given) or 'none'}"
    elif given == ["token_command"] and mechanism not in (None, BEARER):
        yield f'expected mechanism = "{BEARER}" or none, as token_command gives a token and no password'
    elif given != ["token_command"] and mechanism == BEARER:
        yield f"expected token_command, as {BEARER} shows a token and no password"
    if any(url.kind == "capture" for url in urls):
        yield "expected a server's url beside it, as capture: asks nobody who it is"
    heard = [url.host for url in urls if url.kind == "smtp" and url.tls == "off" and not is_loopback(url.host)]
    if heard and not (isinstance(mechanism, str) and mechanism in VEILED):
        veiled = " or ".join(f'mechanism = "{one}"' for one in sorted(VEILED, reverse=True))
        yield f"expected a url beside it that asks for TLS, or {veiled}: others could hear the secret on its way to {heard[0]}"
