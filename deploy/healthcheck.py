"""Is a relay alive? Exit status 0 if it takes a connection, and either keeps it or greets; 1 if it refuses, closes, or says 554.

    python healthcheck.py [HOST:PORT]

A 421 counts, and so does no greeting within some seconds: upstream is away, or slow, which a restart of the relay does not mend. Each check opens
a session with upstream, and logs in where the relay has credentials.
"""

import contextlib
import socket
import sys

SECONDS = 8.0


def main() -> int:
    """Connect, read the greeting, and leave."""
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2525").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), SECONDS) as relay:
            try:
                greeting = relay.recv(1024)
            except TimeoutError:
                sys.stdout.write("no greeting yet: it waits for upstream\n")
                return 0
            with contextlib.suppress(OSError):
                relay.sendall(b"QUIT\r\n")
                relay.recv(1024)
    except OSError as error:
        sys.stderr.write(f"no greeting: {error}\n")
        return 1
    sys.stdout.write(greeting.decode("ascii", "backslashreplace"))
    return 0 if greeting[:3].isdigit() and not greeting.startswith(b"554") else 1


if __name__ == "__main__":
    sys.exit(main())
