"""Rules: milter-style conditions and actions on envelope, header and body (DESIGN §6). Pure: no I/O but the loader's, no clock, no logging."""
