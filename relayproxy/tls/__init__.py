"""TLS on both legs: engine, stream, contexts, the authority. OpenSSL is imported here and nowhere else."""
