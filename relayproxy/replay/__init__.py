"""What is done with recordings: sessions are played again, and rules are tried on them."""
