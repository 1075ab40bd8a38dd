"""HTML pages and figures of both levels."""
