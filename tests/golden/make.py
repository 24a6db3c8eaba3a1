"""Generate the golden vectors in tests/golden/cases/ by running the peer optimizers.

To recreate them:

    pip install torch optax lion-pytorch numpy safetensors
    python tests/golden/make.py

Every case is a folder: config.toml, params.safetensors, grads_1..T.safetensors,
prev_grads_1..T.safetensors (mvr only), expected.safetensors (the final parameters),
expected_eval_point.safetensors (extrapolated only) and case.json.

The reference is the peer package itself where there is one (peers.py: torch.optim,
optax, lion-pytorch). Elsewhere it is rules.py, an independent float64 numpy implementation
(for an f32 case: float64 arithmetic on the f32 data, rounded once at the end).
rules.py is also run beside every peer.

Deterministic: each case is seeded by its name. It is redrawn until the peer is within
0.4 of the tests' bar of rules.py (in float32 the peer rounds too), and, where the rule
takes a sign, until every nonzero argument is above 1e-4 of their RMS, so that rounding
cannot flip one; exact zeros are kept. Generation fails if no draw will do.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import rules
from peers import VERSIONS, run_bf16, run_optax, run_torch

CASES = Path(__file__).resolve().parent / "cases"
F32, BF16, F64 = 2e-6, 3.5e-2, 1e-10  # the relative tolerances
GRAD_SCALES = (1.0, 0.3, 2.0, 0.7, 1.5, 0.1)  # of step k, so that norms vary

# Parameter sets.
TINY = {"layer.weight": (7, 13), "layer.bias": (5,), "proj.weight": (1, 9),
        "gate.weight": (9, 1), "tau.weight": (1, 1), "norm.scale": (33,)}
WIDE = {"embed.weight": (16, 40), "blocks.0.attn.weight": (24, 16), "bias": (33,)}
MID = {"embed.weight": (12, 20), "bias": (33,)}
MATS = {"blocks.0.weight": (12, 8), "blocks.1.weight": (7, 13), "row.weight": (1, 9),
        "col.weight": (9, 1), "unit.weight": (1, 1)}
BIGMATS = {"blocks.0.weight": (24, 16), "blocks.1.weight": (10, 20)}
TALL, FLAT, SQUARE = {"w": (40, 16)}, {"w": (16, 40)}, {"w": (32, 32)}


# ---------------------------------------------------------------- writing

def toml_value(v):
    if isinstance(v, dict):
        return "{ " + ", ".join(f"{k} = {toml_value(x)}" for k, x in v.items()) + " }"
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(map(toml_value, v)) + "]"
    return json.dumps(v) if isinstance(v, (str, bool)) else repr(v)


def toml(config):
    tables = [("[step]", config["step"])] if "step" in config else []
    tables += [("[[group]]", g) for g in config["group"]]
    return "\n".join(head + "\n" + "".join(f"{k} = {toml_value(v)}\n" for k, v in t.items())
                     for head, t in tables)


def save(path, tensors, dtype):
    arrays = {n: np.ascontiguousarray(a, dtype).reshape(np.shape(a)) for n, a in tensors.items()}
    save_file(arrays, path)


# ---------------------------------------------------------------- data

def draw(rng, shapes, steps, gaussian, zero_first):
    """Parameters and T gradients: normal, with exact zeros unless `gaussian`.

    The zeros: 5% of each gradient at random; 10% of the elements until some step k
    (so a momentum buffer is exactly zero for k steps, or for ever); the last column
    always and the first row at step 1; whole gradients named in `zero_first` at step 1.
    """
    params = {n: rng.standard_normal(s) for n, s in shapes.items()}
    grads = [{n: GRAD_SCALES[k] * rng.standard_normal(s) for n, s in shapes.items()}
             for k in range(steps)]
    if not gaussian:
        for n, s in shapes.items():
            late = np.where(rng.random(s) < 0.1, rng.integers(1, steps + 1, s), 0)
            for k, g in enumerate(grads):
                keep = (late <= k) & (rng.random(s) > 0.05)
                if n in zero_first and k == 0:
                    keep = np.zeros_like(keep)
                elif len(s) > 1 and min(s) > 2:
                    keep[..., -1] = False
                    keep[0] &= k > 0
                g[n] = np.where(keep, g[n], 0.0)
    return params, grads


# ---------------------------------------------------------------- one case

WORST = {}


def share_of_bar(params, x, expected, tol, roundings):
    """The largest error of x against `expected`, as a share of the bar of the tests."""
    worst = 0.0
    for n, p in params.items():
        p = p.astype(np.float64)
        bar = tol * np.linalg.norm(expected[n] - p) + roundings * 2.0**-24 * np.linalg.norm(p)
        error = np.linalg.norm(x[n] - expected[n])
        worst = max(worst, error / bar if error else 0.0)
    return worst


def case(name, config, shapes, precision="f64", peer=None, tol=None, steps=4,
         gaussian=False, zero_first=(), missing=(), poison=None):
    """Write one case. `config` is one group's keys, a list of groups, or a whole config;
    `missing` holds (step, name) pairs without a gradient, `poison` a step with an inf."""
    if isinstance(config, list):
        config = {"group": config}
    elif "group" not in config:
        config = {"group": [{"params": ["*"], **config}]}
    dtype = np.float32 if precision == "f32" else np.float64
    tol = tol or (F32 if precision == "f32" else F64)
    mvr = any(g.get("estimator", {}).get("kind") == "mvr" for g in config["group"])
    for attempt in range(40):
        rng = np.random.default_rng([zlib.crc32(name.encode()), attempt])
        params, grads = draw(rng, shapes, steps, gaussian, zero_first)
        params = {n: p.astype(dtype) for n, p in params.items()}
        grads = [{n: g.astype(dtype) for n, g in step.items()} for step in grads]
        prev = None
        if mvr:  # close to the previous gradient, with the current one's zeros
            prev = [{n: np.where(g == 0, 0, 0.9 * grads[max(k - 1, 0)][n]
                                 + 0.3 * rng.standard_normal(g.shape)).astype(dtype)
                     for n, g in step.items()} for k, step in enumerate(grads)]
        for k, n in missing:
            del grads[k - 1][n]
        if poison:
            next(iter(grads[poison - 1].values())).flat[0] = np.inf
        x, y, safe = rules.run(config, params, grads, prev)
        if not safe > 1e-4:
            continue
        source, expected = f"rules.py (float64 numpy {VERSIONS['numpy']})", x
        if peer:
            source, expected = peer(config, params, grads)
        WORST[name] = share_of_bar(params, x, expected, tol, steps if precision == "f32" else 0)
        if WORST[name] <= 0.4:
            break
    else:
        raise RuntimeError(f"{name}: no good draw, last at {WORST.get(name)} of the bar")
    folder = CASES / name
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(toml(config))
    save(folder / "params.safetensors", params, dtype)
    for k in range(steps):
        save(folder / f"grads_{k + 1}.safetensors", grads[k], dtype)
        if prev:
            save(folder / f"prev_grads_{k + 1}.safetensors", prev[k], dtype)
    save(folder / "expected.safetensors", expected, dtype)
    if any(np.any(x[n] != y[n]) for n in x):
        save(folder / "expected_eval_point.safetensors", y, dtype)
    record = {"source": source, "steps": steps, "precision": precision, "tolerance": tol}
    (folder / "case.json").write_text(json.dumps(record, indent=2) + "\n")


def both(name, config, shapes, **options):
    case(f"{name}-f32", config, shapes, "f32", **options)
    case(f"{name}-f64", config, shapes, "f64", **options)


def elementwise_cases():
    """Peers: torch.optim.SGD, AdamW, Adagrad, and clip_grad_norm_."""
    sgd = {"algorithm": "sgd", "lr": 0.1}
    both("sgd-plain", sgd, TINY, peer=run_torch, steps=3)
    both("sgd-dampening", {**sgd, "lr": 0.05, "momentum": 0.9, "dampening": 0.25,
                           "weight_decay": 0.05}, TINY, peer=run_torch)
    both("sgd-nesterov", {**sgd, "momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
         WIDE, peer=run_torch)
    case("sgd-maximize-f64", {**sgd, "momentum": 0.7, "weight_decay": 0.1, "maximize": True},
         TINY, peer=run_torch)
    halves = [{"params": ["layer.*"], **sgd, "momentum": 0.9},
              {"params": ["*"], **sgd, "lr": 0.02, "weight_decay": 0.3}]
    # The clipping norm spans both groups; at step 6 it is below the maximum.
    both("clip-two-groups", {"step": {"max_grad_norm": 1.5}, "group": halves}, TINY,
         peer=run_torch, steps=6)

    adamw = {"algorithm": "adamw", "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8,
             "weight_decay": 0.01}
    both("adamw-defaults", adamw, MID, peer=run_torch)
    odd = {**adamw, "lr": 0.03, "betas": [0.8, 0.95], "eps": 1e-2, "weight_decay": 0.2}
    both("adamw-hyper", odd, {**TINY, "logit_scale": ()}, peer=run_torch, steps=6)
    both("adamw-amsgrad", {**odd, "amsgrad": True, "betas": [0.7, 0.6]}, TINY,
         peer=run_torch, steps=6)
    case("adamw-maximize-clip-f64", {"step": {"max_grad_norm": 0.75}, "group": [
        {"params": ["*"], **odd, "maximize": True}]}, TINY, peer=run_torch)
    both("adamw-missing-grads", odd, TINY, peer=run_torch, missing=[
        (1, "layer.bias"), (2, "layer.weight"), (2, "layer.bias"), (4, "tau.weight")])
    case("adamw-nonfinite-skip-f64", {"step": {"nonfinite": "skip"}, "group": [
        {"params": ["*"], **odd}]}, TINY, peer=run_torch, poison=2)
    case("adamw-no-eps-f64", {k: v for k, v in odd.items() if k != "eps"}, TINY,
         zero_first=["tau.weight"])

    adagrad = {"algorithm": "adagrad", "lr": 0.1, "eps": 1e-10}
    both("adagrad-defaults", adagrad, TINY, peer=run_torch)
    odd = {**adagrad, "lr_decay": 0.1, "weight_decay": 0.05, "eps": 1e-2,
           "initial_accumulator_value": 0.3}
    both("adagrad-hyper", odd, MID, peer=run_torch)
    case("adagrad-maximize-f64", {**odd, "maximize": True}, TINY, peer=run_torch)
    case("adagrad-no-eps-f64", {"algorithm": "adagrad", "lr": 0.1}, TINY,
         zero_first=["tau.weight"])


def sign_cases():
    """Peers: optax.sign_sgd, signum, lion, and lion-pytorch."""
    late = {"zero_first": ["tau.weight"]}
    both("sign-sgd", {"algorithm": "sign-sgd", "lr": 0.01}, TINY, peer=run_optax, **late)
    both("sign-sgd-decay", {"algorithm": "sign-sgd", "lr": 0.02, "weight_decay": 0.3,
                            "maximize": True}, TINY, peer=run_optax, **late)
    both("signum", {"algorithm": "signum", "lr": 0.01, "momentum": 0.9}, TINY,
         peer=run_optax, steps=5, **late)
    both("signum-decay", {"algorithm": "signum", "lr": 0.03, "momentum": 0.6,
                          "weight_decay": 0.2}, MID, peer=run_optax, **late)
    lion = {"algorithm": "lion", "lr": 0.01, "betas": [0.9, 0.99], "weight_decay": 0.1}
    both("lion", lion, TINY, peer=run_torch, steps=5, **late)
    both("lion-optax", {**lion, "betas": [0.85, 0.7], "weight_decay": 0.3}, MID,
         peer=run_optax, **late)
    case("lion-maximize-f64", {**lion, "betas": [0.5, 0.9], "maximize": True}, TINY,
         peer=run_torch, **late)
    cautious = {**lion, "lr": 0.05, "weight_decay": 0.5, "cautious_weight_decay": True}
    # The peer does not decay where the update is exactly zero, this format does: the
    # f32 case (the peer's) is free of such zeros, the f64 case (rules.py's) has them.
    case("lion-cautious-f32", cautious, TINY, "f32", peer=run_torch, gaussian=True)
    case("lion-cautious-f64", cautious, TINY, **late)
    nsgd = {"algorithm": "nsgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    both("nsgd", nsgd, TINY, **late)
    case("nsgd-eps-f64", {**nsgd, "momentum": 0.5, "eps": 3.0}, TINY, **late)
    case("nsgd-missing-grads-f64", nsgd, TINY, missing=[(1, "layer.weight"), (3, "norm.scale")])


def muon_cases():
    """Peer: torch.optim.Muon (bf16). Exact float64 references: rules.py."""
    bf16 = {"algorithm": "muon", "lr": 0.02, "weight_decay": 0.1, "momentum": 0.95,
            "nesterov": True, "ns_steps": 5, "ns_coefficients": "jordan",
            "ns_dtype": "bf16", "eps": 1e-7, "adjust_lr_fn": "original"}
    loose = {"precision": "f32", "tol": BF16, "steps": 3, "gaussian": True}
    case("muon-bf16", bf16, {"w_wide": (24, 64), "w_tall": (64, 24), "w_square": (48, 48)},
         peer=run_torch, **loose)
    case("muon-bf16-match-rms", {**bf16, "momentum": 0.8, "nesterov": False, "lr": 0.1,
                                 "adjust_lr_fn": "match_rms_adamw"}, FLAT, peer=run_torch, **loose)
    case("muon-bf16-unclamped", {**bf16, "ns_steps": 3, "weight_decay": 0.05, "adjust_lr_fn":
                                 "spectral_unclamped"}, TALL, peer=run_torch, **loose)
    case("muon-bf16-coefficients", {**bf16, "ns_coefficients": [3.0, -3.2, 1.2], "ns_steps": 4,
                                    "maximize": True}, SQUARE, peer=run_torch, **loose)
    case("muon-f16", {**bf16, "ns_dtype": "f16", "lr": 0.05}, FLAT, **loose)
    exact = {k: v for k, v in bf16.items() if k != "eps"} | {"ns_dtype": "f64"}
    single = {**exact, "ns_dtype": "f32"}
    case("muon-ns-f32", single, BIGMATS, "f32", steps=3)
    case("muon-ns-f32-polar-express", {**single, "ns_coefficients": "polar-express",
                                       "adjust_lr_fn": "none"}, MATS, "f32", steps=3)

    late = {"zero_first": ["col.weight"], "steps": 3}
    case("muon-exact", exact, MATS, **late)
    case("muon-exact-large", {**exact, "nesterov": False, "momentum": 0.9}, BIGMATS, steps=3)
    for name, change in {
        "match-rms": {"adjust_lr_fn": "match_rms_adamw", "ns_coefficients": "you"},
        "unclamped": {"adjust_lr_fn": "spectral_unclamped", "ns_coefficients": "speedrun"},
        "polar-express": {"adjust_lr_fn": "none", "ns_coefficients": "polar-express"},
        "triple": {"ns_coefficients": [2.0, -1.5, 0.5], "ns_steps": 4, "weight_decay": 0.4},
        "triples": {"ns_coefficients": [[3.5, -4.0, 1.6], [3.0, -3.2, 1.2], [2.0, -1.5, 0.5]],
                    "ns_steps": 3},
        "eps": {"eps": 4.0},
        "cautious": {"cautious_weight_decay": True, "weight_decay": 2.0, "lr": 0.1},
        "maximize": {"maximize": True, "lr": 0.1, "nesterov": False},
    }.items():
        case(f"muon-exact-{name}", {**exact, **change}, MATS, **late)
    case("muon-exact-polar-express-9", {**exact, "ns_coefficients": "polar-express", "ns_steps": 9,
                                        "momentum": 0.6}, {"w": (16, 16)}, steps=3)
    case("muon-missing-grads", exact, MATS, missing=[
        (1, "blocks.0.weight"), (2, "unit.weight"), (3, "blocks.1.weight")])
    gram = {**exact, "ns_method": "gram", "ns_restarts": [2]}
    case("muon-gram", gram, MATS, **late)
    case("muon-gram-polar-express", {**gram, "ns_coefficients": "polar-express", "ns_steps": 6,
                                     "ns_restarts": [1, 3]}, BIGMATS, steps=3)
    case("muon-splits-equal", {**exact, "splits": [8, 8, 8]}, {"qkv.weight": (24, 16)}, steps=3)
    case("muon-splits-unequal", {**exact, "splits": [4, 18, 2], "adjust_lr_fn": "match_rms_adamw",
                                 "cautious_weight_decay": True}, {"qkv.weight": (24, 6)}, steps=3)
    batch = {"experts.weight": (4, 8, 6), "conv.weight": (8, 3, 3, 3), "tall.weight": (20, 2, 3, 1)}
    case("muon-batched-and-conv", exact, batch, steps=3)
    case("muon-batched-and-conv-rms", {**exact, "adjust_lr_fn": "match_rms_adamw",
                                       "nesterov": False}, batch, steps=3)
    ortho = {"algorithm": "orthogonal-sgdm", "lr": 0.05, "weight_decay": 0.2, "momentum": 0.9,
             "ns_coefficients": "jordan", "ns_steps": 5, "ns_dtype": "f64"}
    case("orthogonal-sgdm", ortho, MATS, **late)
    case("orthogonal-sgdm-hyper", {**ortho, "momentum": 0.5, "adjust_lr_fn": "original", "eps": 2.0,
                                   "ns_coefficients": "you", "ns_steps": 4}, MATS, **late)
    case("orthogonal-sgdm-bf16", {**ortho, "ns_dtype": "bf16", "eps": 1e-7,
                                  "weight_decay": 0.02}, TALL,
         peer=run_bf16, **loose)


def composed_cases():
    """Scion, lmo compositions and several groups in one file: rules.py."""
    spectral = {"ns_coefficients": "jordan", "ns_steps": 5}
    scion = {"algorithm": "scion", "lr": 0.05, "momentum": 0.9, "unconstrained": False}
    hidden = {**spectral, "ns_dtype": "f64"}
    late = {"zero_first": ["col.weight"], "steps": 3}
    case("scion", {**scion, **hidden, "scale": 50.0}, MATS, **late)
    case("scion-unconstrained-eps", {**scion, **hidden, "norm": "rms-to-rms", "scale": 3.0,
                                     "unconstrained": True, "eps": 0.5, "ns_steps": 4}, MATS, **late)
    case("scion-bf16", {**scion, **spectral, "ns_dtype": "bf16", "scale": 50.0, "eps": 1e-7},
         FLAT, precision="f32", tol=BF16, steps=3, gaussian=True, peer=run_bf16)
    net = {"embed.weight": (7, 13), "in.weight": (13, 7), "head.weight": (6, 9), "bias": (33,)}
    for tag, eps in (("norms", None), ("norms-eps", 1e-2)):
        def group(name, kind, **keys):
            return {"params": [name], **scion, **keys, "norm": kind,
                    **({"eps": eps} if eps and kind != "sign" else {})}
        groups = [group("embed.weight", "rows", scale=2.0),
                  group("in.weight", "columns", scale=0.5, momentum=0.7),
                  group("head.weight", "sign", scale=30.0, unconstrained=True),
                  group("bias", "frobenius", scale=1.5, lr=0.01)]
        both(f"scion-{tag}", groups, net, zero_first=["bias"])

    def lmo(kind, norm, constraint=None, est=None, **keys):
        return {"algorithm": "lmo", "lr": 0.05, "estimator": {"kind": kind, **(est or {})},
                "norm": norm, **({"constraint": {"kind": constraint}} if constraint else {}),
                **({**hidden} if norm in ("spectral", "rms-to-rms") else {}), **keys}
    both("lmo-none-frobenius-rms", lmo("none", "frobenius", "none", scale="rms"), TINY, steps=3)
    case("lmo-heavy-ball-sign", lmo("heavy-ball", "sign", "decay", {"momentum": 0.8}, scale=0.5,
                                    weight_decay=0.4), TINY)
    case("lmo-ema-alpha-rows-rms", lmo("ema", "rows", "cautious-decay", {"alpha": 0.3}, scale="rms",
                                       weight_decay=0.5), MATS, **late)
    both("lmo-nesterov-columns", lmo("nesterov", "columns", "convex-combination",
                                     {"momentum": 0.7}), MATS, **late)
    case("lmo-columns-rms", lmo("ema", "columns", scale="rms", est={"momentum": 0.7}), MATS, **late)
    case("lmo-lion-spectral", lmo("lion", "spectral", "decay", {"betas": [0.9, 0.8]},
                                  scale="original", weight_decay=0.2), MATS, **late)
    case("lmo-lion-sign-rms", lmo("lion", "sign", "cautious-decay", {"betas": [0.6, 0.9]},
                                  scale="rms", weight_decay=0.2, maximize=True), TINY)
    case("lmo-spectral-rms", lmo("nesterov", "spectral", est={"momentum": 0.9}, scale="rms",
                                 ns_coefficients="polar-express"), MATS, **late)
    case("lmo-rms-to-rms", lmo("heavy-ball", "rms-to-rms", "convex-combination",
                               {"momentum": 0.5}, scale=7.0), MATS, **late)
    conv = {"experts.weight": (4, 8, 6), "conv.weight": (8, 3, 3, 3)}
    case("lmo-conv-rms-to-rms", lmo("ema", "rms-to-rms", "decay", {"momentum": 0.5},
                                    weight_decay=0.1), conv, steps=3)
    case("lmo-conv-rows", lmo("ema", "rows", est={"momentum": 0.5}, scale="rms"), conv, steps=3)
    # alpha = 0.5 in f32: y = x + (1 - alpha) / alpha * dx must not blow rounding up
    both("lmo-extrapolated", lmo("extrapolated", "frobenius", "decay", {"alpha": 0.5},
                                 scale="rms", weight_decay=0.3), TINY)
    case("lmo-extrapolated-spectral", lmo("extrapolated", "spectral", "decay", {"alpha": 0.2},
                                          scale="match_rms_adamw", weight_decay=0.1), MATS, **late)
    both("lmo-mvr", lmo("mvr", "frobenius", est={"alpha": 0.4}, scale="none"), TINY)
    case("lmo-mvr-spectral", lmo("mvr", "spectral", "decay", {"alpha": 0.1}, weight_decay=0.2,
                                 scale="spectral_unclamped"), MATS, **late)
    case("lmo-mvr-sign", lmo("mvr", "sign", "convex-combination", {"alpha": 0.3}, scale=2.0), TINY)

    net = {"embed.weight": (9, 6), "blocks.0.attn.weight": (8, 6), "blocks.0.attn.bias": (8,),
           "blocks.0.mlp.weight": (6, 8), "blocks.1.gate": (4, 5), "head.weight": (5, 9)}
    adamw = {"algorithm": "adamw", "lr": 0.01, "betas": [0.9, 0.95], "eps": 1e-8,
             "weight_decay": 0.1}
    groups = [{"name": "hidden", "params": ["blocks.*.weight", "*.gate"], "exclude": ["*.mlp.*"],
               "algorithm": "muon", "lr": 0.02, "weight_decay": 0.1, "momentum": 0.9,
               "nesterov": True, **hidden, "adjust_lr_fn": "match_rms_adamw"},
              {"name": "blocks", "params": ["blocks.*"], "ndim": 2, "algorithm": "lion",
               "lr": 0.01, "betas": [0.9, 0.99], "weight_decay": 0.5},
              {"name": "head", "params": ["head.weight"], **scion, "norm": "sign", "scale": 20.0},
              {"params": ["*"], **adamw}]
    case("groups-mixed", {"step": {"max_grad_norm": 1.0, "nonfinite": "error"}, "group": groups},
         net, missing=[(2, "head.weight")])


if __name__ == "__main__":
    shutil.rmtree(CASES, ignore_errors=True)
    for generate in (elementwise_cases, sign_cases, muon_cases, composed_cases):
        generate()
    (CASES / "VERSIONS.json").write_text(json.dumps(VERSIONS, indent=2) + "\n")
    for name, share in WORST.items():
        print(f"{name:32} rules.py is {share:.1e} of the bar from the reference")
    size = sum(f.stat().st_size for f in CASES.rglob("*") if f.is_file())
    print(f"{len(WORST)} cases, {size / 1e6:.2f} MB, {VERSIONS}")
