"""An application that sends mail, as long as it takes to be one."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage


def sign_up(address: str, smtp: tuple[str, int]) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "app@example.test", address, "Welcome"
    mail.set_content(f"Hello {address}, please follow https://example.test/confirm?token=42\n")
    with smtplib.SMTP(*smtp) as server:
        server.send_message(mail)
