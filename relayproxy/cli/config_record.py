"""What must hold between [record] and the rest (DESIGN §5): where mail is kept there must be a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relayproxy.cli.config_written import upstreams, urls, value
from relayproxy.relay.settings import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relayproxy.cli.config_written import Wrong

#: Of [record]: what means nothing without a store.
_KEYS: Final = ("commit", "sync", "on_failure", "messages", "keep")


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    record = settings.get("record")
    if not isinstance(record, dict) or value(record, Record, "store") != "none":
        return
    for key in _KEYS:
        if key in record:
            yield ("record", key), 'expected a store beside it, as store is "none"'
    if "upstream" not in settings:
        yield (
            ("record", "store"),
            'expected an upstream beside it (--upstream, or [upstream.NAME]), as "none" keeps nothing, and without one the store is where mail goes',
        )
        return
    for name, upstream in upstreams(settings).items():
        if upstream is not None and any(url.kind == "capture" for url in urls(upstream)):
            yield (
                ("record", "store"),
                f"expected sqlite:PATH or postgresql://..., or another upstream than capture: ({name}), which keeps its mail there",
            )
