"""What the table of a run says where an estimate has no error bar."""

from __future__ import annotations

import math

import torch

from ppl_vae.diagnostics import Verdict
from ppl_vae.evidence import Decomposition, Evidence
from ppl_vae.recipes.report import Report
from ppl_vae.storage.json_file import decode_json, encode_json


def test_an_unknown_error_stands_in_the_table_in_words_and_survives_json():
    two = torch.zeros(2, dtype=torch.float64)
    evidence = Evidence(two - 9, two + math.nan, two + 1, two + math.inf, "lower", "ImportanceWeighted(50)")
    errors = dict.fromkeys(("elbo", "reconstruction", "kl", "gap"), two + math.nan)
    pieces = Decomposition(two - 10, two - 7, two + 3, two + 1, evidence, errors)
    report = Report({"train": pieces}, Verdict.of(pieces))
    assert ("  its standard error", ["unknown"]) in report.rows()
    saved = decode_json(encode_json(report.numbers()))
    assert math.isnan(saved["train"]["log_likelihood_standard_error"])
    assert "unknown" in report.markdown()


def test_what_is_known_of_the_other_rows_is_said():
    two = torch.zeros(2, dtype=torch.float64)
    evidence = Evidence(two - 9, torch.tensor([0.2, math.nan]), two + 1, two, "lower", "ImportanceWeighted(50)")
    errors = dict.fromkeys(("elbo", "reconstruction", "kl", "gap"), two)
    pieces = Decomposition(two - 10, two - 7, two + 3, two + 1, evidence, errors)
    report = Report({"test": pieces}, Verdict.of(pieces))
    assert ("  its standard error", ["> 0.100 (1 of 2 rows unknown)"]) in report.rows()
