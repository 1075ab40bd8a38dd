"""Prediction of phenotypes from features: arrays in, arrays and records out; knows neither BIDS nor files."""
