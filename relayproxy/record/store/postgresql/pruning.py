"""Which days a thing that is asked for by its id may be of, so that no other day's tables are looked at, or locked; and how many days are many. Pure.

Ids are ULIDs, and begin with their millisecond. It is that of the thing but for what clocks that are set do. How ids are made does not belong here (relay/identity.py).
"""

from __future__ import annotations

import math
import re
from typing import Final, Literal

from relayproxy.record.store.postgresql.schema import DAY

_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: The time of an id, of which the beginning may be enough; what is longer is none.
_TIME: Final = re.compile(rf"([0-7][{_DIGITS}]{{9}})[{_DIGITS}]{{0,16}}")
#: Days that a server has locks for as it is installed: of each, who lists all takes some dozen.
_MANY: Final = 60
#: Days that clocks may be set by.
_SET: Final = 1


def near(id_: str, column: Literal["time", "day"], *, later: bool = False) -> str:
    """The condition on a parted table's column; of no effect where the id does not say. `later`: what is of any later day, too."""
    told = _TIME.fullmatch(id_.upper())
    if told is None:
        return "true"
    millisecond = 0
    for digit in told[1]:
        millisecond = millisecond * 32 + _DIGITS.index(digit)
    day = millisecond * 1000 // DAY
    unit = DAY if column == "time" else 1
    after = f"{column} >= {(day - _SET) * unit}"
    return after if later else f"{after} AND {column} < {(day + _SET + 1) * unit}"


def many_days(age: float | None) -> str | None:
    """What a server has to be set to where so much is kept (seconds, None: for ever), where that is more than it comes with."""
    days = None if age is None else math.ceil(age / 86400)
    if days is not None and days <= _MANY:
        return None
    least = "as many as there are days" if days is None else f"{days}"
    return (
        f"record.keep: age is {'none' if days is None else f'{days} days'}, and with postgresql each day is tables of its own: expected {_MANY} days or less,"
        f" or a server whose max_locks_per_transaction is {least} at least (64 by default)"
    )
