"""Storage of a root: a folder of this machine or a prefix of a bucket, with locks."""
