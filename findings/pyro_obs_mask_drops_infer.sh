#!/usr/bin/env bash
# Pyro 1.9.2 drops `infer=` where a site has an `obs_mask=`.
#
# A class that is known for some rows is written pyro.sample("c", ..., obs=..., obs_mask=..., infer={"enumerate":
# "parallel"}). Pyro makes two sites of it, "c_observed" and "c_unobserved", and hands the marks to neither. So
# TraceEnum_ELBO draws the unknown classes from their prior instead of summing them out: the loss changes from call to
# call, and none of its values is the exact one. Nothing warns. With config_enumerate around the model the marks are set
# later, on both sites, and the loss is exact.
#
# Seen: marks {'c_observed': {}, 'c_unobserved': {}}; losses 3.648525 and 3.801227; by config_enumerate 3.028817, which is
# the exact value. What helps: mark the model by pyro.infer.config_enumerate, and not the site.
#
# Installs pinned packages in a temporary folder; exits 0 as long as this is how it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pyro-ppl==1.9.2 numpy==2.4.6
cat > "$folder/check.py" <<'PY'
import math
import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

warnings.simplefilter("ignore")
torch.manual_seed(0)
known, seen = torch.tensor([True, False]), torch.tensor([1, 0])
x, probs = torch.tensor([0.5, -0.5]), torch.tensor([0.3, 0.7])


def model():
    with pyro.plate("data", 2):
        mark = {"enumerate": "parallel"}
        c = pyro.sample("c", dist.Categorical(probs), obs=seen, obs_mask=known, infer=mark)
        pyro.sample("x", dist.Normal(1.0 * c, 1.0), obs=x)


def guide():
    pass


nodes = poutine.trace(model).get_trace().nodes
marks = {name: nodes[name]["infer"] for name in ("c_observed", "c_unobserved")}
elbo = TraceEnum_ELBO(max_plate_nesting=1)
drawn = sorted({round(elbo.loss(model, guide), 6) for _ in range(30)})
summed = sorted({round(elbo.loss(config_enumerate(model), guide), 6) for _ in range(3)})
terms = torch.stack([probs[k].log() + dist.Normal(float(k), 1.0).log_prob(x) for k in (0, 1)])
exact = -float(terms[1, 0] + terms[:, 1].logsumexp(0))
print("torch", torch.__version__, "pyro", pyro.__version__)
print("marks", marks)
print("losses", drawn, "with config_enumerate", summed, "exact", round(exact, 6))
assert marks == {"c_observed": {}, "c_unobserved": {}}
assert len(drawn) == 2 and min(abs(loss - exact) for loss in drawn) > 0.5
assert len(summed) == 1 and math.isclose(summed[0], exact, abs_tol=1e-5)
PY
"$folder/venv/bin/python" "$folder/check.py"
