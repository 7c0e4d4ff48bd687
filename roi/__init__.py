"""ROI consistency for chest X-rays: the maths and the one training loop behind the scripts."""

__version__ = "0.9.0"
WRITTEN_BY = f"roi-consistency {__version__}"  # stands in the files that are written
