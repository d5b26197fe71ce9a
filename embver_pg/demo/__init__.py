"""The demonstration: a live collection moves to a better model while it is searched and written."""
