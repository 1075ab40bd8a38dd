"""Probes at group level: how well embeddings predict phenotypes, from stored features to tables and a page."""
