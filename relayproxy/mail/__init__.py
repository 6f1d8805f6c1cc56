"""Mail without I/O: envelope, header section, trace."""
