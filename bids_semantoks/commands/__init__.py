"""Console scripts beside the main one."""
