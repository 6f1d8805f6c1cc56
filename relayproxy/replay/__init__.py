"""What uses recordings to speak SMTP again: to a server, in place of a client (DESIGN §8)."""
