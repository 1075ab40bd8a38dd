"""From the name or path of an atlas and a space to parcels and label images."""
