#!/usr/bin/env bash
# Pyro masks model and guide each by itself: a latent masked in the model alone adds its log q to the ELBO, and no log p.
#
# A model with padding under poutine.mask (or a gap under obs_mask=) and an autoguide made of it: AutoNormal bears no mask.
# Where the model masks a latent, the ELBO then holds the entropy of q and nothing against it, so it is no bound on
# log p(x), and SVI raises it without end by widening q. Nothing warns.
#
# Seen: 40 rows, half of them masked; exact log p -32.09; ELBO 41.31 after 500 steps and 71.72 after 1500, the scale of a
# masked row 9.8 and 43.9. What helps: the same mask in the guide, with which the ELBO is -33.14.
#
# Installs pinned packages in a temporary folder; exits 0 as long as this is how it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pyro-ppl==1.9.2 numpy==2.4.6
cat > "$folder/check.py" <<'PY'
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
there = torch.arange(40) % 2 == 0
x = 1.36**0.5 * torch.randn(40)


def model():
    with pyro.plate("data", 40), poutine.mask(mask=there):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.6), obs=x)


def masked_guide():
    loc = pyro.param("loc", torch.zeros(40))
    scale = pyro.param("scale", torch.ones(40), constraint=dist.constraints.positive)
    with pyro.plate("data", 40), poutine.mask(mask=there):
        pyro.sample("z", dist.Normal(loc, scale))


def elbo(guide, steps):
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(steps):
        svi.step()
    return -Trace_ELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=1).loss(model, guide)


exact = float(dist.Normal(0.0, 1.36**0.5).log_prob(x)[there].sum())
guide = AutoNormal(model)
some, scale = elbo(guide, 500), float(guide.scales.z[1].detach())
more, wider = elbo(guide, 1000), float(guide.scales.z[1].detach())
pyro.clear_param_store()
right = elbo(masked_guide, 1500)
print("torch", torch.__version__, "pyro", pyro.__version__)
print(f"exact {exact:.2f}; ELBO {some:.2f} after 500 steps, {more:.2f} after 1500; scale of a masked row {scale:.1f}, {wider:.1f}")
print(f"with the mask in the guide {right:.2f}")
assert some > exact + 10 and more > some + 20 and wider > 2 * scale
assert exact - 2 < right < exact + 0.5
PY
"$folder/venv/bin/python" "$folder/check.py"
