"""Splits, linear models, scores and their uncertainty; arrays in, arrays out."""
