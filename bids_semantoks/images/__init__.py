"""NIfTI, CIFTI and GIFTI files: headers, masks, and data in blocks."""
