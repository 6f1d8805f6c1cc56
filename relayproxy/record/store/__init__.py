"""The store: every transaction, its message and both legs' wire, to be found again (DESIGN §4, §7, §9.2)."""
