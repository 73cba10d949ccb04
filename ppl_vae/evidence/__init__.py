"""How good is the answer: log p(x) with error bars, per datum, in nats."""

from ppl_vae.evidence.decomposition import Decomposition, decomposition
from ppl_vae.evidence.enumeration import Enumeration
from ppl_vae.evidence.estimator import Estimator
from ppl_vae.evidence.importance import ImportanceWeighted
from ppl_vae.evidence.log_evidence import log_evidence
from ppl_vae.evidence.naive import NaiveMonteCarlo
from ppl_vae.evidence.result import Evidence, MeanEvidence

__all__ = [
    "Decomposition",
    "Enumeration",
    "Estimator",
    "Evidence",
    "ImportanceWeighted",
    "MeanEvidence",
    "NaiveMonteCarlo",
    "decomposition",
    "log_evidence",
]
