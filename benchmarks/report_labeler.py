"""What the report labeler gets right, against the codes that people gave OpenI's reports, and how fast it is.

    python benchmarks/report_labeler.py --reports Dataset/openi/indiana_reports.csv

The reference is roi/sources/openi.py with its WIDER neighbours alone. Where it says unknown a report is left out of
that finding's score. Rules were chosen and tuned on the development half (an even CRC-32 of uid); the other half was
held out. UNCERTAIN counts as negative, but where the name of a figure says otherwise. Intervals are bootstraps over
reports.

`--absent 150` draws that many ABSENT cells instead (with --seed) and prints each with its report, to be judged by
reading.

Where they are installed (pip install medspacy negspacy), medspaCy's ConText and negspaCy judge the same words for
findings in the same sentences, with the rules that they come with, which nobody tuned on these reports. Prints tables
and writes benchmarks/results/report_labeler-<machine>.json. Takes half a minute on one core.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import random
import shlex
import time
import zlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, add_machine, interval, table, write_result

from roi import cli
from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, NOT_MENTIONED, PARENT_ONLY, PRESENT, UNCERTAIN
from roi.sources.openi import mesh_cells
from roi.sources.report_labeler import label_reports, labeler
from roi.sources.report_labeler.items import matches
from roi.sources.report_labeler.predicates import attach_parts
from roi.sources.report_labeler.spelling import known as known_word
from roi.sources.report_labeler.text import WORD, sentences, signature

COLUMNS = ("uid", "MeSH", "findings", "impression")
HALVES = ("held out", "development", "all")
LIBRARIES = {"medspacy": "medspaCy's ConText", "negspacy": "negspaCy"}
SECTIONS = tuple[list[str], list[str]]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--reports",
        type=Path,
        required=True,
        metavar="CSV",
        help="indiana_reports.csv of OpenI (uid, MeSH, findings, impression)",
    )
    parser.add_argument(
        "--many",
        type=count,
        default=160_000,
        metavar="N",
        help="reports for the measurement of speed (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples", type=count, default=1000, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=cli.number(int, 0),
        default=0,
        help="of the bootstrap and of the variations (default: %(default)s)",
    )
    parser.add_argument("--absent", type=count, metavar="N", help="print N ABSENT cells drawn at random, with reports")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    rows = read_reports(args.reports)
    sections = ([row["findings"] for row in rows], [row["impression"] for row in rows])
    codes = [row["MeSH"] for row in rows]
    held = np.array([zlib.crc32(row["uid"].encode()) % 2 == 1 for row in rows])
    halves = dict(zip(HALVES, (held, ~held, np.ones(len(rows), bool)), strict=True))
    reference = mesh_cells(codes, neighbours=False)
    cells = label_reports(*sections)
    if args.absent:
        print("\n".join(absent_cells(rows, cells, args.absent, args.seed)))
        return
    scores = {
        half: scored(cells[chosen] == PRESENT, reference[chosen], args.resamples, args.seed)
        for half, chosen in halves.items()
    }
    figures = accuracy(cells, codes, scores, halves)
    figures += speed(sections, args.many, args.seed)
    figures += libraries(sections, reference, held, float(figures[0].value or 0))
    errors = {
        half: categories(cells[chosen], reference[chosen], mesh_cells(codes)[chosen]) for half, chosen in halves.items()
    }
    path = write_result(
        "report_labeler",
        args.machine,
        {
            "what": "the report labeler against the MeSH heads of OpenI's reports",
            "command": shlex.join(["python", "benchmarks/report_labeler.py", "--seed", str(args.seed)])
            + " --reports …",
            "reports": {half: int(chosen.sum()) for half, chosen in halves.items()},
            "figures": [figure.as_dict() for figure in figures],
            "findings": scores,
            "errors": errors,
        },
    )
    for half in HALVES[::2]:
        print(f"\n{half} ({halves[half].sum():,} reports)\n{per_finding(scores[half])}")
    print(f"\n{table(figures)}\n")
    for half in HALVES[::2]:
        print(
            f"errors, {half}: " + "; ".join(f"{kind} {sum(counts.values())}" for kind, counts in errors[half].items())
        )
    print(path)


def absent_cells(rows: list[dict[str, str]], cells: np.ndarray, number: int, seed: int) -> list[str]:
    """That many ABSENT cells, each as likely as any other -> lines of number, finding and report."""
    places = np.argwhere(cells == ABSENT)
    chosen = np.random.default_rng(seed).choice(len(places), min(number, len(places)), replace=False)
    lines = []
    for n, (row, finding) in enumerate(places[np.sort(chosen)].tolist(), start=1):
        report = rows[row]
        lines.append(f"{n}. {LABELS[finding]} | {report['findings']} | {report['impression']}")
    return lines


def read_reports(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file (--reports); it is indiana_reports.csv of OpenI")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for column in COLUMNS:
        if not rows or column not in rows[0]:
            raise UserError(f"{path}: no column {column!r}; --reports is indiana_reports.csv of OpenI")
    return rows


def scored(positive: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """Scores of (N, K) bool against (N, K) cells, each with a 95 % interval over reports.

    {finding: {"n", "precision", "recall", "f1", ...}, "macro": {"f1"}}
    """
    known, true = reference <= PRESENT, reference == PRESENT
    hits = np.stack([positive & true & known, positive & known, true])  # (3, N, K)
    rng = np.random.default_rng(seed)
    weights = np.concatenate(
        [np.ones((1, len(true))), rng.multinomial(len(true), np.full(len(true), 1 / len(true)), resamples)]
    )  # (B, N); first: the reports
    both, said, there = (weights @ part for part in hits.astype(float))  # each (B, K)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = {"precision": both / said, "recall": both / there, "f1": 2 * both / (said + there)}
    result: dict[str, Any] = {}
    for j, label in enumerate(LABELS):
        wrong = {"tp": both[0, j], "fp": said[0, j] - both[0, j], "fn": there[0, j] - both[0, j]}
        result[label] = {
            "n": int(there[0, j]),
            **{k: int(v) for k, v in wrong.items()},
            **{name: bounds(rate[:, j]) for name, rate in rates.items()},
        }
    result["macro"] = {"f1": bounds(np.nanmean(rates["f1"], axis=1))}
    return result


def bounds(draws: np.ndarray) -> dict[str, float | None]:
    """The first is the value, the others its bootstrap; draws without the finding say nothing."""
    low, high = np.nanpercentile(draws[1:], [2.5, 97.5])
    return {"value": None if np.isnan(draws[0]) else float(draws[0]), "low": float(low), "high": float(high)}


def macro(positive: np.ndarray, reference: np.ndarray) -> float:
    return scored(positive, reference, 2, 0)["macro"]["f1"]["value"]


def accuracy(
    cells: np.ndarray, codes: Sequence[str], scores: dict[str, Any], halves: dict[str, np.ndarray]
) -> list[Figure]:
    reference, wider = mesh_cells(codes, neighbours=False), mesh_cells(codes)
    normal = np.array([code.strip() == "normal" for code in codes])
    figures = []
    for half in HALVES:
        score = scores[half]["macro"]["f1"]
        figures.append(Figure(f"macro F1, {half}", score["value"], ">= 0.9", "", details=score))
    for half in HALVES[::2]:
        chosen = halves[half]
        either = np.isin(cells[chosen], (PRESENT, UNCERTAIN))
        figures.append(Figure(f"macro F1, {half}, UNCERTAIN as positive", macro(either, reference[chosen]), unit=""))
        figures.append(
            Figure(
                f"macro F1, {half}, unknown where a neighbouring code is",
                macro(cells[chosen] == PRESENT, wider[chosen]),
                unit="",
            )
        )
        wrong = (cells[chosen & normal] == PRESENT).any(axis=1)
        figures.append(
            Figure(
                f"normal reports with a finding, {half}",
                100 * float(wrong.mean()),
                "<= 2",
                "%",
                details={"reports": len(wrong), "with": int(wrong.sum())},
            )
        )
    absent = (cells == ABSENT) & (reference <= PRESENT)
    figures.append(
        Figure(
            "cells that are ABSENT, all",
            100 * float((cells == ABSENT).mean()),
            unit="%",
            details={"BLANK": 100 * float((cells == NOT_MENTIONED).mean())},
        )
    )
    figures.append(Figure("of them present by MeSH", 100 * float((reference[absent] == PRESENT).mean()), unit="%"))
    return figures


def categories(cells: np.ndarray, reference: np.ndarray, wider: np.ndarray) -> dict[str, dict[str, int]]:
    """Cells where text and codes disagree, by what the text says -> {kind: {finding: count}}."""
    missed, invented = (reference == PRESENT) & (cells != PRESENT), (reference == ABSENT) & (cells == PRESENT)
    kinds = {
        "coded, the text hedges": missed & (cells == UNCERTAIN),
        "coded, the text has a wider word": missed & (cells == PARENT_ONLY),
        "coded, the text denies it or says normal": missed & (cells == ABSENT),
        "coded, not said in a word that is known": missed & (cells == NOT_MENTIONED),
        "said, a neighbouring code stands for it": invented & (wider == PARENT_ONLY),
        "said, not coded": invented & (wider == ABSENT),
    }
    return {kind: {LABELS[j]: int(n) for j, n in enumerate(where.sum(axis=0)) if n} for kind, where in kinds.items()}


def per_finding(scores: dict[str, Any]) -> str:
    lines = [f"{'finding':20}{'n':>5}  {'precision':22}{'recall':22}{'F1, 95 % interval':22}"]
    for label in LABELS:
        score = scores[label]
        lines.append(
            f"{label:20}{score['n']:5}  "
            + "".join(f"{interval(score[name]):22}" for name in ("precision", "recall", "f1")).rstrip()
        )
    return "\n".join([*lines, f"{'macro':20}{'':51}{interval(scores['macro']['f1'])}"])


def speed(sections: SECTIONS, many: int, seed: int) -> list[Figure]:
    """Seconds for so many reports, made of the real ones."""
    made = varied(sections, many, seed)
    said = [sentence for texts in made for text in texts for sentence in sentences(text)]
    different = set(said)
    left = {signature(sentence) for sentence in different}
    details: dict[str, Any] = {"sentences": len(said), "different": len(different), "after reduction": len(left)}
    turns = []
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        label_reports(*made)
        turns.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(turns)
    details |= {
        "turns": turns,
        "load": os.getloadavg()[0],
        "what": "OpenI's reports again and again, a word of every fourth sentence replaced",
    }
    return [
        # One thread: on a machine with nothing else to do the wall time is the CPU time.
        Figure(f"{many:,} reports, CPU time, best of 3", cpu, "<= 15" if many == 160_000 else "", "s", details=details),
        Figure("wall time of the same", wall, unit="s"),
    ]


def varied(sections: SECTIONS, many: int, seed: int) -> SECTIONS:
    """`many` reports: the real ones in turn, and again with a word of every fourth sentence replaced by one of another
    report. Within OpenI the different sentences grow as (reports) ** 0.81; so 160,000 real reports would have 180,000
    of them, as many as there are here.
    """
    rng = random.Random(seed)
    words = [word for texts in sections for text in texts for word in text.split()]
    made: SECTIONS = ([], [])
    for texts, out in zip(sections, made, strict=True):
        for n in range(many):
            parts = texts[n % len(texts)].split(". ")
            for k, part in enumerate(parts):
                if n >= len(texts) and rng.random() < 1 / 4:
                    changed = part.split()
                    place = rng.randrange(len(changed) or 1)
                    changed[place : place + 1] = [rng.choice(words)]
                    parts[k] = " ".join(changed)
            out.append(". ".join(parts))
    return made


def libraries(sections: SECTIONS, reference: np.ndarray, held: np.ndarray, own: float) -> list[Figure]:
    """The kept libraries and our rules on the same reports: F1, and reports a second."""
    began = time.perf_counter()
    label_reports(*sections)
    ours = len(reference) / (time.perf_counter() - began)
    figures = [Figure("reports a second: our rules", ours, unit="/s")]
    for name, title in LIBRARIES.items():
        if importlib.util.find_spec(name) is None:
            figures.append(Figure(f"macro F1, held out: {title}", None, why=f"pip install {name}"))
            continue
        began = time.perf_counter()
        cells = judged(sections, judge(name))
        rate = len(reference) / (time.perf_counter() - began)
        value = macro(cells[held] == PRESENT, reference[held])
        details = {
            "version": metadata.version(name),
            "ours is higher by": own - value,
            "all": macro(cells == PRESENT, reference),
            "UNCERTAIN as positive": macro(np.isin(cells[held], (PRESENT, UNCERTAIN)), reference[held]),
        }
        figures.append(Figure(f"macro F1, held out: {title}", value, unit="", details=details))
        figures.append(
            Figure(f"reports a second: {title}", rate, unit="/s", details={"our rules are faster by": ours / rate})
        )
    return figures


def judged(sections: SECTIONS, read: Callable[[str], list[int]]) -> np.ndarray:
    """(N, K) cells: sentences judged one by one, each different one once; sections put together as by the labeler."""
    known: dict[str, list[int]] = {}
    levels = []
    for texts in sections:
        for text in texts:
            row = [0] * len(LABELS)
            for sentence in sentences(text):
                if sentence not in known:
                    known[sentence] = read(sentence)
                row = [max(pair) for pair in zip(row, known[sentence], strict=True)]
            levels.append(row)
    found, concluded = np.array(levels).reshape(2, -1, len(LABELS))
    return labeler.CODES[np.where(concluded >= labeler.DENIED, concluded, np.maximum(found, concluded))]


def judge(name: str) -> Callable[[str], list[int]]:
    """A library as sentence -> level of each finding.

    Which words name a finding it is told; whether they are denied or hedged it says.
    """
    import spacy

    nlp = spacy.blank("en")
    if name == "medspacy":
        import medspacy.context  # noqa: F401

        pipe = nlp.add_pipe("medspacy_context")
    else:
        import negspacy.negation  # noqa: F401

        pipe = nlp.add_pipe("negex", config={"ent_types": ["FINDING"]})

    def read(sentence: str) -> list[int]:
        row = [labeler.NOTHING] * len(LABELS)
        spans = named(sentence)
        if not spans:
            return row
        doc = nlp.make_doc(sentence)
        for token in doc:
            token.is_sent_start = token.i == 0
        places = {
            doc.char_span(first, last, label="FINDING", alignment_mode="expand"): findings
            for first, last, findings in spans
        }
        doc.ents = spacy.util.filter_spans(places)
        doc = pipe(doc)
        for span in doc.ents:
            level = library_level(span._, name)
            for n in places[span]:
                row[n] = max(row[n], level)
        return row

    return read


def library_level(says: Any, name: str) -> int:
    if name == "negspacy":
        return labeler.DENIED if says.negex else labeler.ASSERTED
    if says.is_historical or says.is_hypothetical or says.is_family:
        return labeler.NOTHING
    return labeler.DENIED if says.is_negated else labeler.HEDGED if says.is_uncertain else labeler.ASSERTED


def named(sentence: str) -> list[tuple[int, int, list[int]]]:
    """The words of a sentence that name findings by roi/sources/report_labeler/vocabulary.py, an enlarged heart too.

    Returns (first character, last character, findings) of each.
    """
    kept = signature(sentence).split()
    spots: list[tuple[int, int]] = []  # of the kept words
    for match in WORD.finditer(sentence):
        words = known_word(match[0]).split()
        if words and kept[len(spots) : len(spots) + len(words)] == words:
            spots += [match.span()] * len(words)
    if len(spots) < len(kept):
        return []
    found = list(matches(kept))
    said = [(place, length, value) for place, length, (kind, value) in found if kind == "finding"]
    spans = [(place, length, value[0]) for place, length, value in said if value[1] == "named"]
    for n, parts in attach_parts([item for _, _, item in found]):
        if found[n][2][0] in ("enlarged", "large") and "heart" in parts:
            spans.append((*found[n][:2], [labeler.HEART]))
    return [(spots[place][0], spots[place + length - 1][1], findings) for place, length, findings in spans]


if __name__ == "__main__":
    cli.run(main, parse_args)
