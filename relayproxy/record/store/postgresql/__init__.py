"""`postgresql:` stores: one database for many relays, on many hosts (DEPENDENCIES §6). psycopg is imported here and nowhere else."""
