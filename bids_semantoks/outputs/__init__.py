"""Write the output dataset (BIDS derivatives) and read it back."""
