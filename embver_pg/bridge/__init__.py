"""The map from an older version's vectors into a newer version's space."""
