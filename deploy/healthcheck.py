"""Is a relay alive? Exit status 0 if it answers a connection with a reply of any kind, within some seconds.

    python healthcheck.py [HOST:PORT]

A 421 counts: it says that upstream is away, which a restart of the relay does not mend.
"""

import socket
import sys

SECONDS = 8.0


def main() -> int:
    """Connect, read the greeting, and leave."""
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2525").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), SECONDS) as relay:
            greeting = relay.recv(1024)
            relay.sendall(b"QUIT\r\n")
            relay.recv(1024)
    except OSError as error:
        sys.stderr.write(f"no greeting: {error}\n")
        return 1
    sys.stdout.write(greeting.decode("ascii", "backslashreplace"))
    return 0 if greeting[:3].isdigit() else 1


if __name__ == "__main__":
    sys.exit(main())
