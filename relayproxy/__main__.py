"""What `relayproxy` starts, and `python -m relayproxy`."""

import signal
import sys


def main() -> int:
    """The command line. Until a verb hears it (cli/), Ctrl-C ends us by the system's hand: an import that Python interrupts shows where it was."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from relayproxy.cli import main as command_line  # noqa: PLC0415 - not before that

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
