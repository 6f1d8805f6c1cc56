"""What uses recordings: to speak SMTP again, in place of a client, and to try rules on them (DESIGN §8)."""
