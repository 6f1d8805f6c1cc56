"""Recordings in the forms of others: mailboxes (mailboxes.py, maildir.py) and packets (pcapng.py). The dialog is playback.py's, a record is stored as it is."""
