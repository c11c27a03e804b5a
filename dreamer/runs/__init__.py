"""Run folders: configuration, provenance, checkpoints, and the validation of folders from elsewhere."""
