"""From BOLD images to parcel signals: the only code that speaks nibabel, nilearn and nitransforms."""
