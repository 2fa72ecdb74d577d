"""Metrics that are defined for one extractor or one data set only."""

from pipeline.metrics.types import NotAvailable


class NotApplicable(NotAvailable):
    """A metric of other features or other data. Where all metrics are measured, it is left out without a word."""
