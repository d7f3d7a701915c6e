"""Label maps: read from files and placed on their series by geometry."""
