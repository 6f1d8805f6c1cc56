#!/bin/bash
# npm smtp-server with a synchronous relay through nodemailer's SMTPConnection: one upstream connection per client
# session, body streamed, headers untouched, no log line. What a Node user writes by hand. It does not verify upstream's
# certificate (rejectUnauthorized: false).
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
bench_args "$@"; need node; modes none starttls implicit
[ -d "$BENCH_HOME/node/node_modules/smtp-server" ] || { echo "nodemailer is not installed: install-peers.sh" >&2; exit 3; }
NODE_PATH="$BENCH_HOME/node/node_modules" exec node "$PEERS/nodemailer-relay.js" "$LPORT" "$UPORT" "$MODE" "$CERT" "$KEY"
