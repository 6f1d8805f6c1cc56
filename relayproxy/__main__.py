"""`python -m relayproxy`, the same as `relayproxy`."""

import sys

from relayproxy.cli import main

sys.exit(main())
