"""Labels of radiology reports: a text is read into words and items, items get scopes, scopes give labels."""

from roi.sources.report_labeler.labeler import label_reports

__all__ = ["label_reports"]
