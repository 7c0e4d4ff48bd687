"""The words of the page that a reader of X-rays need not know, one hover, tap or key away from where they stand."""

from roi.report.html import esc

WORDS = {
    "AUROC": "How often an image with the finding gets a higher probability than one without it. 1 is perfect, 0.5 is "
    "chance. It needs no threshold.",
    "Average precision": "Area below the curve of precision over recall. Chance is the share of the images that have "
    "the finding, so values of rare and of common findings differ.",
    "Threshold": "The probability from which on a finding is called. It is chosen on other images than those scored.",
    "F1": "One figure of precision (how many of the called images have the finding) and recall at the threshold.",
    "Sensitivity": "Of the images with the finding, the share that is called. Recall is another word for it.",
    "Specificity": "Of the images without the finding, the share that is not called.",
    "PPV": "Of the called images, the share that has the finding; precision is another word. It falls where the "
    "finding is rare.",
    "Interval": "Figures in brackets: in 95 of 100 repetitions with other patients of the same kind the true value "
    "lies within. Patients are drawn with replacement, all images of a patient together.",
    "Crop": "The image with nothing left but the pixels that the mask keeps. If the mask is right, the model still "
    "recognises the findings.",
    "Drop": "The image without the pixels that the mask keeps. If they are what matters, the findings are no longer "
    "recognised.",
    "Mask": "The pixels that the model itself declares to matter, a fixed share of the image.",
    "Map": "How much each place of the image speaks for one finding.",
    "Faithfulness": "By how much the probability falls when the pixels of the mask are taken away. Large on images "
    "with the finding means that the mask holds what the model uses.",
    "Pointing": "How often the highest place of a map lies inside the box that a radiologist has drawn.",
    "Control": "A map that knows nothing of this image: another patient's, a fixed place, chance. A map must beat it.",
    "Calibration": "Whether of the images with a probability of 0.3 three of ten have the finding. ECE is the mean "
    "distance from that, Brier the mean squared error.",
    "Prediction set": "All findings above a threshold that was chosen so that at most a given share is missed.",
    "Contaminated": "Images or patients that were scored have been trained on: the figures are too good.",
}


def hint(word: str) -> str:
    """A small question mark that explains a word of the glossary to the mouse, the finger and the keyboard."""
    text = esc(WORDS[word])
    name = esc(f"What is {word}?")
    return f'<span class="term" tabindex="0" role="note" aria-label="{name} {text}">?<span>{text}</span></span>'


def glossary() -> str:
    """All words, behind a button that stays in the corner of the window."""
    entries = ""
    for word, text in WORDS.items():
        entries += f"<dt>{esc(word)}</dt><dd>{esc(text)}</dd>"
    return f'<details class="words"><summary>Words</summary><dl tabindex="0">{entries}</dl></details>'
