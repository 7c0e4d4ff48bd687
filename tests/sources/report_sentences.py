"""Sentences of reports with the cells that a reader of them would give: kind -> lines of "sentence => cells".

The words of the cells are those of test_report_labeler.py (`lungs-`, `opacity~`, `Effusion+`); `*` accepts UNCERTAIN,
NOT_MENTIONED and PARENT_ONLY, which all leave the finding unknown.
"""

# A grid of finding x cue x position x list x neighbouring clause, written before the labeler had seen it: 55.8 % were
# read as expected, 78 of 441 flipped. The rules were then made on it.
GRID = {
    "asserted": """
Small right effusion with adjacent atelectasis => Effusion+ Atelectasis+
Multifocal consolidation, worst in the left lower lobe => Consolidation+
There is a new 8 mm nodule in the right mid lung => Nodule+
Moderate cardiomegaly and interstitial edema are again seen => Cardiomegaly+ Edema+
The previously seen left pneumothorax is larger => PTX+
Bilateral pneumonia is present => Pneumonia+
Unchanged biapical pleural thickening => PT+
Worsening infiltrates in both lungs => Infiltration+
Improving pulmonary edema => Edema+
A spiculated mass is seen in the left upper lobe => Mass+
Upper lobe predominant emphysema, unchanged => Emphysema+
Moderate hiatal hernia => Hernia+
Chronic fibrosis at the bases => Fibrosis+
Persistent right pneumothorax despite chest tube => PTX+
Effusion has increased since the prior study => Effusion+
Stable appearance of the left lower lobe consolidation => Consolidation+
Likely atelectasis at the left base => Atelectasis+
Findings are in keeping with pulmonary edema => Edema+
The heart is again noted to be enlarged => Cardiomegaly+
Pneumonia involving the right upper lobe => Pneumonia+
""",
    "denied before": """
No pleural effusion => Effusion-
No evidence of pneumothorax => PTX-
There is no sign of consolidation => Consolidation-
I see no nodule => Nodule-
Absence of pulmonary edema => Edema-
Lungs are devoid of infiltrates => Infiltration-
Negative for pneumonia => Pneumonia-
Without evidence for pneumothorax => PTX-
There is nothing to suggest pneumonia => Pneumonia-
No indication of edema => Edema-
No visible pneumothorax => PTX-
No convincing evidence of pneumonia => Pneumonia-
The lungs show no mass => Mass-
The study fails to show a pneumothorax => PTX-
The heart does not appear enlarged => Cardiomegaly-
The radiograph does not demonstrate an effusion => Effusion-
Not seen is any pneumothorax => PTX-
There are no signs to suggest fibrosis => Fibrosis-
No suspicious nodule => Nodule-
No focal airspace disease => opacity-
No focal air space opacity => opacity-
No airspace disease => opacity-
No air space disease or effusion => opacity- Effusion-
No nodular opacity => Nodule-
No masslike opacity => Mass-
No lung lesion => Mass- Nodule-
No obstructive lung disease => Emphysema-
No interstitial lung disease => Fibrosis-
No pleural plaques => 
No volume loss => Atelectasis-
No acute infiltrate => Infiltration-
No lobar pneumonia or lobar collapse => Pneumonia- Atelectasis-
No radiographic findings of congestive heart failure => Edema-
No hiatal hernia => Hernia-
No emphysematous change => Emphysema-
Neither consolidation nor edema => Consolidation- Edema-
Heart is not enlarged and there is no effusion => Cardiomegaly- Effusion-
There has been no development of a pneumothorax => PTX-
""",
    "denied in a list": """
No effusion, pneumothorax, mass, or nodule => Effusion- PTX- Mass- Nodule-
No infiltrate, effusion or pneumothorax is identified => Infiltration- Effusion- PTX-
No pneumothorax/effusion => PTX- Effusion-
No edema, effusion, nor pneumothorax => Edema- Effusion- PTX-
No pneumothorax or pleural effusion or consolidation => PTX- Effusion- Consolidation-
No consolidation, no effusion, no pneumothorax => Consolidation- Effusion- PTX-
No focal consolidation, edema, effusion => Consolidation- Edema- Effusion-
There is no large effusion, focal consolidation, overt edema or pneumothorax => Effusion- Consolidation- Edema- PTX-
No consolidation, pneumothorax, or large pleural effusion seen => Consolidation- PTX- Effusion-
Without focal consolidation, effusion, or edema => Consolidation- Effusion- Edema-
Negative for effusion, pneumothorax, and pneumonia => Effusion- PTX- Pneumonia-
No evidence of pneumonia, effusion, or other acute process => Pneumonia- Effusion- acute-
No acute abnormality, effusion, or pneumothorax => acute- Effusion- PTX-
There is no evidence of pleural effusion, pleural thickening, or pneumothorax => Effusion- PT- PTX-
No pleural effusions, cardiomegaly, or hiatal hernia => Effusion- Cardiomegaly- Hernia-
No mass, nodule, infiltrate, atelectasis, or fibrosis => Mass- Nodule- Infiltration- Atelectasis- Fibrosis-
No (pleural) effusion and no (tension) pneumothorax => Effusion- PTX-
No pneumothorax & no effusion => PTX- Effusion-
No consolidation or effusion, no pneumothorax and no edema => Consolidation- Effusion- PTX- Edema-
""",
    "denied behind with a verb": """
Effusion is absent => Effusion-
Pneumothorax is not appreciated => PTX-
Pneumonia is not evident => Pneumonia-
Consolidation is not demonstrated => Consolidation-
Nodules were not found => Nodule-
A pneumothorax was not visualized => PTX-
Edema has been ruled out => Edema-
Cardiomegaly is not present => Cardiomegaly-
Pleural effusion or pneumothorax is not seen => Effusion- PTX-
Effusion, pneumothorax and consolidation are absent => Effusion- PTX- Consolidation-
Pneumothorax cannot be identified => PTX-
A nodule cannot be seen => Nodule-
Effusion is no longer visible => Effusion-
Pneumonia is not suspected => Pneumonia-
Mass has been excluded => Mass-
Emphysema and fibrosis are not seen => Emphysema- Fibrosis-
Infiltrates are no longer demonstrated => Infiltration-
The effusion is gone => Effusion-
The pneumothorax has disappeared => PTX-
The previously described nodule is not seen today => Nodule-
""",
    "denied behind without a verb": """
Pneumothorax: None => PTX-
Pleural effusion: absent => Effusion-
Effusion - none => Effusion-
Consolidation: Negative => Consolidation-
Nodules: none identified => Nodule-
Edema ruled out => Edema-
Cardiomegaly: No => Cardiomegaly-
Pneumonia: not seen => Pneumonia-
Pleural effusions: None seen => Effusion-
Masses: None => Mass-
Hiatal hernia: no => Hernia-
Pneumothorax absent => PTX-
Pneumothorax excluded => PTX-
Pneumothorax (absent) => PTX-
Pleural thickening: None => PT-
Atelectasis – none => Atelectasis-
Emphysema: not present => Emphysema-
Pleural effusion or pneumothorax: None => Effusion- PTX-
Infiltrate: negative; effusion: negative => Infiltration- Effusion-
Pneumothorax: No evidence => PTX-
Pulmonary edema: no evidence of edema => Edema-
Effusion: No effusion => Effusion-
Pneumothorax:\\nNone => PTX-
Pleura: no effusion or pneumothorax => Effusion- PTX-
Consolidation = none => Consolidation-
Pneumothorax: none, effusion: none, consolidation: none => PTX- Effusion- Consolidation-
Pneumothorax none => PTX-
Nodules/masses: none => Nodule- Mass-
Fibrosis: nil => Fibrosis-
Focal consolidation: not identified => Consolidation-
Pneumonia? No. => Pneumonia-
Pleural effusion: None on the right => Effusion-
Airspace opacities: None => opacity-
Pneumothorax: => 
""",
    "structured, asserted": """
Pleural effusion: small, left => Effusion+
Pneumothorax: present => PTX+
Cardiomegaly: mild => Cardiomegaly+
Heart size: mildly enlarged => Cardiomegaly+
Effusion: yes => Effusion+
Consolidation - right lower lobe => Consolidation+
Pneumothorax: none, effusion: small => PTX- Effusion+
Effusion: none; atelectasis: bibasilar => Effusion- Atelectasis+
Findings: nodule in the right apex => Nodule+
Impression: pneumonia => Pneumonia+
Lungs: emphysema, no consolidation => Emphysema+ Consolidation-
Pleura: small left effusion, no pneumothorax => Effusion+ PTX-
Lungs: clear => lungs-
Heart: normal => Cardiomegaly-
Heart size: Normal => Cardiomegaly-
Pneumothorax: tiny apical pneumothorax => PTX+
""",
    "a neighbouring clause": """
No pleural effusion, consolidation is present => Effusion- Consolidation+
Negative for pneumothorax, positive for effusion => PTX- Effusion+
No pneumothorax; small left effusion => PTX- Effusion+
No effusion but atelectasis at the left base => Effusion- Atelectasis+
There is no effusion, there is a nodule => Effusion- Nodule+
No effusion. Consolidation in the lingula => Effusion- Consolidation+
Effusion is present, pneumothorax is not => Effusion+ PTX-
No pneumothorax, however the effusion has increased => PTX- Effusion+
No effusion or pneumothorax, and the heart is enlarged => Effusion- PTX- Cardiomegaly+
While there is no effusion, edema is present => Effusion- Edema+
Although there is no consolidation, atelectasis is noted => Consolidation- Atelectasis+
Despite the absence of effusion, there is edema => Effusion- Edema+
Cardiomegaly without edema or effusion => Cardiomegaly+ Edema- Effusion-
Cardiomegaly is present without effusion, and a nodule is seen => Cardiomegaly+ Effusion- Nodule+
Atelectasis, no effusion => Atelectasis+ Effusion-
Effusion on the right, none on the left => Effusion+
Right effusion, no left effusion => Effusion+
No right effusion, small left effusion => Effusion+
No left pneumothorax, but right pneumothorax persists => PTX+
No pneumonia, only atelectasis => Pneumonia- Atelectasis+
Not pneumonia but atelectasis => Pneumonia- Atelectasis+
No consolidation, just minimal atelectasis => Consolidation- Atelectasis+
Effusion and atelectasis, no pneumothorax, and cardiomegaly => Effusion+ Atelectasis+ PTX- Cardiomegaly+
No pneumothorax following drainage, residual effusion remains => PTX- Effusion+
No pneumothorax, with stable effusion => PTX- Effusion+
Pneumothorax has resolved but effusion persists => PTX- Effusion+
Effusion persists, pneumothorax has resolved => Effusion+ PTX-
The pneumothorax is no longer seen and the effusion has decreased => PTX- Effusion+
No effusion yet atelectasis is seen => Effusion- Atelectasis+
No effusion, unlike the consolidation, which persists => Effusion- Consolidation+
No effusion, whereas the infiltrate is unchanged => Effusion- Infiltration+
No consolidation. Effusion: small => Consolidation- Effusion+
No pneumothorax, bilateral effusions are seen => PTX- Effusion+
No pneumothorax, and small effusions are unchanged => PTX- Effusion+
No edema in the presence of cardiomegaly => Edema- Cardiomegaly+
Emphysema with no superimposed pneumonia => Emphysema+ Pneumonia-
Heart size is normal, effusion is present => Cardiomegaly- Effusion+
Heart normal. Lungs clear. No effusion => Cardiomegaly- lungs- Effusion-
The lungs are clear, but there is a hiatal hernia => lungs- Hernia+
There is no pneumothorax as the lung has re-expanded, a small effusion is left => PTX- Effusion+
""",
    "a general denial": """
No acute cardiopulmonary abnormality, findings compatible with emphysema => acute- Emphysema+
No acute disease, emphysema => acute- Emphysema+
No infectious process => Pneumonia-
No acute infectious process => Pneumonia-
No metastatic disease => Nodule- Mass-
No evidence of metastatic disease => Nodule- Mass-
No active tuberculosis => 
No evidence of tuberculous disease => 
No acute fracture or other osseous abnormality => 
No granulomatous disease => 
No occupational lung disease => 
No reactive airway disease => 
No acute aortic abnormality => 
No aggressive osseous process => 
No acute abdominal process => 
No neoplastic process => Nodule- Mass-
No malignant disease => Nodule- Mass-
No acute pulmonary disease => Pneumonia- Consolidation- Edema- Infiltration-
No active lung disease => Pneumonia- Consolidation- Edema- Infiltration-
No acute pleural abnormality => PTX-
No pleural abnormality => pleura-
No acute cardiac abnormality => 
No abnormality => chest-
No significant abnormality is seen => chest-
No acute findings => acute-
No active disease => acute-
No acute process, stable cardiomegaly => acute- Cardiomegaly+
No acute abnormality other than atelectasis => acute- Atelectasis+
No acute cardiopulmonary process and no effusion => acute- Effusion-
No lymphoproliferative disease => 
No coronary artery disease => 
No degenerative disease => 
No vascular abnormality => Edema-
No mediastinal abnormality => 
No acute cardiopulmonary process, with chronic fibrosis => acute- Fibrosis+
No acute radiographic cardiopulmonary process => acute-
No acute intrathoracic process; cardiomegaly and emphysema => acute- Cardiomegaly+ Emphysema+
No thromboembolic disease => 
""",
    "doubt before": """
Possible small effusion => Effusion?
There may be a small pneumothorax => PTX?
Cannot exclude consolidation => Consolidation?
This might be a nodule => Nodule?
This could represent a mass => Mass?
Suspected pneumothorax => PTX?
Suspicion of pneumonia => Pneumonia?
Question of a right apical nodule => Nodule?
Differential includes edema and pneumonia => Edema? Pneumonia?
Raises the possibility of pneumonia => Pneumonia?
Findings raise concern for edema => Edema?
Doubt pneumonia => Pneumonia?
Doubtful pneumothorax => PTX?
Atelectasis, less likely pneumonia => Atelectasis+ Pneumonia?
R/o pneumonia => Pneumonia*
Rule out pneumothorax => PTX*
Favor atelectasis over pneumonia => Atelectasis? Pneumonia?
Pneumonia?  => Pneumonia?
? effusion => Effusion?
Nodule (?) in the left apex => Nodule?
Perhaps a small effusion => Effusion?
Cannot entirely rule out pneumonia => Pneumonia?
It is difficult to exclude a small effusion => Effusion?
An early infiltrate is not excluded => Infiltration?
No definite pneumonia, although early infiltrate cannot be excluded => Pneumonia- Infiltration?
Atelectasis and/or pneumonia, correlate => Atelectasis+ Pneumonia+
Atelectasis vs pneumonia vs edema => Atelectasis? Pneumonia? Edema?
Opacity, either atelectasis or pneumonia => opacity~ Atelectasis? Pneumonia?
Findings suggesting emphysema => Emphysema?
Query fibrosis => Fibrosis?
Worrisome for mass => Mass?
Concern about pneumonia => Pneumonia?
Opacity that potentially represents consolidation => Infiltration~ Pneumonia~ Consolidation?
Uncertain small pneumothorax => PTX?
Unable to exclude effusion => Effusion?
Cannot be certain that there is no pneumothorax => PTX?
""",
    "doubt behind": """
Pneumonia may be present => Pneumonia?
Effusion could be present => Effusion?
Edema might be present => Edema?
Pneumonia is suspected => Pneumonia?
Pneumonia is in the differential => Pneumonia?
Pneumonia remains in the differential diagnosis => Pneumonia?
Pneumonia is a possibility => Pneumonia?
Effusion cannot be assessed => Effusion?
Pneumothorax is poorly evaluated => PTX?
Nodules cannot be evaluated => Nodule?
Consolidation is possible => Consolidation?
Pneumothorax cannot be confirmed absent => PTX?
A true nodule is doubtful => Nodule?
Effusion is questionable => Effusion?
A small effusion would be hard to exclude => Effusion?
Pneumonia cannot entirely be excluded => Pneumonia?
Infiltrate is not entirely excluded => Infiltration?
Effusion and consolidation are possible => Effusion? Consolidation?
Pneumonia, possibly => Pneumonia?
Pneumothorax suspected => PTX?
Mass not excluded => Mass?
Nodule: possible => Nodule?
Effusion: cannot be excluded => Effusion?
Pneumonia: equivocal => Pneumonia?
Edema could be considered => Edema?
Cardiomegaly cannot be assessed on this projection => Cardiomegaly?
Pneumonia should be excluded => Pneumonia*
Fibrosis is difficult to evaluate => Fibrosis?
Effusion is probably absent => Effusion-
Small effusion may have developed => Effusion?
Pneumonia would be a consideration => Pneumonia?
The heart size is difficult to assess => Cardiomegaly*
Evaluation for pneumothorax is limited => PTX*
""",
    "resolved, cleared, removed": """
Clearing of the left lower lobe infiltrate => Infiltration-
Interval clearing of edema => Edema-
Complete resolution of the pneumothorax => PTX-
Resolution of pneumonia and effusion => Pneumonia- Effusion-
The consolidation has cleared => Consolidation-
The consolidation has completely resolved => Consolidation-
Nearly complete resolution of the effusion => Effusion+
Partial clearing of the consolidation => Consolidation+
Partially resolved pneumothorax => PTX+
Near-complete resolution of the pneumothorax => PTX+
Almost complete resolution of pneumonia => Pneumonia+
Incomplete resolution of the infiltrate => Infiltration+
Resolving pneumonia => Pneumonia+
Status post drainage of a right effusion => Effusion*
After removal of the left upper lobe mass => Mass*
Interval drainage of the pleural effusion => Effusion*
Status post resection of a right lung nodule => Nodule*
After evacuation of the pneumothorax => PTX*
Status post hiatal hernia repair => 
Post thoracentesis without pneumothorax => PTX-
Decreased effusion after thoracentesis => Effusion+
Effusion has almost resolved => Effusion+
The edema has not resolved => Edema+
Pneumothorax has not completely resolved => PTX+
Interval near resolution of edema => Edema+
Effusion has since been drained => Effusion*
""",
    "history and the prior study": """
History of emphysema => 
Patient with known hiatal hernia repair => 
The effusion seen on the prior study is no longer present => Effusion-
Compared with the prior study, which showed a right effusion, the lungs are clear => lungs-
The prior radiograph, which demonstrated pneumonia, is not available => 
Prior study showed a left pneumothorax => 
Previous pneumonia => 
The infiltrate that was present previously has resolved => Infiltration-
Status post hernia repair => 
Indication: shortness of breath, pneumonia => 
Clinical history: effusion => 
Reason for exam: pneumothorax => 
Evaluate for edema => 
Follow up of pneumonia => Pneumonia*
Previously there was an effusion => 
Remote history of pneumonia without residual consolidation => Consolidation-
Status post lobectomy for lung mass => Mass*
Recommend CT to evaluate the nodule => Nodule*
Follow-up radiograph to document clearing of pneumonia => Pneumonia*
Past pneumothorax => 
""",
    "a remark on the method": """
CT is more sensitive for small nodules => 
CT is more sensitive for the detection of pulmonary nodules => 
Radiographs are insensitive for small pneumothorax => 
Supine films are of limited sensitivity for effusion => 
Supine position limits evaluation for pneumothorax => PTX*
Small nodules may be missed on radiographs => Nodule*
A lateral view would help to exclude effusion => Effusion*
If pneumothorax is a concern, obtain an expiratory film => PTX*
CT would be better for characterization of emphysema => Emphysema*
An upright view could be obtained to look for pneumothorax => PTX*
Portable technique exaggerates heart size => 
""",
    "denials denied, exceptions": """
Lungs are not free of infiltrate => Infiltration+
The lungs are not clear of consolidation => Consolidation+
Effusion is not absent => Effusion+
No effusion except for a trace on the left => Effusion+
No pleural abnormality apart from minimal blunting of the costophrenic angle => pleura- angle~
No consolidation except in the lingula => Consolidation+
No pneumothorax, although a tiny one is not excluded => PTX?
No pneumothorax, but a small one cannot be excluded => PTX?
No abnormality except for cardiomegaly => chest- Cardiomegaly+
Lungs are clear apart from a granuloma => lungs- Nodule~
Clear lungs with the exception of left basilar atelectasis => lungs- Atelectasis+
The chest is normal except for a hiatal hernia => all- Hernia+
No acute abnormality aside from mild edema => acute- Edema+
Not without effusion => Effusion+
No new nodule => Nodule-
No residual pneumothorax => PTX-
No significant effusion => Effusion-
No large effusion => Effusion-
No change in cardiomegaly => Cardiomegaly+
No interval change in the pleural thickening => PT+
No improvement in the consolidation => Consolidation+
No significant change of the nodule, no effusion => Nodule+ Effusion-
No decrease in the effusion => Effusion+
No enlargement of the nodule => Nodule+
No resolution of the pneumothorax => PTX+
No worsening edema => Edema+
""",
    "abbreviations": """
No PTX => PTX-
Small R PTX => PTX+
RLL PNA => Pneumonia+
No PNA or PTX => Pneumonia- PTX-
Mild CMG => Cardiomegaly+
No eff. or PTX => Effusion- PTX-
No pl. eff. => Effusion-
L pl eff => Effusion+
B/l effs => Effusion+
No GGO => opacity-
LLL consol, no eff => Consolidation+ Effusion-
Stable CMG w/o edema => Cardiomegaly+ Edema-
Opacity c/w PNA => opacity~ Pneumonia+
s/p hernia repair => 
h/o PNA => 
Neg for PTX => PTX-
Poss PNA => Pneumonia?
PTX: neg => PTX-
PNA vs atelectasis => Pneumonia? Atelectasis?
RUL PNA, LLL atx => Pneumonia+ Atelectasis+
""",
    "spellings": """
Pulmonary oedema => Edema+
No haemothorax => Effusion-
Haemopneumothorax on the left => PTX+
Small plueral efusion => Effusion+
No pnuemothorax => PTX-
Cardiomegally => Cardiomegaly+
Right lower lobe pnuemonia => Pneumonia+
Atelectesis at the base => Atelectasis+
No consolidaton => Consolidation-
Emphysematus change => Emphysema+
Infilterate at the right base => Infiltration+
Hiatus hernia => Hernia+
Wihtout pneumothorax => PTX-
Pneumothorax is not visualised => PTX-
No effusion is recognised => Effusion-
No tumour => Mass-
The heart is enlargd => Cardiomegaly+
Pleural thickenning => PT+
Pneumothorax is not identifed => PTX-
""",
    "other parts and words": """
Contrast infusion without complication => 
Pericardial effusion, no pleural effusion => Effusion-
Ventral hernia => 
Mediastinal mass without pleural effusion => Effusion-
Pneumomediastinum and pneumoperitoneum => 
Subcutaneous emphysema without pneumothorax => PTX-
Nodular thyroid => 
Empyema tube in place => 
Diffuse idiopathic skeletal hyperostosis => 
Cystic fibrosis with bronchiectasis => 
Bowel wall edema => 
Nipple shadow, no nodule => Nodule-
Multiple modules of the pacemaker => 
Disc herniation => 
Bone density is decreased => 
Cardiac valve replacement => 
""",
    "wider words": """
Lingular opacity => opacity~
Volume loss in the right upper lobe => Atelectasis~
Pulmonary vascular congestion without effusion => Edema~ Effusion-
Congestive failure is not seen => Edema-
Possible bulla => Emphysema~
Right costophrenic angle blunting, likely small effusion => Effusion+ PT~
Opacity without effusion => opacity~ Effusion-
Opacities: none => opacity-
Interstitial lung disease, no edema => Fibrosis~ Edema-
""",
}

# Written in other words after that, by the same hand: 90.5 % of 126 when read for the first time, two flips.
HELD_OUT = {
    "optional words": """
There is no focal air space disease or pneumothorax => opacity- PTX-
No dense airspace opacity is identified => opacity-
Patchy airspace disease in the left lung => opacity~
No lung or hilar mass => Mass-
No apical pleural thickening => PT-
Apical cap on the left => PT~
No blunting of the costophrenic angles => Effusion- PT-
The left costophrenic sulcus is blunted, unchanged => angle~
""",
    "structured reports": """
LUNGS: No consolidation or nodule. PLEURA: No effusion. HEART: Normal => Consolidation- Nodule- Effusion- Cardiomegaly-
Pleural effusion: No. Pneumothorax: No. Consolidation: Yes, right base => Effusion- PTX- Consolidation+
Pleural Spaces: No pleural effusion or pneumothorax => Effusion- PTX-
Pneumothorax: None visualized => PTX-
Airspaces: Left basilar consolidation => Consolidation+
Nodules - not present => Nodule-
Cardiomegaly: moderate, stable => Cardiomegaly+
Effusions: trace bilateral => Effusion+
Pneumothorax: cannot be excluded => PTX?
Edema: none; effusion: none; pneumonia: possible => Edema- Effusion- Pneumonia?
Emphysema (none) => Emphysema-
Consolidation -- absent => Consolidation-
Hernia: small hiatal hernia => Hernia+
Pulmonary edema: Negative\\nPleural effusion: Positive => Edema- Effusion+
Mass or nodule: None => Mass- Nodule-
Lines and tubes: right port. Pneumothorax: no => PTX-
Infiltrates? None => Infiltration-
Heart/mediastinum: cardiomegaly, no edema => Cardiomegaly+ Edema-
""",
    "scope": """
Lungs are clear of infiltrate but emphysema is advanced => Infiltration- Emphysema+
No acute pulmonary process; chronic fibrosis is stable => Pneumonia- Consolidation- Edema- Infiltration- Fibrosis+
There is no pleural fluid, a right hilar mass is seen => Effusion- Mass+
Positive for effusion, negative for pneumothorax => Effusion+ PTX-
No evidence of pneumonia, cardiomegaly is unchanged => Pneumonia- Cardiomegaly+
No acute abnormality with the exception of small effusions => acute- Effusion+
Neither pneumothorax nor effusion, but left lower lobe collapse => PTX- Effusion- Atelectasis+
Right lung nodule without effusion or pneumothorax => Nodule+ Effusion- PTX-
Without pneumothorax, there is a moderate effusion => PTX- Effusion+
Instead of pneumonia this represents atelectasis => Pneumonia- Atelectasis+
No infectious infiltrate => Infiltration-
No acute bony abnormality, mild cardiomegaly => Cardiomegaly+
No evidence of active pulmonary tuberculosis => 
No sarcoid or fungal disease => 
No acute cardiopulmonary disease; findings of COPD => acute- Emphysema~
No evidence of intrathoracic metastasis => Mass- Nodule-
No metastases are seen, and there is a stable granuloma => Mass- Nodule~
The infiltrate is gone, leaving a small effusion => Infiltration- Effusion+
The effusions have cleared; the consolidation has not => Effusion- Consolidation+
No effusion is seen and there is no pneumothorax; cardiomegaly persists => Effusion- PTX- Cardiomegaly+
Heart is enlarged and lungs show edema without effusions => Cardiomegaly+ Edema+ Effusion-
""",
    "doubt": """
Superimposed pneumonia could be considered in the right clinical setting => Pneumonia?
Pneumonia cannot be completely excluded => Pneumonia?
Underlying pneumonia is hard to exclude => Pneumonia?
Edema would be difficult to rule out => Edema?
I doubt that this is pneumonia => Pneumonia?
Pneumonia is thought less likely => Pneumonia?
Likely atelectasis, less likely pneumonia => Atelectasis+ Pneumonia?
Probable atelectasis; pneumonia is not excluded => Atelectasis+ Pneumonia?
There is suspicion for a small pneumothorax => PTX?
A trace effusion is suspected on the left => Effusion?
Small effusions may also be present => Effusion?
Might reflect early edema => Edema?
Consolidation? Correlate clinically => Consolidation?
Retrocardiac density, ?pneumonia => opacity~ Pneumonia?
Atelectasis is favored over pneumonia => Atelectasis* Pneumonia?
Assessment for pneumothorax is limited by rotation => PTX*
Effusions are not well evaluated => Effusion?
A left effusion cannot be adequately assessed => Effusion?
It is uncertain whether a nodule is present => Nodule?
The possibility of a mass should be kept in mind => Mass?
Indeterminate nodule versus vessel on end => Nodule?
Whether this is fibrosis or edema is unclear => Fibrosis? Edema?
Pneumothorax, if any, is tiny => PTX?
An infiltrate is not definitely excluded => Infiltration?
Equivocal for pneumonia => Pneumonia?
The absence of a small effusion cannot be confirmed => Effusion?
Findings could be seen with edema or infection => Edema? Pneumonia~
No pneumothorax; a tiny one cannot be ruled out => PTX?
""",
    "gone or removed": """
Clearing of bibasilar atelectasis => Atelectasis-
There has been complete clearing of the pneumonia => Pneumonia-
Interval resolution of pulmonary edema and effusions => Edema- Effusion-
The left effusion has been drained, without pneumothorax => Effusion* PTX-
After drainage of the empyema a small effusion remains => Effusion+
Surgical removal of the right lung mass => Mass*
Almost completely resolved pneumothorax => PTX+
Near total resolution of the consolidation => Consolidation+
Consolidation shows only partial resolution => Consolidation+
The pneumothorax has nearly resolved => PTX+
Pneumothorax is smaller but has not resolved => PTX+
Status post repair of hiatal hernia => 
Pneumonia seen previously has cleared => Pneumonia-
Chest tube removed, no recurrent pneumothorax => PTX-
""",
    "prior study and method": """
The prior film, which showed a left effusion, is compared => 
In comparison to the previous study that demonstrated pneumonia, there is now no consolidation => Consolidation-
The nodule that was described on the prior CT is not seen => Nodule-
Prior examination demonstrated a small pneumothorax => 
CT has greater sensitivity for nodules and masses => 
Chest radiography is insensitive to small effusions => 
Tiny nodules can be missed on plain film => Nodule*
CT can better evaluate for emphysema => 
Known history of fibrosis => 
History: CHF, pneumonia => 
Rule-out pneumonia => Pneumonia*
New nodule, not present on the prior study => Nodule+
Effusion is new since the previous exam => Effusion+
""",
    "denied denials": """
The right base is not free of consolidation => Consolidation+
Effusion has not cleared => Effusion+
No consolidation other than a small focus at the left base => Consolidation+
No pleural effusion except minimal fluid on the left => Effusion+
No nodule besides a known granuloma => Nodule~
No further increase in the effusion => Effusion+
No significant interval improvement of edema => Edema+
No new consolidation or effusion => Consolidation- Effusion-
There is no longer an effusion => Effusion-
Clear lungs apart from minimal scarring => lungs- Fibrosis~
""",
    "abbreviations and spellings": """
No e/o PTX => PTX-
R PTX s/p CT placement => PTX+
Lg L pl. eff. w/ RLL atelectasis => Effusion+ Atelectasis+
LLL PNA, no effs => Pneumonia+ Effusion-
neg for PNA/PTX => Pneumonia- PTX-
Cardiomegally with pulmonary oedema => Cardiomegaly+ Edema+
No pneumothroax or effussion => PTX- Effusion-
Bibasilar atelectesis => Atelectasis+
Emphysematous chnages => Emphysema+
No pneumonai => Pneumonia-
Left sided haemothorax => Effusion~
Consolidaion in the RML => Consolidation+
No pneumothorax is visulaized => PTX-
Fibrotic tumour => Mass~ Fibrosis+
""",
}

# Written after HELD_OUT's kinds had been mended: 84.4 % of 109 at first, five flips.
SECOND_HELD_OUT = {
    "structured reports": """
Pneumothorax................ none => PTX-
PNEUMOTHORAX: NO. EFFUSION: NO. CONSOLIDATION: NO => PTX- Effusion- Consolidation-
Pleural effusion: (none) => Effusion-
Effusion: - => Effusion*
Lungs/Pleura: No focal consolidation. No effusion. No pneumothorax => Consolidation- Effusion- PTX-
Pulmonary nodules: No suspicious pulmonary nodules => Nodule-
Heart size: Enlarged => Cardiomegaly+
Cardiomegaly: Absent; edema: Mild => Cardiomegaly- Edema+
Pleural thickening: Yes, biapical => PT+
Fibrosis: No evidence of fibrosis => Fibrosis-
Pneumonia: Unlikely => Pneumonia-
Pneumonia: Possible, right base => Pneumonia?
Effusion: Cannot be assessed => Effusion?
Pneumothorax: Resolved => PTX-
Lung fields: Clear bilaterally => lungs-
Cardiac silhouette: Within normal limits => Cardiomegaly-
Other: Small hiatal hernia => Hernia+
Edema, none. Effusion, none => Edema- Effusion-
No: pneumothorax, effusion, consolidation => PTX- Effusion- Consolidation-
Mass: nil. Nodule: nil => Mass- Nodule-
Consolidation: not appreciated, Atelectasis: mild bibasilar => Consolidation- Atelectasis+
""",
    "scope": """
There is neither consolidation nor edema, although small effusions are noted => Consolidation- Edema- Effusion+
No focal infiltrate; linear atelectasis at the left base => Infiltration- Atelectasis+
Pneumothorax has not recurred, but there is increasing effusion => PTX- Effusion+
The consolidation is unchanged and there is no effusion => Consolidation+ Effusion-
Apart from emphysema the lungs are clear => Emphysema+ lungs-
Other than a hiatal hernia, no acute abnormality => Hernia+ acute-
The heart is normal, the lungs are emphysematous => Cardiomegaly- Emphysema+
Effusion with associated atelectasis but no pneumothorax => Effusion+ Atelectasis+ PTX-
No interval development of pneumothorax, with persistent small effusion => PTX- Effusion+
Negative for consolidation. Positive for nodule => Consolidation- Nodule+
Emphysema is again seen without superimposed consolidation or effusion => Emphysema+ Consolidation- Effusion-
No acute findings in the chest, stable emphysema => acute- Emphysema+
No evidence of acute disease with chronic fibrosis at the bases => acute- Fibrosis+
There is no evidence for metastatic disease to the lungs => Nodule- Mass-
No evidence of hilar adenopathy => 
No acute vascular process => Edema-
No signs of pulmonary embolism => 
No pleural disease => pleura-
No lobar consolidation, effusion is small => Consolidation- Effusion+
The chest tube is in place, and no pneumothorax remains => PTX-
Rather than consolidation, this appears to be atelectasis => Consolidation- Atelectasis+
Effusion without underlying mass => Effusion+ Mass-
Cardiomegaly and no signs of failure => Cardiomegaly+ Edema-
No significant effusion; however, pleural thickening is seen => Effusion- PT+
No pneumothorax or effusion. Heart borderline enlarged => PTX- Effusion- Cardiomegaly+
""",
    "doubt": """
Pneumonia remains a consideration => Pneumonia?
Cannot rule in or rule out pneumonia => Pneumonia?
Small effusions cannot be confidently excluded => Effusion?
Atelectasis or possibly pneumonia => Atelectasis+ Pneumonia?
Opacity that could be atelectasis or pneumonia => opacity~ Atelectasis? Pneumonia?
Pneumonia would be in the differential in the proper setting => Pneumonia?
Nodular density, possible nodule => opacity~ Nodule?
Findings are equivocal for edema => Edema?
It is not clear whether there is a pneumothorax => PTX?
Pneumothorax is difficult to evaluate on this supine film => PTX?
Effusion probably present => Effusion+
Early pneumonia not excluded => Pneumonia?
A subtle nodule is questioned at the left apex => Nodule?
Presumed atelectasis => Atelectasis+
Suspect mild edema => Edema?
Might there be a small pneumothorax => PTX?
Low suspicion for pneumonia => Pneumonia*
Pneumonia is very unlikely => Pneumonia-
Pneumonia less likely given lack of fever => Pneumonia?
The base is obscured and effusion cannot be evaluated => Effusion?
Concern for pneumonia in the left base => Pneumonia?
A component of edema may be present => Edema?
Effusion vs pleural thickening => Effusion? PT?
Consolidation (possibly pneumonia) => Consolidation+ Pneumonia?
Mild cardiomegaly may be present => Cardiomegaly?
No convincing pneumothorax, but a small one is difficult to exclude => PTX?
""",
    "gone, removed, prior": """
Effusions have essentially resolved => Effusion-
The pneumonia has cleared up => Pneumonia-
Complete interval clearing of edema => Edema-
The left pneumothorax is no longer apparent => PTX-
Interval disappearance of the effusion => Effusion-
Previously seen effusion has completely resolved => Effusion-
There is incomplete clearing of the consolidation => Consolidation+
Effusion removed by thoracentesis => Effusion*
Prior study demonstrated consolidation, now resolved => Consolidation-
The nodule reported on CT is not visible radiographically => Nodule-
No recurrence of the pneumothorax => PTX-
Past medical history of emphysema => 
The patient has a history of mass resection => 
Status post left upper lobectomy for mass, no pneumothorax => Mass* PTX-
Follow-up to resolution of pneumonia is advised => Pneumonia*
Compared with yesterday the effusion has grown => Effusion+
Small nodules are better seen on CT => Nodule+
Radiography has limited sensitivity for pulmonary nodules => 
""",
    "words": """
Pleural effsuion on the left => Effusion+
Emphesema => Emphysema+
Cardiomegly is stable => Cardiomegaly+
There is no pnemothorax => PTX-
Fibrossis at the bases => Fibrosis+
Hiatial hernia => Hernia+
Interstitial odema => Edema+
No pleural thickeing => PT-
Infiltrats in both lungs => Infiltration+
LUL mass, R hilar adenopathy => Mass+
Mod cardiomegaly, sm bilat effs, no ptx => Cardiomegaly+ Effusion+ PTX-
? LLL pna => Pneumonia?
No acute dz => acute-
Chest wall emphysema => 
Tissue infiltration of contrast => 
Increased bone density => 
Pleural based mass => Mass+
Left basilar opacity r/o pneumonia => opacity~ Pneumonia*
""",
}

# Written last: 88.5 % of 61 at first, no flip. Two are still misread.
THIRD_HELD_OUT = {
    "answers": """
Pulmonary nodule: Absent => Nodule-
Consolidation: None. Pleural effusion: Small bilateral. Pneumothorax: None => Consolidation- Effusion+ PTX-
Effusion - small, right => Effusion+
Pneumothorax - absent; effusion - present => PTX- Effusion+
Cardiomegaly (mild) => Cardiomegaly+
Hernia: none seen => Hernia-
Emphysema: moderate, upper lobe predominant => Emphysema+
Atelectasis: No significant atelectasis => Atelectasis-
Infiltrates: None identified at this time => Infiltration-
Pneumothorax is none => PTX-
Masses and nodules: none => Mass- Nodule-
Edema: Negative, effusion: Negative => Edema- Effusion-
""",
    "denials": """
Lungs show neither mass nor nodule => Mass- Nodule-
There are no focal areas of airspace disease => opacity-
I do not see consolidation or effusion => Consolidation- Effusion-
The film is negative for edema but positive for cardiomegaly => Edema- Cardiomegaly+
Lungs are without consolidation and there is a small hiatal hernia => Consolidation- Hernia+
No effusion, pneumothorax, or consolidation, and the nodule is stable => Effusion- PTX- Consolidation- Nodule+
Without evidence of edema, the heart remains enlarged => Edema- Cardiomegaly+
Pleural thickening without effusion => PT+ Effusion-
No pneumothorax is present, and the fibrosis is unchanged => PTX- Fibrosis+
No evidence of an acute infectious process, fibrosis is stable => Pneumonia- Fibrosis+
No neoplasm => Mass- Nodule-
No evidence of sarcoidosis => 
No pneumonia; known emphysema => Pneumonia- Emphysema+
The nodule is no longer apparent and no mass is seen => Nodule- Mass-
Pneumonia was considered but is not present => Pneumonia-
Not only effusion but also consolidation => Effusion+ Consolidation+
""",
    "doubts": """
Pneumonia suspected at the left base => Pneumonia?
Right basilar pneumonia might be considered => Pneumonia?
Doubt effusion => Effusion?
Doubt there is a pneumothorax => PTX?
A developing pneumonia is difficult to exclude => Pneumonia?
Could this be pneumonia? => Pneumonia?
Nodule? => Nodule?
Effusion? Consolidation? => Effusion? Consolidation?
Possible nodule, right apex. No mass => Nodule? Mass-
Favor edema over pneumonia => Edema? Pneumonia?
Atelectasis more likely than pneumonia => Atelectasis+ Pneumonia?
Pneumothorax cannot be evaluated on this view => PTX?
Left base poorly evaluated; effusion may be present => Effusion?
Pneumonia remains possible => Pneumonia?
A trace effusion is not entirely excluded; no pneumothorax => Effusion? PTX-
No consolidation, though early pneumonia is possible => Consolidation- Pneumonia?
There is no definite nodule, but one cannot be excluded => Nodule?
Heart size may be enlarged => Cardiomegaly?
Findings may reflect edema or infection => Edema? Pneumonia~
""",
    "past and gone": """
Previously described pneumonia has resolved completely => Pneumonia-
Pneumothorax has since resolved; effusion remains => PTX- Effusion+
Resolution of edema with persistent effusions => Edema- Effusion+
Improved but persistent consolidation => Consolidation+
Status post hernia repair, no recurrent hernia => Hernia-
Patient had pneumonia last year => 
Known emphysema => Emphysema+
After thoracentesis, the effusion is smaller => Effusion+
The old film showed cardiomegaly, which persists => Cardiomegaly+
Removed nodule => Nodule*
CT is recommended for better detection of nodules => Nodule*
Nodules smaller than 5 mm are not reliably detected on radiographs => Nodule*
Nearly total clearing of pneumonia => Pneumonia+
Effusion completely gone => Effusion-
""",
}


def expectations(kinds: dict[str, str]) -> list[tuple[str, str]]:
    """-> (sentence, cells) of every line; a written "\\n" is a line break."""
    lines = [line for text in kinds.values() for line in text.strip("\n").splitlines()]
    pairs = [line.split(" =>") for line in lines]
    return [(sentence.replace("\\n", "\n"), expected.strip()) for sentence, expected in pairs]
