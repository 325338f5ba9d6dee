"""Models as files: of the published release, of open_clip, and of a run."""
