#!/usr/bin/env bash
# Everything a machine with an NVIDIA GPU can tell, in one command and inside nine minutes:
#
#   bash bench/gpu.sh OUTDIR [PEERS]
#
# builds in place, tests what needs a GPU, runs the benchmark. Nothing is downloaded. A step that
# fails, or a package that is missing, does not stop the others; the table comes last.
# OUTDIR: gpu.log (what is printed), gpu.jsonl (the rows), decode.jsonl (whole decoding),
# rounds.jsonl (loops that ask the host less), steps.log (all that the steps said).
# PEERS: a folder with the packages of bench/gpu_peers.py, for comparison. PYTHON: default python3.
set -u
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -d "${2:-.}" ]; then
  echo "usage: bash bench/gpu.sh OUTDIR [PEERS]" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd)
PEERS=${2:+$(cd "$2" && pwd)}
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
exec > >(tee "$OUT/gpu.log") 2>&1
readonly END=$((SECONDS + 525)) # the table and the copying of results fit into what is left
export PYTHONPATH="$PWD:$PWD/python:$PWD/bench" PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR="${TMPDIR:-/tmp}/tapout-gpu/triton"
export FLASHINFER_WORKSPACE_BASE="${TMPDIR:-/tmp}/tapout-gpu"
unset TRITON_INTERPRET TAPOUT_BACKEND
readonly TAIL=15 # lines of a step's log that are printed too
LOG=$(mktemp)
STEPS=()
FAILED=0

# step NAME LIMIT COMMAND...: at most LIMIT seconds, and no more than are left.
step() {
  local name=$1 limit=$2 begin=$SECONDS left=$((END - SECONDS)) status
  shift 2
  if [ "$left" -lt 10 ]; then
    STEPS+=("$name|no time left|0")
    FAILED=1
    return 1
  fi
  echo "== $name: $*"
  # An interrupted pytest still says what failed.
  timeout --signal=INT --kill-after=15 $((limit < left ? limit : left)) "$@" > "$LOG" 2>&1
  status=$?
  tail -n "$TAIL" "$LOG"
  { echo "== $name: $*" && cat "$LOG"; } >> "$OUT/steps.log"
  case $status in
    0) STEPS+=("$name|ok|$((SECONDS - begin))") ;;
    124 | 137) STEPS+=("$name|stopped after its limit|$((SECONDS - begin))") ;;
    *) STEPS+=("$name|failed, rc $status|$((SECONDS - begin))") ;;
  esac
  [ $status -eq 0 ] || FAILED=1
  return $status
}

# skipped NAME WHY: a step this machine has nothing for.
skipped() {
  echo "== $1: left out, $2"
  STEPS+=("$1|$2|0")
}

has() { "$PYTHON" -c "import importlib.util as u; raise SystemExit(u.find_spec('$1') is None)"; }

echo "python: $("$PYTHON" --version 2>&1), $(command -v "$PYTHON")"
if command -v nvidia-smi > /dev/null; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi
for package in torch triton numpy pytest xdist hypothesis pybind11 setuptools; do
  has "$package" || echo "missing: python package $package"
done
for program in nvcc cmake ninja c++ git; do
  command -v "$program" > /dev/null || echo "missing: $program"
done
if ! "$PYTHON" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2> /dev/null; then
  echo "gpu.sh: no GPU: torch is missing or sees none; nothing was built, tested or measured"
  exit 1
fi

# Into the source tree, not into the environment. Triton's kernels work without it. Libraries that
# were built elsewhere are used where there is no nvcc to build them.
LIBRARY=tapout_kernels/_C_cuda.so
if [ -f "$LIBRARY" ] && ! command -v nvcc > /dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
  skipped build "no nvcc, $LIBRARY was brought along"
else
  TAPOUT_CUDA_ARCHITECTURES=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader \
    2> /dev/null | head -n 1 | tr -d .)
  export TAPOUT_CUDA_ARCHITECTURES
  step build 150 "$PYTHON" setup.py -q build_ext --inplace
fi
step environment 30 "$PYTHON" -m tapout_engine env
if [ -n "$PEERS" ]; then # compiled beside the tests, ready for the benchmark
  timeout --kill-after=5 150 "$PYTHON" bench/gpu_peers.py "$PEERS" >> "$OUT/steps.log" 2>&1 &
  COMPILING=$!
fi
if has pytest; then
  OPTIONS=(-q -p no:cacheprovider --continue-on-collection-errors)
  JOBS=$(nproc) # most of the time is compilation
  has xdist && OPTIONS+=(-n $((JOBS < 12 ? JOBS : 12)) --dist loadgroup)
  export TAPOUT_TEST_BACKENDS=reference,triton TAPOUT_TEST_MODEL=skip
  [ -f "$LIBRARY" ] && TAPOUT_TEST_BACKENDS+=,cuda
  step tests 100 "$PYTHON" -m pytest "${OPTIONS[@]}" -m gpu tests
  MATRIX=(tests/test_conformance.py tests/test_law_chi2.py tests/test_invariance.py)
  for backend in cuda triton; do
    if [ $backend = cuda ] && [ ! -f "$LIBRARY" ]; then
      skipped matrix-cuda "no CUDA library"
      continue
    fi
    step "matrix-$backend" 60 "$PYTHON" -m pytest "${OPTIONS[@]}" -m "not gpu and (not slow or sliced)" \
      -k $backend "${MATRIX[@]}"
  done
else
  STEPS+=("tests|no pytest|0")
  FAILED=1
fi
if [ -n "$PEERS" ]; then
  wait "$COMPILING"
fi
if has transformers; then
  step decoding 45 "$PYTHON" bench/gpu_decode.py --out "$OUT/decode.jsonl"
  step rounds 60 "$PYTHON" bench/gpu_decode.py --loops --draft 100m --batch 1 8 \
    --out "$OUT/rounds.jsonl"
else
  skipped decoding "no transformers"
  skipped rounds "no transformers"
fi
readonly SANITIZERS=85 # seconds, if the benchmark can spare them
LEFT=$((END - SECONDS))
[ $LEFT -gt $((SANITIZERS + 90)) ] && LEFT=$((LEFT - SANITIZERS))
step benchmark "$LEFT" "$PYTHON" bench/bench_gpu.py --out "$OUT/gpu.jsonl" \
  --seconds $((LEFT - 25)) ${PEERS:+--peers "$PEERS"}
SANITIZER=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
for tool in memcheck racecheck; do
  if [ -z "$SANITIZER" ]; then
    skipped $tool "no compute-sanitizer"
  elif [ ! -f "$LIBRARY" ]; then
    skipped $tool "no CUDA library"
  else # every tensor is an allocation of its own, so that what lies beyond it is seen
    step $tool 40 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$SANITIZER" --tool $tool \
      --error-exitcode 9 "$PYTHON" bench/gpu_once.py
  fi
done

echo
echo "step          seconds  status"
for line in "${STEPS[@]}"; do
  IFS='|' read -r name status seconds <<< "$line"
  printf '%-12s %8s  %s\n' "$name" "$seconds" "$status"
done
[ -f "$OUT/gpu.jsonl" ] && "$PYTHON" bench/bench_gpu.py --table --out "$OUT/gpu.jsonl"
exit $FAILED
