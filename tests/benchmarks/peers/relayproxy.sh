#!/bin/bash
# relayproxy itself. RELAYPROXY names the command; run.py gives the one beside its own interpreter. With TLS it verifies
# upstream's certificate, chain and address both, as it does by default: the rig's authority is the only one it trusts.
# It records nothing, unless BENCH_STORE names a store: relayproxy-recording is that.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
bench_args "$@"; need "${RELAYPROXY:=relayproxy}"; modes none starttls implicit
scheme=smtp listener="" upstream="" tls=""
if [ "$MODE" != none ]; then
  [ "$MODE" = implicit ] && scheme=smtps || scheme=smtp+starttls
  listener="tls = \"$MODE\"" upstream="ca = \"$CA\""
  tls=$(printf '[tls]\ncertificate = "%s"\nkey = "%s"' "$CERT" "$KEY")
fi
cat >"$WORK/relayproxy.toml" <<C
hostname = "relay.test"
state = "$WORK/state"

[[listener]]
name = "bench"
address = "127.0.0.1:$LPORT"
upstream = "sink"
$listener

[upstream.sink]
url = "$scheme://127.0.0.1:$UPORT"
$upstream

$tls

[record]
store = "${BENCH_STORE:-none}"

[log]
file = "$WORK/log.jsonl"

[limits]
sessions = 20000
sessions_per_client = 20000
C
cd "$WORK" && exec "$RELAYPROXY" run "$WORK/relayproxy.toml"
