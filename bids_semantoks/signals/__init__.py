"""From a run to cleaned parcel signals and windows."""
