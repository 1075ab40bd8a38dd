"""Analyses of a study: phenotype probes, leakage, test-retest reliability, scaling, fine-tuning."""
