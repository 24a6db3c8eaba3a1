#!/usr/bin/env python3
"""Torch's optimizer steps beside Orthant's, on one CUDA card, in one run: benches/peers.py --orthant PROGRAM --out FILE

Everything is bf16: parameters, gradients and, as torch allocates it, state. The shapes are a few large matrices and many
small vectors, 1e8 elements each, so that no step finds its buffers in the L2. Peers take turns, and each row is the median
of 25 steps between CUDA events: replays of a captured graph (`graph`), and the same calls from Python (`plain`).

`orthant bench` runs before torch and after it. Ratios use only what this run measured, and the slower of Orthant's two
times. `muon` has rows about tensor cores: whole steps of GPT-2's parameters by torch.optim.Muon (with fused AdamW for the
rest), and the standard Newton-Schulz iteration in bf16, compiled and captured, beside one run of Orthant's whole steps. Without torch, or without a card that it sees, the output says so and has no rows; that is no failure.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = [(24, (2048, 2048)), (10_000, (10_000,))]
ROUNDS, STEPS = 5, 5  # 25 timed steps, in five turns
COPY_BYTES = 2_000_000_000
BYTES = {"adamw": 14, "sgd": 10, "lion": 10}  # that one step must read and write for an element
LR, WEIGHT_DECAY, BETAS = 1e-4, 0.1, (0.9, 0.99)
COMPILE_SECONDS = 60
NS_SHAPES = [(24, 768, 768), (24, 1024, 4096), (1, 4096, 4096)]
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # torch's and Orthant's default, five times
GPT2 = [(36, (768, 768)), (12, (768, 768)), (12, (3072, 768)), (12, (768, 3072))]  # c_attn is split into three
GPT2_REST = [(1, (50257, 768)), (1, (1024, 768)), (12, (2304,)), (12, (3072,)), (74, (768,))]
DEVICE = "cuda"


def main():
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orthant", type=Path, metavar="PROGRAM", help="the orthant program; without it, torch alone")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the results, as JSON")
    parser.add_argument("--seconds", type=float, default=100, help="what does not fit in is left out [default: 100]")
    options = parser.parse_args()
    deadline = began + options.seconds

    global torch
    try:
        import torch
        note = None if torch.cuda.is_available() else "torch sees no CUDA card"
    except ImportError as e:
        note = "torch not installed" if e.name == "torch" else f"torch cannot be imported: {e}"
    if note:
        options.out.write_text(json.dumps({"rows": [], "note": note}) + "\n")
        print(f"{note}: nothing to compare")
        return 0

    report = {"torch": torch.__version__, "device": None, "driver": driver_version(), "rows": [], "notes": []}

    def save():  # after every part, so that a run cut short still leaves what it had
        options.out.write_text(json.dumps(report, indent=1) + "\n")

    # Before torch makes its context, and so before it takes memory.
    before = time.monotonic()
    report["orthant_before"] = orthant(options.orthant, deadline)
    reserve = time.monotonic() - before  # the second run will take as long
    report["device"] = torch.cuda.get_device_name()
    save()
    failed = False
    for tensors, shape in CASES:
        failed |= attempt(report, f"{tensors} tensors", lambda: peers(report, tensors, shape))
        save()
    # Last of torch's, because a compilation that is broken off can leave anything behind.
    failed |= attempt(report, "compiled Lion", lambda: compiled(report, *CASES[0], deadline - reserve))
    report["notes"].append(f"torch.compile of {CASES[1][0]} tensors is not tried: it takes minutes")
    save()
    torch.cuda.empty_cache()
    report["muon"] = {"rows": []}
    failed |= attempt(report, "Muon", lambda: muon(report, options.orthant, deadline - reserve))
    save()
    torch.cuda.empty_cache()
    report["orthant_after"] = orthant(options.orthant, deadline)
    ratios(report)
    save()
    print(table(report))
    for side in ("orthant_before", "orthant_after"):
        error = report[side].get("error")
        if error and options.orthant:
            print(f"{side}: {error}")
            failed = True
    return int(failed)


def attempt(report, what, work):
    """True when it failed; the other parts are worth having all the same."""
    try:
        work()
    except Exception as e:
        report["notes"].append(f"{what}: {first_line(e)}")
        return True
    return False


def first_line(error):
    return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"


def driver_version():
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


# Orthant.

def orthant(program, deadline):
    """Its rows for both cases, in one object."""
    if program is None:
        return {"rows": [], "error": "not asked for"}
    merged = {"rows": []}
    for tensors, shape in CASES:
        command = [str(program), "bench", "--device", "cuda", "--json", "--kernels", ",".join(BYTES),
                   "--elements", str(elements(tensors, shape))]
        try:
            run = bench(command + ["--tensors", str(tensors)], deadline)
            one_tensor = run.returncode == 2  # usage: this program does not divide its elements into tensors
            if one_tensor:
                run = bench(command, deadline)
            if run.returncode != 0:
                raise ValueError(f"exit {run.returncode}: {run.stderr.strip()[-500:]}")
            found = json.loads(run.stdout)
            merged["rows"] += [row if one_tensor else {"tensors": tensors, **row} for row in found.pop("rows")]
            merged.update(found)
        except subprocess.TimeoutExpired:
            merged["error"] = "out of time"
        except (OSError, ValueError, KeyError, TypeError) as e:
            merged["error"] = first_line(e)
        if "error" in merged or one_tensor:  # or the second case would be the first once more
            break
    return merged


def bench(command, deadline):
    left = max(1.0, min(30.0, deadline - time.monotonic()))
    return subprocess.run(command, capture_output=True, text=True, timeout=left)


# Torch.

def elements(tensors, shape):
    total = tensors
    for n in shape:
        total *= n
    return total


def buffers(tensors, shape, scale):
    """Allocated one by one, as a model's are."""
    return [torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).mul_(scale) for _ in range(tensors)]


def parameters(tensors, shape):
    params = [torch.nn.Parameter(p) for p in buffers(tensors, shape, 0.02)]
    for p, g in zip(params, buffers(tensors, shape, 1e-3)):
        p.grad = g
    return params


def foreach_lion(params, grads, moments):
    update = torch._foreach_lerp(moments, grads, 1 - BETAS[0])
    torch._foreach_sign_(update)
    torch._foreach_mul_(params, 1 - LR * WEIGHT_DECAY)
    torch._foreach_add_(params, update, alpha=-LR)
    torch._foreach_lerp_(moments, grads, 1 - BETAS[1])


def lion_step(params, rule):
    data, grads = [p.detach() for p in params], [p.grad for p in params]
    moments = [torch.zeros_like(g) for g in grads]
    return lambda: rule(data, grads, moments)


def adamw_step(params, capturable, **kind):
    # `capturable` keeps the step count on the card, which costs plain steps time, so only captured ones have it.
    return torch.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY, capturable=capturable, **kind).step


def sgd_step(params, **kind):
    return torch.optim.SGD(params, lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY, **kind).step


def peers(report, tensors, shape):
    params = parameters(tensors, shape)
    makers = [
        ("torch fused AdamW", "adamw", lambda graph: adamw_step(params, graph, fused=True)),
        ("torch foreach AdamW", "adamw", lambda graph: adamw_step(params, graph, foreach=True)),
        ("torch fused SGD", "sgd", lambda graph: sgd_step(params, fused=True)),
        ("torch foreach SGD", "sgd", lambda graph: sgd_step(params, foreach=True)),
        ("torch foreach Lion", "lion", lambda graph: lion_step(params, foreach_lion)),
    ]
    entries = []
    for peer, kernel, make in makers:
        entries += prepared(report, peer, kernel, tensors, shape, make)
    report["rows"] += measured(entries)


def prepared(report, peer, kernel, tensors, shape, make):
    """The peer's steps, captured and plain; one that cannot run is a note."""
    entries = []
    for launch in ("graph", "plain"):
        row = {"peer": peer, "kernel": kernel, "launch": launch, "elements": elements(tensors, shape),
               "tensors": tensors, "param": "bf16", "grad": "bf16", "state": "bf16",
               "bytes_per_element": BYTES[kernel]}
        try:
            with torch.no_grad():
                step = make(launch == "graph")
                if launch == "graph":
                    step = captured(step)
                step()
            torch.cuda.synchronize()
            entries.append((row, step))
        except Exception as e:
            report["notes"].append(f"{peer}, {tensors} tensors, {launch}: {first_line(e)}")
    return entries


def captured(step):
    # Off the default stream, as capture demands; the first steps allocate the state, which must not be captured.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(keep=step):  # the graph knows addresses only: without its owner the state would be freed under it
        graph.replay()

    return replay


def measured(entries):
    """The rows with their times, beside the copy's of the same rounds."""
    target, source = (torch.ones(COPY_BYTES // 2, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    copy = {"peer": "torch copy", "kernel": "copy", "launch": "plain", "elements": COPY_BYTES // 2, "tensors": 1,
            "param": "bf16", "grad": None, "state": None, "bytes_per_element": 4}
    entries = [(copy, lambda: target.copy_(source)), *entries]
    times = [[] for _ in entries]
    with torch.no_grad():
        for _ in range(ROUNDS):
            for (_, step), into in zip(entries, times):
                into += intervals(step)
    for (row, _), ns in zip(entries, times):
        row.update(ns=statistics.median(ns), ns_min=min(ns), ns_max=max(ns), repetitions=len(ns))
    rate = rate_of(copy)
    for row, _ in entries:
        row["share_of_copy"] = rate_of(row) / rate
    return [row for row, _ in entries]


def rate_of(row):
    return row["elements"] * row["bytes_per_element"] / row["ns"]


def intervals(step):
    """Nanoseconds of each of STEPS steps. The step before them keeps the card busy: no interval begins on an idle one."""
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(STEPS + 1)]
    for event in events:
        step()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) * 1e6 for a, b in zip(events, events[1:])]


class OutOfTime(BaseException):
    """No Exception: the compiler catches those, and goes on."""


def compiled(report, tensors, shape, deadline):
    limit = min(COMPILE_SECONDS, deadline - time.monotonic() - 10)  # 10 s to measure
    if limit < 5:
        report["notes"].append("torch compiled Lion: no time left to compile it")
        return
    params = parameters(tensors, shape)
    rule = torch.compile(foreach_lion, fullgraph=True, dynamic=False)

    def expired(*_):
        raise OutOfTime

    began = time.monotonic()
    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        with torch.no_grad():
            lion_step(params, rule)()
            torch.cuda.synchronize()
    except OutOfTime:
        report["notes"].append(f"torch compiled Lion: not compiled in {limit:.0f} s")
        return
    except Exception as e:
        report["notes"].append(f"torch compiled Lion: {first_line(e)}")
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    report["notes"].append(f"torch compiled Lion: compiled in {time.monotonic() - began:.1f} s")
    entries = prepared(report, "torch compiled Lion", "lion", tensors, shape, lambda graph: lion_step(params, rule))
    report["rows"] += measured(entries)


# Tensor cores.

def muon(report, program, deadline):
    found = report["muon"]
    found["orthant"] = orthant_muon(program, deadline)
    if program and "error" in found["orthant"]:
        report["notes"].append(f"Orthant's Muon: {found['orthant']['error']}")
    entries = []
    for what, make in [("torch.optim.Muon + fused AdamW", gpt2_step), *((s, newton_schulz_step(s)) for s in NS_SHAPES)]:
        left = deadline - time.monotonic() - 10  # 10 s to measure
        if left < 5:
            report["notes"].append(f"Muon: no time left for {what}")
            continue
        shape = "gpt2-124m" if isinstance(what, str) else "x".join(str(n) for n in (what if what[0] > 1 else what[1:]))
        peer = what if isinstance(what, str) else "torch compiled Newton-Schulz"
        row = {"peer": peer, "kernel": "muon + adamw" if isinstance(what, str) else "newton-schulz", "shape": shape,
               "dtype": "bf16", "torch": torch.__version__}
        step = within(min(left, COMPILE_SECONDS / 2), make, report, f"{peer} {shape}")
        if step:
            entries.append((row, step))
    times = [[] for _ in entries]
    with torch.no_grad():
        for _ in range(ROUNDS):
            for (_, step), into in zip(entries, times):
                into += intervals(step)
    for (row, _), ns in zip(entries, times):
        row.update(ns=statistics.median(ns), ns_min=min(ns), ns_max=max(ns), repetitions=len(ns))
        for ours in found["orthant"]["rows"]:
            if (ours["kernel"], ours["shape"]) == (row["kernel"], row["shape"]):
                row[f"torch_over_orthant_{ours['method']}_{ours['dtype']}"] = row["ns"] / ours["ns"]
        found["rows"].append(row)


def orthant_muon(program, deadline):
    if program is None:
        return {"rows": [], "error": "not asked for"}
    shapes = ",".join("x".join(map(str, shape)) for shape in NS_SHAPES)
    command = [str(program), "bench", "--device", "cuda", "--json", "--kernels", "newton-schulz", "--shapes", shapes,
               "--set", "gpt2-124m", "--seconds", "8"]
    try:
        run = bench(command, deadline)
        if run.returncode != 0:
            raise ValueError(f"exit {run.returncode}: {run.stderr.strip()[-500:]}")
        found = json.loads(run.stdout)
        return {**found, "rows": [row for row in found["rows"] if "ns" in row]}
    except subprocess.TimeoutExpired:
        return {"rows": [], "error": "out of time"}
    except (OSError, ValueError, KeyError, TypeError) as e:
        return {"rows": [], "error": first_line(e)}


def within(seconds, make, report, what):
    """What `make` makes, run once; nothing, and a note, where it fails or takes longer."""
    def expired(*_):
        raise OutOfTime

    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with torch.no_grad():
            step = make()
            step()
        torch.cuda.synchronize()
        return step
    except OutOfTime:
        report["notes"].append(f"{what}: not ready in {seconds:.0f} s")
    except Exception as e:
        report["notes"].append(f"{what}: {first_line(e)}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return None


def gpt2_step():
    hidden = [p for count, shape in GPT2 for p in parameters(count, shape)]
    rest = [p for count, shape in GPT2_REST for p in parameters(count, shape)]
    first = torch.optim.Muon(hidden, lr=0.02)
    second = torch.optim.AdamW(rest, lr=LR, fused=True)

    def step():  # from Python: torch.optim.Muon cannot be captured
        first.step()
        second.step()

    return step


def newton_schulz(x):
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = NS_COEFFICIENTS
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def newton_schulz_step(shape):
    def make():
        (x,) = buffers(1, shape, 1.0)
        rule = torch.compile(newton_schulz, fullgraph=True, dynamic=False)
        return captured(lambda: rule(x))

    return make


# Both.

def ratios(report):
    """`torch_over_orthant`: time for an element over Orthant's, at the same types and, where it was measured, division."""
    runs = [report["orthant_before"]["rows"], report["orthant_after"]["rows"]]
    for row in report["rows"]:
        same = [[o for o in rows if matches(row, o)] for rows in runs]
        for tensors in (row["tensors"], 1):
            found = [o for rows in same for o in rows if o.get("tensors", 1) == tensors]
            if found:
                theirs = max(o["ns"] / o["elements"] for o in found)
                row["torch_over_orthant"] = row["ns"] / row["elements"] / theirs
                row["orthant_tensors"] = tensors
                break


def matches(row, other):
    if any(row[key] != other.get(key) for key in ("kernel", "param", "grad", "state")):
        return False
    return abs(other.get("elements", 0) / row["elements"] - 1) < 0.01


def table(report):
    lines = [f"{report['device']}, driver {report['driver']}, torch {report['torch']}",
             f"{'':26}{'tensors':>8}{'launch':>8}{'ms':>9}{'of copy':>9}{'torch / orthant':>17}"]
    for row in report["rows"]:
        ratio = f"{row['torch_over_orthant']:.2f}" if "torch_over_orthant" in row else "-"
        if row.get("orthant_tensors", row["tensors"]) != row["tensors"]:
            ratio += " *"
        lines.append(f"{row['peer']:26}{row['tensors']:>8}{row['launch']:>8}{row['ns'] / 1e6:>9.3f}"
                     f"{row['share_of_copy']:>9.2f}{ratio:>17}")
    if any("*" in line for line in lines):
        lines.append("* Orthant's time is that of one tensor of as many elements")
    for row in report.get("muon", {}).get("rows", []):
        over = {key.removeprefix("torch_over_orthant_"): value for key, value in row.items() if key.startswith("torch_over")}
        over = ", ".join(f"{value:.2f} {key}" for key, value in over.items()) or "-"
        lines.append(f"{row['peer']} {row['shape']}: {row['ns'] / 1e6:.3f} ms; torch / orthant: {over}")
    return "\n".join(lines + report["notes"])


if __name__ == "__main__":
    sys.exit(main())
