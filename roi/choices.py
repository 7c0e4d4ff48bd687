"""What flags offer, where the room that knows what it means is slow to load: --help does not wait for it."""

# make_chexmultimodal_csv.py: what a report does not mention; how VinDr's readers become one label.
BLANK_POLICIES = ("unknown", "negative")
VOTES = ("majority", "any", "fraction")
# convert_dicom.py: of grey values; sides in px, outside of which is no chest X-ray: 6,000 x 6,000 of 16 bit are 72 MB.
WINDOWS = ("voi", "percentile")
SIDES = (64, 6000)
# make_demo_dataset.py: whose layout it writes, as roi/demo/source_layouts.py and, the last one, study_layouts.py can.
LAYOUTS = ("nih", "openi", "rexgradient", "chexpert", "mimic", "padchest", "vindr", "vinbigdata", "cxrlt", "table")
# Its fewest images, and sides in px.
MIN_IMAGES, SIZES = 20, (32, 2048)
