"""`relayproxy ca show|export`: the authority that signs minted certificates, for those who are to trust it.

Its key never leaves the state folder (attack 26): what is shown and exported is the certificate. Where there is no authority yet `export`
makes one, as a relay that mints does, and says so; `show` never does. Signing does not belong here (tls/authority.py), nor trusting: that is the administrator's to do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from relayproxy.cli import file_or_dash

if TYPE_CHECKING:
    from relayproxy.tls.authority import Named

#: What to type so that the file is trusted, by what is to trust it.
TRUST: Final = (
    ("Debian, Ubuntu", "sudo cp {file} /usr/local/share/ca-certificates/relayproxy.crt && sudo update-ca-certificates"),
    ("macOS", "sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {file}"),
    ("Python", "export SSL_CERT_FILE={file} REQUESTS_CA_BUNDLE={file}"),
    ("Java", "keytool -importcert -cacerts -storepass changeit -noprompt -alias relayproxy -file {file}"),
)


def ca(
    what: Literal["show", "export"],
    /,
    *,
    output: Annotated[
        str | None, Parameter(metavar="FILE|-", allow_leading_hyphen=True, validator=file_or_dash)
    ] = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Show or export the authority that signs minted certificates.

    Parameters
    ----------
    what
        show: whose it is, until when, and where it is kept; export: its certificate, in PEM, and how to have it trusted
    output
        where the certificate goes: a file, or - for standard output, the default
    config
        the configuration, for its state folder; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import Failed, in_words, say
    from relayproxy.cli.config import load
    from relayproxy.cli.output import path_or_none
    from relayproxy.tls.authority import CERTIFICATE, FOLDER, Authority, Named

    if what == "show" and output is not None:
        raise Failed("expected --output with export, got it with show")
    state = load(config).state
    folder = state / FOLDER
    is_new = not os.path.lexists(folder)
    if what == "show" and is_new:
        raise Failed(
            f"there is no authority in {folder} yet: the first relayproxy run that mints certificates makes it, or relayproxy ca export",
            status=1,
        )
    with in_words():
        # root may ask for what belongs to the service.
        authority = Authority.open(state) if is_new else Named.read(state)
        if is_new:
            say(f"relayproxy: made a new authority in {folder}")
        if what == "show":
            _show(authority, folder / CERTIFICATE)
        else:
            _export(authority, path_or_none(output))
    return 0


def _show(authority: Named, path: Path) -> None:
    sys.stdout.write(
        f"subject    {authority.subject}\n"
        f"digest     sha256:{authority.digest}\n"
        f"valid      until {authority.not_after:%Y-%m-%d}\n"
        f"file       {path}\n"
    )


def _export(authority: Named, output: Path | None) -> None:
    from shlex import quote

    from relayproxy.cli import say

    if output is None:
        sys.stdout.write(authority.certificate_pem.decode("ascii"))
    else:
        output.write_bytes(authority.certificate_pem)
    file = quote(str(Path("relayproxy-ca.pem") if output is None else output.absolute()))
    say("To have it trusted, type:")
    for who, line in TRUST:
        say(f"  {who + ':':<16}{line.format(file=file)}")
