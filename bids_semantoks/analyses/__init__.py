"""Questions put to a study: probes of phenotypes, leakage, retest, scaling, fine-tuning."""
