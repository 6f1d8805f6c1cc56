#!/bin/bash
# aiosmtpd's own Proxy class. It takes the message whole, then relays with smtplib inside the event loop: one delivery
# at a time, one upstream connection per message. It answers "250 OK" even when the upstream refused (mail is lost).
# BENCH_PYTHON: the interpreter that has it; run.py gives its own, since the tests need aiosmtpd anyway.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
bench_args "$@"; modes none; need "${BENCH_PYTHON:=python3}"
"$BENCH_PYTHON" -c 'import aiosmtpd' 2>/dev/null || { echo "aiosmtpd is not installed" >&2; exit 3; }
exec "$BENCH_PYTHON" "$PEERS/aiosmtpd-relay.py" "$LPORT" "$UPORT"
