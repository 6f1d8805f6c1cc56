#!/bin/bash
# relayproxy itself. RELAYPROXY names the command; run.py gives the one beside its own interpreter.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
bench_args "$@"; need "${RELAYPROXY:=relayproxy}"; modes none
cat >"$WORK/relayproxy.toml" <<C
hostname = "relay.test"
state = "$WORK/state"

[[listener]]
name = "bench"
address = "127.0.0.1:$LPORT"
upstream = "sink"

[upstream.sink]
url = "smtp://127.0.0.1:$UPORT"

[log]
file = "$WORK/log.jsonl"

[limits]
sessions = 20000
sessions_per_client = 20000
C
cd "$WORK" && exec "$RELAYPROXY" run "$WORK/relayproxy.toml"
