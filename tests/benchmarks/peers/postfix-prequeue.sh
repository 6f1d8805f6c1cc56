#!/bin/bash
# Postfix smtpd with smtpd_proxy_filter (the before-queue content filter protocol): the classic synchronous SMTP proxy,
# and the peer that does our work: it parses, adds a Received field, logs, and its answer is upstream's.
# starttls: on the client's leg alone, since smtpd_proxy_filter has no TLS; for the same reason no implicit, where the
# upstream would not hear plaintext.
# Own configuration, queue and data folders under WORKDIR; only smtpd and its helpers run. Each MAIL transaction makes a
# new upstream connection (that is how the protocol works). Logs to a file through postlogd. Needs root, as master does.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
bench_args "$@"; need postconf; modes none starttls
[ "$(id -u)" = 0 ] || { echo "Postfix's master runs as root only" >&2; exit 3; }
C=$WORK/conf; mkdir -p "$C" "$WORK/data"
chmod 755 "$WORK" "$C"; chown postfix "$WORK/data"
D=$(postconf -h daemon_directory); S=$(postconf -h command_directory)
cat >"$C/main.cf" <<M
compatibility_level = 3.6
queue_directory = $WORK/spool
data_directory = $WORK/data
daemon_directory = $D
command_directory = $S
maillog_file = $WORK/maillog
maillog_file_prefixes = $WORK
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = relay.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
relay_domains = sink.test
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtpd_client_event_limit_exceptions = static:all
smtpd_client_connection_count_limit = 0
message_size_limit = 1073741824
mailbox_size_limit = 0
default_process_limit = ${POSTFIX_PROCESSES:-100}
max_use = 10000
in_flow_delay = 0
smtpd_proxy_timeout = 100s
M
[ "$MODE" = none ] || cat >>"$C/main.cf" <<M
smtpd_tls_security_level = may
smtpd_tls_chain_files = $KEY, $CERT
smtpd_tls_session_cache_database =
smtpd_tls_loglevel = 0
M
cat >"$C/master.cf" <<M
127.0.0.1:$LPORT inet n - n - - smtpd -o smtpd_proxy_filter=127.0.0.1:$UPORT
anvil     unix - - n - 1 anvil
rewrite   unix - - n - - trivial-rewrite
proxymap  unix - - n - - proxymap
tlsmgr    unix - - n 1000? 1 tlsmgr
scache    unix - - n - 1 scache
cleanup   unix n - n - 0 cleanup
bounce    unix - - n - 0 bounce
postlog   unix-dgram n - n - 1 postlogd
M
mkdir -p "$WORK/spool"
for d in active bounce corrupt defer deferred flush hold incoming private saved trace; do
  mkdir -p "$WORK/spool/$d"; chown postfix "$WORK/spool/$d"; chmod 700 "$WORK/spool/$d"
done
mkdir -p "$WORK/spool/pid" "$WORK/spool/public" "$WORK/spool/maildrop"
chown postfix:postdrop "$WORK/spool/public" "$WORK/spool/maildrop"
chmod 710 "$WORK/spool/public"; chmod 730 "$WORK/spool/maildrop"
# master straight in the foreground: `postfix start-fg` would check the permissions of the system's own installation
export MAIL_CONFIG=$C
exec "$D/master" -c "$C" -d
