"""How each source names its findings and columns: words and header lines as they are published.

*_OF: a finding of ours -> the source's name for it, where it is another one.
"""

# ---- CheXpert, and MIMIC-CXR with the same labels --------------------------------------------------------------------

CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
CHEXPERT_OF = {
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
    "Infiltration": "Lung Opacity",
    "Effusion": "Pleural Effusion",
}
# What its readers said of every image that has any finding; the others are blank where they are not there.
CHEXPERT_KNOWS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pneumonia", "Pneumothorax", "Pleural Effusion"),
)

# ---- VinDr-CXR, and the challenge of the same hospital ---------------------------------------------------------------

VINDR = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture"),
    *("Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity"),
    *("Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening"),
    *("Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia"),
    *("Tuberculosis", "Other diseases", "No finding"),
)
VINDR_OF = {
    "Mass": "Nodule/Mass",
    "Nodule": "Nodule/Mass",
    "Effusion": "Pleural effusion",
    "Pleural_Thickening": "Pleural thickening",
    "Fibrosis": "Pulmonary fibrosis",
}
# The number of a class is its place.
VINBIG = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD"),
    *("Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening"),
    *("Pneumothorax", "Pulmonary fibrosis", "No finding"),
)

# ---- CXR-LT 2024 -----------------------------------------------------------------------------------------------------

CXRLT = (
    *("Adenopathy", "Atelectasis", "Azygos Lobe", "Bulla", "Calcification of the Aorta", "Cardiomegaly"),
    *("Cardiomyopathy", "Clavicle Fracture", "Consolidation", "Edema", "Emphysema"),
    *("Enlarged Cardiomediastinum", "Fibrosis", "Fissure", "Fracture", "Granuloma", "Hernia", "Hilum"),
    *("Hydropneumothorax", "Infarction", "Infiltration", "Kyphosis", "Lobar Atelectasis", "Lung Lesion"),
    *("Lung Opacity", "Mass", "Nodule", "Normal", "Osteopenia", "Pleural Effusion", "Pleural Other"),
    *("Pleural Thickening", "Pneumomediastinum", "Pneumonia", "Pneumoperitoneum", "Pneumothorax"),
    *("Pulmonary Embolism", "Pulmonary Hypertension", "Rib Fracture", "Round(ed) Atelectasis", "Scoliosis"),
    *("Subcutaneous Emphysema", "Support Devices", "Tortuous Aorta", "Tuberculosis"),
)
CXRLT_OF = {
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
}

# ---- PadChest --------------------------------------------------------------------------------------------------------

PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,"
    "Projection,MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,"
    "WindowCenter_DICOM,WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,"
    "ExposureInuAs_DICOM,ExposureTime,RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,"
    "Localizations,LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
)
PADCHEST_OF = {
    "Effusion": "pleural effusion",
    "Infiltration": "infiltrates",
    "Edema": "pulmonary edema",
    "Fibrosis": "pulmonary fibrosis",
    "Pleural_Thickening": "pleural thickening",
    "Hernia": "hiatal hernia",
    "Calcification of the Aorta": "aortic atheromatosis",
    "Enlarged Cardiomediastinum": "mediastinal enlargement",
    "Fracture": "rib fracture",
    "Lung Lesion": "cavitation",
    "Lung Opacity": "increased density",
    "Pleural Other": "calcified pleural plaques",
    "Pneumoperitoneum": "pneumoperitoneo",
    "Support Devices": "endotracheal tube",
    "Tortuous Aorta": "aortic elongation",
}

# ---- Open-i: index terms, and what stands in the text of reports -----------------------------------------------------

MESH_OF = {
    "Atelectasis": "Pulmonary Atelectasis/base/left",
    "Effusion": "Pleural Effusion/left/small",
    "Infiltration": "Infiltrate/lung/upper lobe/right",
    "Mass": "Mass/lung/upper lobe/left",
    "Nodule": "Nodule/lung/base/right/small",
    "Pneumothorax": "Pneumothorax/apex/right",
    "Consolidation": "Consolidation/lung/base/left",
    "Edema": "Pulmonary Edema/mild",
    "Emphysema": "Pulmonary Emphysema",
    "Fibrosis": "Pulmonary Fibrosis/interstitial",
    "Pleural_Thickening": "Thickening/pleura/apex/bilateral",
    "Hernia": "Hernia, Hiatal/large",
    "Calcification of the Aorta": "Atherosclerosis/aorta, thoracic",
    "Enlarged Cardiomediastinum": "Mediastinum/enlarged",
    "Fracture": "Fractures, Bone/ribs",
    "Lung Lesion": "Cavitation/lung",
    "Lung Opacity": "Opacity/lung",
    "Pleural Other": "Calcinosis/pleura",
    "Pneumomediastinum": "Mediastinal Emphysema",
    "Support Devices": "Tube, Inserted",
    "Tortuous Aorta": "Aorta/tortuous",
}
WORDS_OF = {
    "Effusion": "pleural effusion",
    "Infiltration": "infiltrate",
    "Mass": "lung mass",
    "Nodule": "pulmonary nodule",
    "Edema": "pulmonary edema",
    "Fibrosis": "pulmonary fibrosis",
    "Pleural_Thickening": "pleural thickening",
    "Hernia": "hiatal hernia",
}
