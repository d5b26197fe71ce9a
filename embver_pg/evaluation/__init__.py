"""Evaluation: golden sets, ranking metrics, and the statistics that a gate decides with."""
