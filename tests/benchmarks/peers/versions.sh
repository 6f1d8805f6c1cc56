#!/bin/bash
# Prints the version of every installed peer, one per line.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
v() { printf '%-12s %s\n' "$1" "${2:-not installed}"; }
v haproxy "$(haproxy -v 2>/dev/null | head -1)"
v postfix "$(postconf -h mail_version 2>/dev/null)"
for m in aiosmtpd trio relayproxy; do
  v $m "$("${BENCH_PYTHON:-python3}" -c "import importlib.metadata as m; print(m.version('$m'))" 2>/dev/null)"
done
for d in smtp-server nodemailer; do
  v $d "$(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' "$BENCH_HOME/node/node_modules/$d/package.json" 2>/dev/null | head -1)"
done
v node "$(node --version 2>/dev/null)"
v python "$("${BENCH_PYTHON:-python3}" --version 2>/dev/null)"
v kernel "$(uname -r)"
