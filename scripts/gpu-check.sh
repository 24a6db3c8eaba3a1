#!/usr/bin/env bash
# What there is to know on a machine with an NVIDIA card, in six minutes, from binaries built elsewhere.
#
#   scripts/gpu-check.sh --pack DIR                    where cargo is: the binaries, into DIR
#   scripts/gpu-check.sh [--only STAGE,..] OUT [BIN]   on the card: runs the stages, writes seven files into OUT
#
# BIN is a folder that --pack wrote, or cargo's own [default: $ORTHANT_BIN, else target/release]. --only takes the stages'
# names or what stands before their dash: `--only parity,sanitizer`. OUT/summary.json has a row a stage: `ok` is true, false,
# or null where the stage says nothing about Orthant, because a tool is missing, this machine refuses it, or no time was left.
# BUDGET_S seconds [default: 360] are never overrun. Exit: 0, 1 if any row is false, 2 usage.
set -euo pipefail
export LC_ALL=C PYTHONUTF8=1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { printf 'gpu-check: %s\n' "$*" >&2; exit 2; }

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

# Where cargo is.

# built KIND NAME: the path of that executable, from cargo's messages on stdin.
built() {
    python3 -c '
import json, sys
kind, name = sys.argv[1:]
found = None
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    target = message.get("target", {})
    if message.get("executable") and kind in target["kind"] and target["name"] == name:
        found = message["executable"]
sys.exit(f"cargo built no {kind} {name}") if found is None else print(found)' "$@"
}

# keep FROM NAME: without debug information, which is most of a binary.
keep() {
    strip --strip-debug -o "$dir/$2" "$1" 2>/dev/null || cp "$1" "$dir/$2"
    chmod +x "$dir/$2"
}

pack() {
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    cd "$root"
    local messages=--message-format=json-render-diagnostics path
    path=$(cargo build --release --locked -p orthant --bin orthant $messages | built bin orthant)
    keep "$path" orthant
    path=$(cargo test --release --locked --no-run -p orthant --test cuda $messages | built test cuda)
    keep "$path" cuda-tests
    path=$(cargo test --release --locked --no-run -p orthant --test tensor_cores $messages | built test tensor_cores)
    keep "$path" tensor-tests
    path=$(cargo bench --locked --no-run -p orthant --bench host_cost $messages | built bench host_cost)
    keep "$path" host-cost
    (cd "$dir" && du -ch --apparent-size orthant cuda-tests tensor-tests host-cost)
}

# On the card.

# binary NAME CRATE: as --pack calls it, else the newest that cargo left.
binary() {
    if [[ -x $bin/$1 ]]; then echo "$bin/$1"; return; fi
    local path newest=
    for path in "$bin/deps/$2"-*; do
        if [[ -f $path && -x $path && ${path##*/} != *.* && ( -z $newest || $path -nt $newest ) ]]; then newest=$path; fi
    done
    echo "$newest"
}

# begin STAGE AT_LEAST AT_MOST: whether to run it; then `limit` has its seconds.
begin() {
    stage=$1
    if [[ -n $only && ,$only, != *,$stage,* && ,$only, != *,${stage%%-*},* ]]; then return 1; fi
    printf '\n== %s\n' "$stage" >>"$log"
    log_start=$(stat -c %s "$log") started=$EPOCHREALTIME
    limit=$((BUDGET_S - SECONDS - 5))  # 5 s to kill what does not stop
    if ((limit < $2)); then end null "not run: out of time"; return 1; fi
    limit=$((limit < $3 ? limit : $3))
}

# end OK NOTE: the stage's row, at once, so that a run cut short keeps it.
end() {
    local took=$((${EPOCHREALTIME/./} - ${started/./}))
    python3 - "$out/summary.json" "$stage" "$1" "$took" "$2" <<'PY'
import json, os, sys
path, stage, ok, took, note = sys.argv[1:]
summary = json.load(open(path))
summary["rows"].append({"stage": stage, "ok": json.loads(ok), "seconds": round(int(took) / 1e6, 1), "note": note})
with open(path + ".new", "w") as f:
    json.dump(summary, f, indent=1)
os.replace(path + ".new", path)
PY
    printf '%-20s %-5s %6d.%01d s  %s\n' "$stage" "$1" $((took / 1000000)) $((took / 100000 % 10)) "$2"
    if [[ $1 == false ]]; then
        failed=1
        stage_log | tail -n 20 | sed 's/^/    /'
    fi
}

stage_log() { tail -c "+$((log_start + 1))" "$log"; }

# limited COMMAND..: for `limit` seconds at most; rc is its exit status. In the background, or an interrupt would wait for it.
limited() {
    rc=0
    timeout -k 5 "$limit" "$@" &
    wait $! || rc=$?
    ok=true note=
    if ((rc != 0)); then
        ok=false note="exit $rc"
        if ((rc == 124 || rc == 137)); then note="stopped after $limit s"; fi
    fi
}

# json FILE: FILE must hold an object with rows; their number, or what is wrong, goes to `note`, before what is there.
json() {
    local found
    if found=$(python3 - "$1" 2>&1 <<'PY'
import json, sys
try:
    rows = json.load(open(sys.argv[1]))["rows"]
    if not rows:
        raise ValueError("no rows")
except (OSError, ValueError, KeyError, TypeError) as e:
    sys.exit(f"no result: {type(e).__name__} {e}")
print(f"{len(rows)} rows")
PY
    ); then :; else ok=false; fi
    note="$found${note:+; $note}"
}

machine() {
    if begin machine 2 20; then
        local fields=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu
        if command -v nvidia-smi >/dev/null; then
            limited nvidia-smi "--query-gpu=$fields" --format=csv,noheader >"$tmp/cards" 2>>"$log"
            cat "$tmp/cards" >>"$log"
            if [[ $ok == true ]]; then
                note=$(cut -d, -f1-2 "$tmp/cards" | paste -sd ';')
            else
                ok=null note="refused by this machine ($note)"
            fi
        else
            ok=null note="nvidia-smi not found"
        fi
        if [[ $ok != true ]]; then : >"$tmp/cards"; fi
        merge cards "$fields" "$tmp/cards"
        end $ok "$note"
    fi
    if begin info 2 20; then
        limited "$orthant" info --device cuda --json >"$tmp/info" 2>>"$log"
        cat "$tmp/info" >>"$log"
        json "$tmp/info"
        if [[ $ok == true ]]; then
            merge info "" "$tmp/info"
            if grep -q '"emulated": *true' "$tmp/info"; then note="$note; the software GPU: its times mean nothing"; fi
        fi
        end $ok "$note"
    fi
}

# merge KEY FIELDS FILE: into machine.json, nvidia-smi's CSV under the names of its fields, or a JSON object as it is.
merge() {
    python3 - "$out/machine.json" "$@" <<'PY'
import datetime, importlib.metadata, json, os, platform, sys
path, key, fields, source = sys.argv[1:]
if os.path.exists(path):
    machine = json.load(open(path))
else:
    try:  # importing torch would take seconds
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = None
    now = datetime.datetime.now(datetime.timezone.utc)
    machine = {"date": now.isoformat(timespec="seconds"), "system": f"{platform.system()} {platform.machine()}", "torch": torch}
text = open(source).read()
if fields:
    machine[key] = [dict(zip(fields.split(","), line.split(", "))) for line in text.splitlines()]
else:
    machine[key] = json.loads(text)
json.dump(machine, open(path, "w"), indent=1)
PY
}

parity() {
    if ! begin parity 10 60; then return; fi
    limited "$orthant" parity --device cuda --json >"$out/parity.json" 2>>"$log"
    json "$out/parity.json"
    end $ok "$note"
}

# The kernels as a card newer than this program would run them: from PTX, compiled by the driver.
ptx() {
    if ! begin ptx 10 40; then return; fi
    limited env ORTHANT_PTX=1 "$orthant" parity --device cuda --quick --json >"$tmp/ptx.json" 2>>"$log"
    json "$tmp/ptx.json"
    end $ok "$note"
}

# tests STAGE AT_LEAST AT_MOST BINARY ARGUMENT..
tests() {
    if ! begin "$1" "$2" "$3"; then return; fi
    if [[ -z $4 ]]; then end null "its binary was not found"; return; fi
    limited env ORTHANT_TEST_DEVICE=cuda "$4" "${@:5}" >>"$log" 2>&1
    local result
    result=$(stage_log | grep '^test result:' | tail -n 1) || true
    # Nothing failed where nothing ran.
    if [[ $ok == true && $result != *" "[1-9]*" passed"* ]]; then ok=false note="no test ran"; fi
    note="${result#test result: }${note:+${result:+; }$note}"
    end $ok "$note"
}

# What any program on a card does: allocate, launch, wait. Where it fails under a tool, the machine refuses the tool.
probe='
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
def check(status):
    if status:
        raise SystemExit(f"probe: CUDA error {status}")
ptx = b".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry nothing() { ret; }\n"
device, context, module, kernel, memory = ctypes.c_int(), *(ctypes.c_void_p() for _ in range(3)), ctypes.c_uint64()
check(cuda.cuInit(0))
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(1 << 20)))
check(cuda.cuModuleLoadData(ctypes.byref(module), ptx))
check(cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"nothing"))
check(cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, None, None))
check(cuda.cuCtxSynchronize())
'

sanitizer() {
    local tool path
    path=$(command -v compute-sanitizer || true)
    if [[ -z $path && -x /usr/local/cuda/bin/compute-sanitizer ]]; then path=/usr/local/cuda/bin/compute-sanitizer; fi
    for tool in memcheck racecheck initcheck synccheck; do
        if ! begin sanitizer-$tool 5 30; then continue; fi
        if [[ -z $path ]]; then end null "compute-sanitizer not found"; continue; fi
        local command=("$path" --tool "$tool" --target-processes all --error-exitcode 9 --print-limit 20)
        limited "${command[@]}" "$orthant" parity --device cuda --quick >>"$log" 2>&1
        local verdict=$ok said=$note refused="" summary
        summary=$(stage_log | grep -o '\(ERROR\|RACECHECK\) SUMMARY:.*' | tail -n 1) || true
        if [[ $verdict == false ]]; then
            if stage_log | grep -q "Device not supported"; then refused=1; fi
            limit=$((BUDGET_S - SECONDS - 5 < 20 ? BUDGET_S - SECONDS - 5 : 20))
            if [[ -z $refused && $said == exit* ]] && ((limit > 0)); then
                limited "${command[@]}" python3 -c "$probe" >>"$log" 2>&1
                # Only the probe's own word counts: a finding of the tool in it, or no time for it, is no refusal.
                if [[ $ok == false ]] && stage_log | grep -q '^probe: CUDA error'; then refused=1; fi
            fi
            if [[ -n $refused ]]; then verdict=null said="refused by this machine" summary=; fi
        fi
        end $verdict "${summary}${said:+${summary:+; }$said}"
    done
}

bench() {
    if ! begin bench 20 60; then return; fi
    local sampler=
    if command -v nvidia-smi >/dev/null; then
        # One process a sample: a looping nvidia-smi loses what it has not flushed when it is killed.
        while sleep 1; do nvidia-smi --query-gpu=clocks.sm --format=csv,noheader,nounits -i 0; done >"$tmp/clocks" 2>&1 &
        sampler=$!
    fi
    limited "$orthant" bench --device cuda --json --kernels elementwise >"$out/bench.json" 2>>"$log"
    json "$out/bench.json"
    if [[ -n $sampler ]]; then
        kill "$sampler" 2>/dev/null || true
        wait "$sampler" 2>/dev/null || true
        note="$note; $(grep -x '[0-9]*' "$tmp/clocks" | sort -n | awk '
            { clock[NR] = $1 }
            END { if (!NR) printf "SM clock unknown"
                  else printf "SM clock %d/%d/%d MHz (least, median, most of %d)",
                      clock[1], clock[int((NR + 1) / 2)], clock[NR], NR }')" || true
    fi
    end $ok "$note"
}

# cuBLAS as torch brings it, where the loader would not find one: its file, or nothing.
cublas() {
    python3 - <<'PY'
import ctypes, glob, importlib.util, os
for name in ("libcublas.so.13", "libcublas.so.12"):
    try:
        ctypes.CDLL(name)
        raise SystemExit
    except OSError:
        pass
spec = importlib.util.find_spec("nvidia")
folders = list(spec.submodule_search_locations or []) if spec else []
found = [path for folder in folders for path in sorted(glob.glob(os.path.join(folder, "*", "lib", "libcublas.so.*")))]
print(found[-1] if found else "")
PY
}

# Tensor cores: products and Newton-Schulz beside cuBLAS, whole steps of models.
products() {
    if ! begin products 20 90; then return; fi
    local library
    library=${ORTHANT_CUBLAS:-$(cublas 2>>"$log")} || true
    limited env ${library:+"ORTHANT_CUBLAS=$library"} "$orthant" bench --device cuda --json \
        --kernels gram,square,long,newton-schulz --shapes 24x768x768,24x1024x4096,2048x8192,4096x4096,4096x11008 \
        --set gpt2-124m,llama-1b,cnn-126 --seconds $(((limit - 10) / 3)) >"$out/products.json" 2>>"$log"
    json "$out/products.json"
    if [[ $ok == true ]]; then
        note="$note; $(python3 - "$out/products.json" <<'PY'
import json, statistics, sys
report = json.load(open(sys.argv[1]))
ratios = [row["ratio"] for row in report["rows"] if "ratio" in row]
said = {row["cublas"] for row in report["rows"] if "cublas" in row}
if ratios:
    print(f"cuBLAS {', '.join(sorted(said))} over ours: median {statistics.median(ratios):.2f} of {len(ratios)} rows", end="")
else:
    print("; ".join(sorted(said)) or "no cuBLAS", end="")
if report["left_out"]:
    print(f"; {len(report['left_out'])} left out", end="")
PY
        )" || true
    fi
    end $ok "$note"
}

host_cost() {
    if ! begin host-cost 10 40; then return; fi
    if [[ -z $host_cost ]]; then end null "host-cost not found"; return; fi
    limited env CRITERION_HOME="$tmp/criterion" ORTHANT_TEST_DEVICE=cuda "$host_cost" --bench >>"$log" 2>&1
    # Criterion puts a long name on a line of its own, and the middle of three times is its estimate.
    local times
    times=$(stage_log | awk '
        match($0, /time: +\[/) {
            label = substr($0, 1, RSTART - 1); split(substr($0, RSTART + RLENGTH), value, " ")
            gsub(/^ +| +$/, "", label); if (label == "") label = last
            printf "%s%s %s %s", separator, label, value[3], value[4]; separator = "; "; next
        }
        /^[^ ].*[^ ]$/ { last = $0 }')
    if [[ $ok == true && -z $times ]]; then ok=false note="no times"; fi
    end $ok "${times}${note:+${times:+; }$note}"
}

peers() {
    if ! begin peers 40 100; then return; fi
    limited python3 "$root/benches/peers.py" --orthant "$orthant" --out "$out/peers.json" \
        --seconds $((limit - 3)) >>"$log" 2>&1
    local missing
    missing=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1])).get("note", ""))' \
        "$out/peers.json" 2>/dev/null) || true
    if [[ $ok == true && -n $missing ]]; then
        end null "$missing"
    else
        json "$out/peers.json"
        end $ok "$note"
        if [[ $ok == true ]]; then stage_log; fi
    fi
}

# shellcheck disable=SC2329  # the trap calls it
cleanup() {
    local job
    for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
    rm -rf "$tmp"
}

only='' places=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit ;;
        --pack) [[ $# == 2 && ${#places[@]} == 0 ]] || die "--pack takes one folder"; pack "$2"; exit ;;
        --only) [[ -n ${2-} ]] || die "--only takes stages"; only=$2; shift ;;
        -*) usage >&2; exit 2 ;;
        *) places+=("$1") ;;
    esac
    shift
done
set -- "${places[@]}"
[[ $# == 1 || $# == 2 ]] || { usage >&2; exit 2; }
stages="machine info parity ptx tests tests-tensor tests-card sanitizer-memcheck sanitizer-racecheck sanitizer-initcheck \
sanitizer-synccheck bench products host-cost peers"
for name in ${only//,/ }; do
    [[ " $stages " == *" $name "* || " $stages " == *" $name-"* ]] || die "no stage $name among: $stages"
done
BUDGET_S=${BUDGET_S:-360}
[[ $BUDGET_S =~ ^[1-9][0-9]*$ ]] || die "BUDGET_S is $BUDGET_S, not a number of seconds"
command -v python3 >/dev/null || die "python3 not found"
bin=${2:-${ORTHANT_BIN:-$root/target/release}}
[[ -x $bin/orthant ]] || die "no orthant in $bin"
bin=$(cd "$bin" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$root"  # as cargo does for tests

orthant=$bin/orthant cuda_tests=$(binary cuda-tests cuda) tensor_tests=$(binary tensor-tests tensor_cores)
host_cost=$(binary host-cost host_cost)
log=$out/log.txt tmp=$(mktemp -d) failed=0
trap cleanup EXIT
trap 'exit 130' INT TERM
rm -f "$out"/{summary,machine,parity,bench,products,peers}.json  # of an earlier run, or one could be taken for this one's
: >"$log"
echo '{"rows": []}' >"$out/summary.json"

machine
parity
ptx
tests tests 10 60 "$cuda_tests" --test-threads=4
tests tests-tensor 10 40 "$tensor_tests" --test-threads=8
tests tests-card 20 60 "$cuda_tests" --ignored --test-threads=1
sanitizer
bench
products
host_cost
peers
exit $failed
