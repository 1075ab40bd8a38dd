"""Pretrain an encoder on stored signals and write it with its card."""
