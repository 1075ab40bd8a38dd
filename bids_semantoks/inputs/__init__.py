"""Reading BIDS datasets: the only code that speaks pybids."""
