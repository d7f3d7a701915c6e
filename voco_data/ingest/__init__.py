"""The preprocess stage: an archive into stores that are up to date with it."""
