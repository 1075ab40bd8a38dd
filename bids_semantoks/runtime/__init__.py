"""Processes, CPUs and memory, logs, downloads."""
