#!/bin/bash
# relayproxy, recording in full, as it does by default.
BENCH_STORE=sqlite:relayproxy.db exec "$(dirname "${BASH_SOURCE[0]}")/relayproxy.sh" "$@"
