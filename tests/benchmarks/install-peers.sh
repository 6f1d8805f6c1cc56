#!/bin/bash
# Installs what the bench compares relayproxy with, and what it needs to build its load generator. As root, once per
# machine (Debian and its kin). Nothing is started: a temporary policy-rc.d keeps the packages from starting daemons.
# The Node peer goes under $BENCH_HOME; aiosmtpd is in the project's own environment (extra `dev`).
set -u
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/peers/lib.sh"
fail=0

policy=/usr/sbin/policy-rc.d
made_policy=0
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made_policy=1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || fail=1
node=""; command -v npm >/dev/null || node="nodejs npm"
for packages in "gcc libc6-dev libssl-dev" haproxy postfix $node; do # one of them missing must not cost the others
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $packages || fail=1
done
[ $made_policy = 1 ] && rm -f "$policy"

mkdir -p "$BENCH_HOME/node"
(cd "$BENCH_HOME/node" && { [ -f package.json ] || printf '{"name":"bench-peers","private":true}\n' >package.json; } \
  && npm install --no-audit --no-fund --ignore-scripts --loglevel=error smtp-server nodemailer) || fail=1

bash "$PEERS/versions.sh"
exit $fail
