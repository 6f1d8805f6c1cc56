# Shared by the peer scripts; sourced, not run.
# PEERS: this folder. BENCH_HOME: where install-peers.sh puts what no package of the system has.
PEERS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BENCH_HOME=${BENCH_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/relayproxy-bench}

# bench_args "$@": checks `start LISTEN_PORT UPSTREAM_PORT WORKDIR`, sets LPORT UPORT WORK.
bench_args() {
  if [ "${1:-}" != start ] || [ $# -lt 4 ]; then
    echo "usage: $0 start LISTEN_PORT UPSTREAM_PORT WORKDIR" >&2; exit 2
  fi
  LPORT=$2 UPORT=$3
  mkdir -p "$4" || exit 1
  WORK=$(cd "$4" && pwd)
  ulimit -Sn "$(ulimit -Hn)" 2>/dev/null # two descriptors a session, thousands of sessions
}
# need PROGRAM...: exits 3 (cannot) unless all of them are there
need() { local p; for p in "$@"; do command -v "$p" >/dev/null || { echo "$p is not installed" >&2; exit 3; }; done; }
# modes MODE...: sets MODE CERT KEY CA from BENCH_TLS and its kin (rig.py); exits 3 unless MODE is one of those named
modes() {
  MODE=${BENCH_TLS:-none} CERT=${BENCH_CERT:-} KEY=${BENCH_KEY:-} CA=${BENCH_CA:-}
  local m; for m in "$@"; do [ "$m" = "$MODE" ] && return 0; done
  echo "TLS $MODE: not for this peer" >&2; exit 3
}
