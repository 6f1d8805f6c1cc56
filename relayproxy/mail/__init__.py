"""Mail without I/O: envelope, addresses and their patterns, header section, text of the body, trace."""
