"""SMTP without I/O: bytes to commands and replies, and back."""
