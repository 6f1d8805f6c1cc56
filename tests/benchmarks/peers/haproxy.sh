#!/bin/bash
# HAProxy in TCP mode: octets only, it does not parse SMTP. The limit of what any proxy can do on this machine.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
bench_args "$@"; need haproxy
cat >"$WORK/haproxy.cfg" <<C
global
  maxconn 8000
defaults
  mode tcp
  timeout connect 10s
  timeout client 300s
  timeout server 300s
frontend f
  bind 127.0.0.1:$LPORT
  default_backend b
backend b
  server s 127.0.0.1:$UPORT
C
exec haproxy -db -f "$WORK/haproxy.cfg"
