#!/bin/bash
# Prints the version of every installed peer, one per line.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
v() { printf '%-12s %s\n' "$1" "${2:-not installed}"; }
v haproxy "$(haproxy -v 2>/dev/null | head -1)"
v postfix "$(postconf -h mail_version 2>/dev/null)"
for m in aiosmtpd trio pyopenssl relayproxy; do
  v $m "$("${BENCH_PYTHON:-python3}" -c "import importlib.metadata as m; print(m.version('$m'))" 2>/dev/null)"
done
v cryptography "$("${BENCH_PYTHON:-python3}" -c '
import importlib.metadata as m
from cryptography.hazmat.backends.openssl import backend
print(m.version("cryptography") + ", " + backend.openssl_version_text())' 2>/dev/null)"
for d in smtp-server nodemailer; do
  v $d "$(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' "$BENCH_HOME/node/node_modules/$d/package.json" 2>/dev/null | head -1)"
done
v node "$(node -p '`${process.version}, OpenSSL ${process.versions.openssl}`' 2>/dev/null)"
v openssl "$(openssl version 2>/dev/null)" # the system's: haproxy, Postfix, load and sink
v python "$("${BENCH_PYTHON:-python3}" --version 2>/dev/null)"
v kernel "$(uname -r)"
