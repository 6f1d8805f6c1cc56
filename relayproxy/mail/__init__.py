"""Mail without I/O: header section, trace."""
