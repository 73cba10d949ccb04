"""Layers of normalizing flows and their relatives, with one contract: log p(x) = log p(z) + contribution(x, z).

==================  ====================================================================================================
the contract        ``Layer``; ``Chain``: one after another; ``Inverse``: turned round; ``NonFiniteContribution``
number by number    ``ElementwiseAffine``, ``ActNorm``, ``Sigmoid``, ``Logit``, ``Softplus``,
                    ``LeakyReLU``, ``Bounded``: a box
linear              ``LULinear``, ``Whitening``, ``Permutation``, ``Reverse``, ``Householder``, ``Flatten``
coupling            ``AffineCoupling``, ``AdditiveCoupling``, ``SplineCoupling``, along ``Half``, ``Alternate``,
                    ``Checkerboard``
autoregressive      ``MaskedAutoregressive``, fast to score; ``InverseAutoregressive``, fast to sample
residual            ``Planar``, ``Radial``
of zuko             ``from_zuko``
surjections         ``Abs``, ``Sort``, ``Max``, ``Slice``, ``Augment``; ``Round`` with ``UniformNoise`` or
                    ``VariationalNoise``
stochastic          ``VAELayer``, ``StochasticPermutation``
networks in them    ``Conditioner``, ``ConditionalNormal``
as distributions    ``FlowDistribution``; ``Encoded``, ``Decoded``: q(z | x) and p(x | z) of a flow in a pair
against a target    ``kl_report``
==================  ====================================================================================================

Written here and not wrapped: coupling, spline and autoregressive layers, for speed and because a training step must be
traceable (zuko's couplings index by boolean masks); planar and radial flows, because Pyro's cannot score data;
surjections, because neither library has them.
"""

from __future__ import annotations

from ppl_vae.flows.absolute import Abs
from ppl_vae.flows.actnorm import ActNorm
from ppl_vae.flows.additive_coupling import AdditiveCoupling
from ppl_vae.flows.affine_coupling import AffineCoupling
from ppl_vae.flows.bounded import Bounded
from ppl_vae.flows.chain import Chain
from ppl_vae.flows.conditional_normal import ConditionalNormal
from ppl_vae.flows.conditioner import Conditioner
from ppl_vae.flows.coupling import Coupling
from ppl_vae.flows.decoded import Decoded
from ppl_vae.flows.divergences import Divergence, KLReport, kl_report
from ppl_vae.flows.elementwise_affine import ElementwiseAffine
from ppl_vae.flows.encoded import Encoded
from ppl_vae.flows.errors import NonFiniteContribution
from ppl_vae.flows.flatten import Flatten
from ppl_vae.flows.flow_distribution import FlowDistribution
from ppl_vae.flows.householder import Householder
from ppl_vae.flows.inverse import Inverse
from ppl_vae.flows.inverse_autoregressive import InverseAutoregressive
from ppl_vae.flows.layer import Layer
from ppl_vae.flows.leaky_relu import LeakyReLU
from ppl_vae.flows.lu_linear import LULinear
from ppl_vae.flows.masked_autoregressive import MaskedAutoregressive
from ppl_vae.flows.masks import Alternate, Checkerboard, Half, Mask
from ppl_vae.flows.maximum import Max
from ppl_vae.flows.noise import Noise, UniformNoise, VariationalNoise
from ppl_vae.flows.permutation import Permutation
from ppl_vae.flows.planar import Planar
from ppl_vae.flows.radial import Radial
from ppl_vae.flows.reverse import Reverse
from ppl_vae.flows.round import Round
from ppl_vae.flows.sigmoid import Logit, Sigmoid
from ppl_vae.flows.slice import Augment, Slice
from ppl_vae.flows.softplus import Softplus
from ppl_vae.flows.sort import Sort
from ppl_vae.flows.spline_coupling import SplineCoupling
from ppl_vae.flows.stochastic_permutation import StochasticPermutation
from ppl_vae.flows.vae_layer import VAELayer
from ppl_vae.flows.whitening import Whitening
from ppl_vae.flows.zuko_layer import from_zuko

__all__ = [
    "Abs",
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Alternate",
    "Augment",
    "Bounded",
    "Chain",
    "Checkerboard",
    "ConditionalNormal",
    "Conditioner",
    "Coupling",
    "Decoded",
    "Divergence",
    "ElementwiseAffine",
    "Encoded",
    "Flatten",
    "FlowDistribution",
    "Half",
    "Householder",
    "Inverse",
    "InverseAutoregressive",
    "KLReport",
    "LULinear",
    "Layer",
    "LeakyReLU",
    "Logit",
    "Mask",
    "MaskedAutoregressive",
    "Max",
    "Noise",
    "NonFiniteContribution",
    "Permutation",
    "Planar",
    "Radial",
    "Reverse",
    "Round",
    "Sigmoid",
    "Slice",
    "Softplus",
    "Sort",
    "SplineCoupling",
    "StochasticPermutation",
    "UniformNoise",
    "VAELayer",
    "VariationalNoise",
    "Whitening",
    "from_zuko",
    "kl_report",
]
