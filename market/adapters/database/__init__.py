"""The relational database: SQLite in WAL mode by default, PostgreSQL by URL; the truth of money."""
