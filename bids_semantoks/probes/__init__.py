"""Probes at group level: what embeddings know of phenotypes, from stored features to tables and a page."""
