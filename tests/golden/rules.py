"""Independent float64 numpy implementation of the update rules, read off a config.

`run` takes a parsed config.toml and plain numpy arrays. `make.py` uses it twice:
as the reference where no peer package exists (or where Newton-Schulz is wanted in
exact float64), and as a cross-check of every peer's result.

Conventions: a matrix is (fan_out, fan_in); 3-D is a batch of matrices, each handled
alone; 4-D is flattened to (out, in * kh * kw). An exact 0/0 is 0.
"""

import math
from fnmatch import fnmatchcase

import numpy as np

JORDAN = (3.4445, -4.7750, 2.0315)
YOU = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
POLAR_EXPRESS = [  # all but the last entry are damped by 1.01 below
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]
SPEEDRUN = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]
OVERESTIMATE = {"polar-express": 1.01, "speedrun": 1.02}  # divides the input once more


def coefficients(spec, steps):
    if spec == "jordan":
        table = [JORDAN]
    elif spec == "you":
        table = YOU
    elif spec == "polar-express":
        s = 1.01
        table = [(a / s, b / s**3, c / s**5) for a, b, c in POLAR_EXPRESS[:-1]]
        table.append(POLAR_EXPRESS[-1])
    elif spec == "speedrun":
        table = SPEEDRUN
    elif isinstance(spec[0], (list, tuple)):
        table = spec
    else:
        table = [spec]
    return [table[min(k, len(table) - 1)] for k in range(steps)]


def ratio(num, den):
    """num / den elementwise, with 0/0 = 0."""
    num, den = np.broadcast_arrays(num, den)
    return np.divide(num, den, out=np.zeros_like(num), where=~((num == 0) & (den == 0)))


def norm(x, axis=None):
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=True))


def newton_schulz(x, group, additive_eps=False):
    """Orthogonalise the last two axes with odd quintics, as the group's ns_* keys say."""
    spec = group.get("ns_coefficients", "jordan")
    eps = group.get("eps", 0.0)
    size = norm(x, (-2, -1))
    size = size + eps if additive_eps else np.maximum(size, eps)
    over = OVERESTIMATE.get(spec, 1.0) if isinstance(spec, str) else 1.0
    x = ratio(x, over * size)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = np.swapaxes(x, -1, -2)
    for a, b, c in coefficients(spec, group.get("ns_steps", 5)):
        gram = x @ np.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return np.swapaxes(x, -1, -2) if tall else x


def as_matrices(x):
    return x.reshape(x.shape[0], -1) if x.ndim == 4 else x


def spectral_scale(name, rows, cols):
    """torch.optim.Muon's adjust_lr_fn, and "rms"."""
    return {
        "none": 1.0,
        "original": math.sqrt(max(1.0, rows / cols)),
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, cols)),
        "spectral_unclamped": math.sqrt(rows / cols),
        "rms": math.sqrt(max(rows, cols)),
    }[name]


def lmo(m, group, kind, scale, ns):
    """Direction of steepest ascent for the norm `kind`, times its scale."""
    number = scale if not isinstance(scale, str) else 1.0
    rms = scale == "rms"
    if kind == "sign":
        return number * np.sign(m)
    if kind == "frobenius":
        return number * (math.sqrt(m.size) if rms else 1.0) * ratio(m, norm(m))
    mats = as_matrices(m)
    cuts = np.cumsum(group.get("splits", [mats.shape[-2]]))[:-1]
    blocks = []
    for block in np.split(mats, cuts, axis=-2):
        rows, cols = block.shape[-2:]
        if kind == "rows":
            u = ratio(block, norm(block, -1)) * (math.sqrt(cols) if rms else 1.0)
        elif kind == "columns":
            u = ratio(block, norm(block, -2)) * (math.sqrt(rows) if rms else 1.0)
        elif kind == "rms-to-rms":
            u = ns(block, group) * math.sqrt(rows / cols)
        else:
            u = ns(block, group)
            u = u * (spectral_scale(scale, rows, cols) if isinstance(scale, str) else 1.0)
        blocks.append(number * u)
    return np.concatenate(blocks, axis=-2).reshape(m.shape)


def scion_lmo(m, group, ns):
    """LIONS-EPFL scion: Spectral, Sign, RowNorm, ColNorm(normalized=False), BiasRMS."""
    kind = group.get("norm", "rms-to-rms")
    eps = group.get("eps", 0.0)
    if kind == "frobenius":
        u = ratio(m, norm(m) / math.sqrt(m.size) + eps)
    else:
        rows, cols = m.shape
        if kind == "rms-to-rms":
            u = ns(m, group, additive_eps=True) * math.sqrt(rows / cols)
        elif kind == "sign":
            u = np.sign(m) / cols
        elif kind == "rows":
            u = ratio(m, math.sqrt(cols) * norm(m, -1) + eps)
        else:
            u = ratio(m, norm(m, -2) / math.sqrt(rows) + eps)
    return group.get("scale", 1.0) * u


def estimate(kind, mu, betas, g, prev, st):
    """The vector handed to the lmo; `st["m"]` is the only state."""
    if kind == "none":
        return g
    first = "m" not in st
    m = st.get("m", np.zeros_like(g))
    if kind == "lion":
        st["m"] = betas[1] * m + (1 - betas[1]) * g
        return betas[0] * m + (1 - betas[0]) * g
    if kind == "heavy-ball":
        m = mu * m + g
    elif kind in ("ema", "nesterov"):
        m = mu * m + (1 - mu) * g
    elif kind == "mvr":
        m = g if first else g + mu * (m - prev)
    else:  # "extrapolated", and nsgd: started at the first gradient
        m = g if first else mu * m + (1 - mu) * g
    st["m"] = m
    return (1 - mu) * g + mu * m if kind == "nesterov" else m


def sgd(group, st, x, g):
    mu = group.get("momentum", 0.0)
    g = g + group.get("weight_decay", 0.0) * x
    if mu:
        first = "m" not in st
        st["m"] = g if first else mu * st["m"] + (1 - group.get("dampening", 0.0)) * g
        g = g + mu * st["m"] if group.get("nesterov") else st["m"]
    return x - group["lr"] * g


def adamw(group, st, x, g):
    (b1, b2), zero = group["betas"], np.zeros_like(g)
    t = st["t"] = st.get("t", 0) + 1
    st["m"] = b1 * st.get("m", zero) + (1 - b1) * g
    v = st["v"] = b2 * st.get("v", zero) + (1 - b2) * g * g
    if group.get("amsgrad"):
        v = st["vmax"] = np.maximum(st.get("vmax", zero), v)
    x = x * (1 - group["lr"] * group["weight_decay"])
    den = np.sqrt(v / (1 - b2**t)) + group.get("eps", 0.0)
    return x - group["lr"] * ratio(st["m"] / (1 - b1**t), den)


def adagrad(group, st, x, g):
    t = st["t"] = st.get("t", 0) + 1
    g = g + group.get("weight_decay", 0.0) * x
    start = np.full_like(g, group.get("initial_accumulator_value", 0.0))
    st["s"] = st.get("s", start) + g * g
    lr = group["lr"] / (1 + (t - 1) * group.get("lr_decay", 0.0))
    return x - lr * ratio(g, np.sqrt(st["s"]) + group.get("eps", 0.0))


def decompose(group):
    """(estimator, its mu, norm, scale, constraint kind) of an lmo-family algorithm."""
    algorithm, mu = group["algorithm"], group.get("momentum", 0.0)
    decay = "cautious-decay" if group.get("cautious_weight_decay") else "decay"
    if algorithm == "lmo":
        est = group["estimator"]
        mu = est.get("momentum", 1 - est.get("alpha", 1.0))
        constraint = group.get("constraint", {"kind": "none"})["kind"]
        return est["kind"], mu, group["norm"], group.get("scale", "none"), constraint
    if algorithm == "muon":
        kind = "nesterov" if group["nesterov"] else "ema"
        return kind, mu, "spectral", group["adjust_lr_fn"], decay
    if algorithm == "orthogonal-sgdm":
        return "none", mu, "spectral", group.get("adjust_lr_fn", "none"), decay
    if algorithm == "scion":
        constraint = "none" if group["unconstrained"] else "convex-combination"
        return "ema", mu, "scion", 1.0, constraint
    kind = {"sign-sgd": "none", "signum": "ema", "lion": "lion", "nsgd": "first"}[algorithm]
    return kind, mu, "clamped" if algorithm == "nsgd" else "sign", 1.0, decay


def margin(x):
    """Smallest nonzero |x| relative to its RMS: how far signs are from flipping."""
    a = np.abs(x[x != 0])
    return a.min() / np.sqrt(np.mean(a * a)) if a.size else np.inf


def step(group, st, x, g, prev, ns):
    """One step of one parameter: (new x, new evaluation point y, sign margin)."""
    if group.get("maximize"):
        g, prev = -g, None if prev is None else -prev
    rule = {"sgd": sgd, "adamw": adamw, "adagrad": adagrad}.get(group["algorithm"])
    if rule:
        x = rule(group, st, x, g)
        return x, x, np.inf
    kind, mu, unit, scale, constraint = decompose(group)
    betas = group.get("betas", group.get("estimator", {}).get("betas"))
    m = estimate(kind, mu, betas, g, prev, st)
    safe = np.inf
    if unit == "scion":
        u = scion_lmo(m, group, ns)
    elif unit == "clamped":
        u = ratio(m, np.maximum(norm(m), group.get("eps", 0.0)))
    else:
        u = lmo(m, group, unit, scale, ns)
    if unit == "sign" or group.get("norm") == "sign":
        safe = margin(m)
    if group["algorithm"] == "orthogonal-sgdm":  # momentum after the orthogonalisation
        u = st["o"] = mu * st.get("o", 0.0) + (1 - mu) * u
    lr, wd = group["lr"], group.get("weight_decay", 0.0)
    if constraint == "decay":
        base = x * (1 - lr * wd)
    elif constraint == "cautious-decay":
        base, safe = np.where(u * x >= 0, x * (1 - lr * wd), x), min(safe, margin(u * x))
    else:
        base = x * (1 - lr) if constraint == "convex-combination" else x
    new = base - lr * u
    ahead = mu / (1 - mu) if kind == "extrapolated" else 0.0
    return new, new + ahead * (new - x), safe


def owners(groups, params):
    """The first group whose patterns, exclusions and ndim accept each parameter."""
    def accepts(g, n):
        return (any(fnmatchcase(n, p) for p in g["params"])
                and not any(fnmatchcase(n, p) for p in g.get("exclude", []))
                and g.get("ndim", params[n].ndim) == params[n].ndim)
    return {n: next(g for g in groups if accepts(g, n)) for n in params}


def run(config, params, grads, prev=None, ns=newton_schulz):
    """All steps in float64: (x by name, y by name, smallest sign margin)."""
    options, owner = config.get("step", {}), owners(config["group"], params)
    x = {n: np.asarray(p, np.float64) for n, p in params.items()}
    y, state, safe = dict(x), {n: {} for n in x}, np.inf
    for k, given in enumerate(grads):
        g = {n: np.asarray(v, np.float64) for n, v in given.items()}
        finite = all(np.isfinite(v).all() for v in g.values())
        if not finite and options.get("nonfinite") == "skip":
            continue
        if "max_grad_norm" in options:
            total = math.sqrt(sum(np.sum(v * v) for v in g.values()))
            coef = min(1.0, options["max_grad_norm"] / (total + 1e-6))
            g = {n: v * coef for n, v in g.items()}
        for n in g:
            before = None if prev is None else np.asarray(prev[k][n], np.float64)
            x[n], y[n], s = step(owner[n], state[n], x[n], g[n], before, ns)
            safe = min(safe, s)
    return x, y, safe
