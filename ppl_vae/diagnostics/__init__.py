"""Diagnostics: draws for ArviZ, k-hat per datum, collapsed dimensions, and the verdict in words."""

from ppl_vae.diagnostics.baseline import Baseline, baselines
from ppl_vae.diagnostics.calibration import Calibration, calibration, variational_calibration
from ppl_vae.diagnostics.clusters import ClusterAgreement, cluster_agreement
from ppl_vae.diagnostics.code_history import CodeHistory
from ppl_vae.diagnostics.collapse import ActiveUnits, active_units, kl_per_dimension
from ppl_vae.diagnostics.collapse_watch import CollapseWarning, CollapseWatch
from ppl_vae.diagnostics.diagnosis import Diagnosis, Finding, diagnose
from ppl_vae.diagnostics.gradients import GradientReport, gradient_report
from ppl_vae.diagnostics.inference_data import to_inference_data
from ppl_vae.diagnostics.khat import khat
from ppl_vae.diagnostics.leave_one_out import LeaveOneOut, loo, pointwise_loo, waic
from ppl_vae.diagnostics.naive_gradient import NaiveEStep
from ppl_vae.diagnostics.posterior_table import PosteriorTable, posterior_table
from ppl_vae.diagnostics.predictive_check import PredictiveCheck, predictive_check
from ppl_vae.diagnostics.ranking import Ranking, compare
from ppl_vae.diagnostics.reference import Reference, reference
from ppl_vae.diagnostics.surgery import Surgery, surgery
from ppl_vae.diagnostics.usage import CodeUsage, class_probabilities, code_usage, codes
from ppl_vae.diagnostics.verdict import Verdict, verdict

__all__ = [
    "ActiveUnits",
    "Baseline",
    "Calibration",
    "ClusterAgreement",
    "CodeHistory",
    "CodeUsage",
    "CollapseWarning",
    "CollapseWatch",
    "Diagnosis",
    "Finding",
    "GradientReport",
    "LeaveOneOut",
    "NaiveEStep",
    "PosteriorTable",
    "PredictiveCheck",
    "Ranking",
    "Reference",
    "Surgery",
    "Verdict",
    "active_units",
    "baselines",
    "calibration",
    "class_probabilities",
    "cluster_agreement",
    "code_usage",
    "codes",
    "compare",
    "diagnose",
    "gradient_report",
    "khat",
    "kl_per_dimension",
    "loo",
    "pointwise_loo",
    "posterior_table",
    "predictive_check",
    "reference",
    "surgery",
    "to_inference_data",
    "variational_calibration",
    "verdict",
    "waic",
]
