"""Flags of download_datasets.py that fetch from Google's cloud."""

import argparse

from roi import cli
from roi.sources.download import cloud


def add_cloud(parser: cli.Parser) -> None:
    group = parser.add_argument_group("from the cloud")
    text = "gcs: mimic from Google's cloud, by gcloud or gsutil (default: from where the set is published)"
    group.add_argument("--via", choices=("gcs",), help=text)
    group.add_argument("--project", metavar="P", help="with --via gcs: your project at Google, which pays the egress")
    text = "with --via gcs: shorter side of the images, so the largest --img_size; none is enlarged (default: as is)"
    group.add_argument("--shrink", type=cli.number(int, 64), metavar="PX", help=text)


def check_cloud(parser: cli.Parser, args: argparse.Namespace) -> None:
    if args.via and (args.download not in cloud.BUCKETS or args.only):
        parser.error(f"--via gcs is for --download of {', '.join(cloud.BUCKETS)}, all of it (without --only)")
    if args.via and not args.project:
        parser.error("--via gcs needs --project P, your project at Google: whoever fetches pays for the egress")
    for name in ("project", "shrink"):
        if getattr(args, name) and not args.via:
            parser.error(f"--{name} {getattr(args, name)} goes with --via gcs")
