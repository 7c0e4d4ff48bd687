"""The 14 findings of NIH ChestX-ray14, in the order that they have everywhere, and the names of their absence."""

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NORMAL = ("Normal", "No Finding")  # never findings: derived, and left out of every mean over classes
