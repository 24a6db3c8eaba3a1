"""Runs the peer packages on one case: torch.optim, optax, lion-pytorch.

Each function takes (config, params, grads) and returns (source, final parameters).
"""

import platform
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from lion_pytorch import Lion
from lion_pytorch.cautious_lion import Lion as CautiousLion
from torch.optim._muon import _zeropower_via_newtonschulz

import rules

jax.config.update("jax_enable_x64", True)
torch.set_num_threads(1)

VERSIONS = {p: version(p).split("+")[0]
            for p in ("torch", "optax", "jax", "lion-pytorch", "numpy")}
VERSIONS["python"] = platform.python_version()


def torch_optimizer(group, params):
    lr, wd = group["lr"], group.get("weight_decay", 0.0)
    def keys(*names):
        return {k: group[k] for k in names if k in group}
    match group["algorithm"]:
        case "sgd":
            return torch.optim.SGD(params, lr, weight_decay=wd, **keys(
                "momentum", "dampening", "nesterov", "maximize"))
        case "adamw":
            return torch.optim.AdamW(params, lr, weight_decay=wd, **keys(
                "betas", "eps", "amsgrad", "maximize"))
        case "adagrad":
            return torch.optim.Adagrad(params, lr, weight_decay=wd, **keys(
                "lr_decay", "initial_accumulator_value", "eps", "maximize"))
        case "muon":
            coefs = group["ns_coefficients"]
            return torch.optim.Muon(
                params, lr, weight_decay=wd,
                ns_coefficients=rules.JORDAN if coefs == "jordan" else tuple(coefs),
                **keys("momentum", "nesterov", "eps", "ns_steps", "adjust_lr_fn"))
        case "lion" if group.get("cautious_weight_decay"):
            return CautiousLion(params, lr, tuple(group["betas"]), wd,
                                cautious_factor=1.0, cautious_wd=True)
        case "lion":
            return Lion(params, lr, tuple(group["betas"]), wd)


def run_torch(config, params, grads):
    x = {n: torch.nn.Parameter(torch.tensor(p)) for n, p in params.items()}
    owner = rules.owners(config["group"], params)
    optimizers = [torch_optimizer(g, [x[n] for n in x if owner[n] is g])
                  for g in config["group"]]
    options = config.get("step", {})
    for given in grads:
        for n in x:  # a missing gradient is p.grad = None
            x[n].grad = torch.tensor(given[n]) if n in given else None
        if options.get("nonfinite") == "skip" and not all(
                np.isfinite(g).all() for g in given.values()):
            continue  # as GradScaler: the whole step is left out
        if "max_grad_norm" in options:
            torch.nn.utils.clip_grad_norm_(x.values(), options["max_grad_norm"])
        for n in x:  # Muon and Lion have no `maximize`
            if owner[n].get("maximize") and owner[n]["algorithm"] in ("muon", "lion"):
                x[n].grad = -x[n].grad
        for optimizer in optimizers:
            optimizer.step()
    names = []
    for o in optimizers:
        module = type(o).__module__.split(".")
        names.append(f"lion-pytorch {VERSIONS['lion-pytorch']} {type(o).__name__}"
                     if module[0] == "lion_pytorch"
                     else f"torch.optim.{type(o).__name__} {VERSIONS['torch']}")
    return " + ".join(dict.fromkeys(names)), {n: p.detach().numpy() for n, p in x.items()}


def run_optax(config, params, grads):
    (group,) = config["group"]
    algorithm, lr, wd = group["algorithm"], group["lr"], group.get("weight_decay", 0.0)
    tail = (optax.add_decayed_weights(wd), optax.scale_by_learning_rate(lr))
    if algorithm == "lion":
        b1, b2 = group["betas"]
        source, rule = "optax.lion", optax.lion(lr, b1, b2, weight_decay=wd)
    elif algorithm == "signum":
        mu = group["momentum"]
        source, rule = "optax.signum", optax.signum(lr, mu)
        if wd:
            rule = optax.chain(optax.ema(mu, debias=False), optax.scale_by_sign(), *tail)
    else:
        source, rule = "optax.sign_sgd", optax.sign_sgd(lr)
        if wd:
            rule = optax.chain(optax.scale_by_sign(), *tail)
    if wd and algorithm != "lion":
        source = f"optax.chain of {source}'s parts and add_decayed_weights"
    x = {n: jnp.asarray(p) for n, p in params.items()}
    state = rule.init(x)
    for given in grads:
        g = {n: jnp.asarray(-v if group.get("maximize") else v) for n, v in given.items()}
        updates, state = rule.update(g, state, x)
        x = optax.apply_updates(x, updates)
    return f"{source} {VERSIONS['optax']}", {n: np.asarray(p) for n, p in x.items()}


def torch_ns(x, group, additive_eps=False):
    """torch.optim.Muon's bf16 Newton-Schulz, in place of rules.newton_schulz."""
    u = _zeropower_via_newtonschulz(torch.tensor(x, dtype=torch.float32), rules.JORDAN,
                                    group["ns_steps"], group["eps"])
    return u.to(torch.float64).numpy()


def run_bf16(config, params, grads):
    """For rules without a package: rules.py around torch's own bf16 Newton-Schulz."""
    source = f"numpy rule around the bf16 Newton-Schulz of torch.optim.Muon {VERSIONS['torch']}"
    return source, rules.run(config, params, grads, ns=torch_ns)[0]
