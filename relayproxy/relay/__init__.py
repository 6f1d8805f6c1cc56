"""The relay as a conversation: sessions, transactions, delivery."""
