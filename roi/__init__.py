"""ROI consistency for chest X-rays: the maths and the one training loop behind the scripts."""
