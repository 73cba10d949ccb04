"""How good is the answer: log p(x) with error bars, per datum, in nats."""

from ppl_vae.evidence.annealing import HMC, Annealed, Bridge, Sandwich, Sequential, bidirectional, sandwich
from ppl_vae.evidence.decomposition import Decomposition, decomposition
from ppl_vae.evidence.error_bound import ErrorBound, error_bound
from ppl_vae.evidence.estimator import Estimator
from ppl_vae.evidence.evidence import Evidence, MeanEvidence, error_in_words
from ppl_vae.evidence.exact_sum import Enumeration
from ppl_vae.evidence.importance import ImportanceWeighted
from ppl_vae.evidence.inference_gap import InferenceGap, inference_gap
from ppl_vae.evidence.laplace import Laplace
from ppl_vae.evidence.log_evidence import log_evidence
from ppl_vae.evidence.measured_elbo import elbo
from ppl_vae.evidence.naive import NaiveMonteCarlo
from ppl_vae.evidence.pooling import khat_limit
from ppl_vae.evidence.predictive_density import JointDensity, PredictiveDensity, log_predictive
from ppl_vae.evidence.psis import psis_weights
from ppl_vae.evidence.self_normalized import Estimate, MomentErrors, moment_errors
from ppl_vae.evidence.weighing import weighted_draws
from ppl_vae.evidence.weighted_draws import WeightedDraws

__all__ = [
    "HMC",
    "Annealed",
    "Bridge",
    "Decomposition",
    "Enumeration",
    "ErrorBound",
    "Estimate",
    "Estimator",
    "Evidence",
    "ImportanceWeighted",
    "InferenceGap",
    "JointDensity",
    "Laplace",
    "MeanEvidence",
    "MomentErrors",
    "NaiveMonteCarlo",
    "PredictiveDensity",
    "Sandwich",
    "Sequential",
    "WeightedDraws",
    "bidirectional",
    "decomposition",
    "elbo",
    "error_bound",
    "error_in_words",
    "inference_gap",
    "khat_limit",
    "log_evidence",
    "log_predictive",
    "moment_errors",
    "psis_weights",
    "sandwich",
    "weighted_draws",
]
