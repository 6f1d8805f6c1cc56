#!/bin/bash
# HAProxy in TCP mode: octets only, it does not parse SMTP. The limit of what any proxy can do on this machine.
# implicit: it ends TLS and begins it again, a handshake upstream for every session, as all the others must do.
# STARTTLS it does not know.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
bench_args "$@"; need haproxy; modes none implicit
bind="" server=""
if [ "$MODE" = implicit ]; then
  cat "$CERT" "$KEY" >"$WORK/both.pem"
  bind=" ssl crt $WORK/both.pem" server=" ssl verify none no-ssl-reuse"
fi
cat >"$WORK/haproxy.cfg" <<C
global
  maxconn 8000
defaults
  mode tcp
  timeout connect 10s
  timeout client 300s
  timeout server 300s
frontend f
  bind 127.0.0.1:$LPORT$bind
  default_backend b
backend b
  server s 127.0.0.1:$UPORT$server
C
exec haproxy -db -f "$WORK/haproxy.cfg"
