"""Load atlases by name or path: parcels and label images in the space of the data."""
