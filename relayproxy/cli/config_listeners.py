"""What must hold of listeners (DESIGN §5): names of their own, an upstream that there is, and who may connect: an open relay is never an oversight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relayproxy.cli.config_written import listeners, upstreams, value
from relayproxy.net.address import parse_address
from relayproxy.relay.settings import Listener
from relayproxy.rules.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from relayproxy.cli.config_written import Wrong
    from relayproxy.rules.locate import Place


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    for key, nothing in (("upstream", {}), ("listener", [])):
        if settings.get(key) == nothing:
            yield (key,), "expected at least one"
    known = upstreams(settings)
    names: set[str] = set()
    for place, listener in listeners(settings):
        name = value(listener, Listener, "name")
        if isinstance(name, str) and name in names:
            yield (*place, "name"), f"expected a name of its own, got {name!r} again"
        names.add(str(name))
        if known:
            yield from _upstream_named((*place, "upstream"), value(listener, Listener, "upstream"), known)
        yield from _clients_named(place, listener)


def _upstream_named(place: Place, name: object, known: Collection[str]) -> Iterator[Wrong]:
    if isinstance(name, str) and name not in known:
        yield place, f"expected the name of an upstream, got {name!r}; {nearest(name, known)}"
    elif name is None and len(known) > 1:
        listed = ", ".join(sorted(known))
        yield place, f"expected the name of an upstream, as there is more than one; known are {listed}"


def _clients_named(place: Place, listener: Mapping[str, Any]) -> Iterator[Wrong]:
    address = value(listener, Listener, "address")
    try:
        is_open = "clients" not in listener and not parse_address(address).is_loopback
    except (TypeError, ValueError, AttributeError):
        return  # that it is no address has been told
    if is_open:
        yield (*place, "address"), f"expected clients beside it (who may connect), as {address} is not loopback"
    elif "clients" not in listener and value(listener, Listener, "proxy_protocol"):
        wrong = "expected clients beside it (who may connect), as the addresses that it tells are not loopback"
        yield (*place, "proxy_protocol"), wrong
