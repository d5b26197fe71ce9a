"""Change the embedding model of a live PostgreSQL/pgvector system."""
