"""Projects of PhysioNet, whose server takes passwords from wget and not from this program.

Its list of programs is HTTP_AUTH_USER_AGENT in the source of the server; others are answered 403, as is a user who has
not signed the agreement. So nothing is fetched there, and no password is handled: the command to run is shown.
"""

import shlex
from pathlib import Path

CREDENTIALS = (
    "a PhysioNet account that is credentialed (identity and reference are checked, days), the CITI course "
    "'Data or Specimens Only Research', and the data use agreement of the project, signed on its page"
)
TERMS = (
    "PhysioNet Credentialed Health Data License 1.5.0: no attempt to identify anybody, no passing on, "
    "not even to online services"
)
# Of MIMIC-CXR-JPG in Google's cloud, which is quicker by far than PhysioNet's own server.
CLOUD_STEPS = (
    "Become a credentialed user of PhysioNet and sign the data use agreement: "
    "https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
    "Install Google's client, https://cloud.google.com/sdk/docs/install (gcloud, or gsutil).",
    "Name your Google account in PhysioNet's settings: https://physionet.org/settings/cloud/",
    "Ask for access at the end of the project's page, 'Request access using Google Cloud Storage'.",
    "gcloud auth login, with that account.",
    "Have a project with billing, https://console.cloud.google.com/billing: whoever fetches pays for the egress of "
    "about 570 GB.",
    "python download_datasets.py --download mimic --via gcs --project YOURS [--shrink 512]",
)


def wget_command(project: str, folder: Path | str, user: str = "YOURS", only: str | None = None) -> str:
    """The shell command that fetches a project of PhysioNet and checks it against its SHA256SUMS.txt.

    Args:
        project: slug/version, 'mimic-cxr-jpg/2.1.0'.
        folder: where the files go.
        user: of PhysioNet; wget asks for the password itself.
        only: a pattern of the names of files, '*.csv*'; None: all.
    """
    folder = shlex.quote(str(folder))
    # The list of checksums comes along, whichever names are asked for.
    accepted = shlex.quote(f"{only},SHA256SUMS.txt")
    accept = f" -A {accepted}" if only else ""
    url = f"https://physionet.org/files/{project}/"
    fetch = f"wget -r -N -c -np -nH --cut-dirs=3{accept} -P {folder} --user {shlex.quote(user)} --ask-password {url}"
    return f"{fetch} && (cd {folder} && sha256sum --quiet --ignore-missing -c SHA256SUMS.txt)"


def steps(name: str, project: str) -> tuple[str, ...]:
    """How a user gets the project of the set NAME."""
    return (
        "Register on physionet.org, become a credentialed user (Settings, Credentialing), finish the CITI course and "
        "upload its report.",
        f"Sign the agreement at the end of https://physionet.org/content/{project}/",
        f"{wget_command(project, f'Dataset/{name}')}: PhysioNet takes passwords from wget, which asks for it and "
        "goes on where it was interrupted, and from this program it takes none.",
        f"python download_datasets.py --download {name} --username YOURS [--only '*.csv*'] prints that command for "
        "your folder and a part of the files.",
    )
