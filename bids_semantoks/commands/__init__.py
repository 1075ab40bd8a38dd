"""Additional console scripts."""
