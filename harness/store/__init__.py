"""The store: every run, its raw samples and its comparisons, in one DuckDB file. Nothing else imports duckdb."""

from harness.store.store import Store

__all__ = ["Store"]
