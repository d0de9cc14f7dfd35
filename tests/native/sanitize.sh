#!/usr/bin/env bash
# The CPU kernels, and the CUDA kernels in the emulator, under AddressSanitizer and UBSan (GCC,
# Linux), and the latter under ThreadSanitizer: `make sanitize`. A copy of the package with a library
# of its own goes to build/sanitize, so the usual build stays as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(cd "${1:?usage: sanitize.sh VENV/bin}" && pwd)
compiler=${CXX:-c++}
build=$PWD/build/sanitize
site=$("$bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")

"$bin/cmake" -S . -B "$build/cmake" -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" \
  -DPython_EXECUTABLE="$bin/python" \
  -DTAPOUT_TORCH_INCLUDE="$site/torch/include" -DTAPOUT_CUDA=OFF -DTAPOUT_SANITIZE=ON
"$bin/cmake" --build "$build/cmake"
rm -rf "$build/site"
mkdir "$build/site"
cp -R tapout_kernels "$build/site"
rm -f "$build/site/tapout_kernels/"*.so
"$bin/cmake" --install "$build/cmake" --prefix "$build/site/tapout_kernels"

# The instrumented library is loaded by a plain python: the runtime comes first, and libstdc++ with
# it, so that the runtime finds the C++ exceptions it wraps.
runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)"
# Leaks are not looked for: python and torch keep memory until the process ends, by design.
# abort_on_error lets pytest's faulthandler say which test it was; --capture=sys leaves the report
# of the sanitizers visible.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1
here=$PWD:$PWD/python:$PWD/tests
export PYTHONPATH=$build/site:$PWD/python TAPOUT_TEST_BACKENDS=cpu

sanitized() {
  LD_PRELOAD=$runtime timeout 400 "$bin/python" "$@"
}

tests() {
  sanitized -m pytest -q --capture=sys -p no:cacheprovider -m "not gpu and (not slow or sliced)" \
    -o "pythonpath=$build/site python" "$@"
}

# One file per way into the compiled operators: shapes and laws on the best instruction set, the
# inputs made to break things on every one that runs here.
edges=(tests/test_fuzz.py tests/test_inputs.py tests/test_invariance.py tests/test_known_answers.py
  tests/engine/test_native*.py)
tests "${edges[@]}" tests/test_conformance.py tests/test_verify_rules.py tests/test_peers.py \
  tests/test_stop_rules.py tests/test_wrong_arguments.py
best=$(sanitized -c "from tapout_kernels.backends import cpu_isa; print(cpu_isa())")
for isa in scalar avx2 avx512; do
  [[ $isa == "$best" ]] && break
  TAPOUT_CPU_ISA=$isa tests "${edges[@]}"
done

# The emulated library is compiled without the runtime in front of the compiler.
export TAPOUT_TEST_BACKENDS=cuda_emulated TAPOUT_EMULATION_SANITIZER=address
PYTHONPATH=$here "$bin/python" -c "from helpers import emulation; emulation.library()"
tests "${edges[@]}" tests/test_cuda_launches.py tests/test_layouts.py -k cuda
tests tests/test_conformance.py -k cuda
unset TAPOUT_EMULATION_SANITIZER
PYTHONPATH=$here TAPOUT_TEST_BACKENDS=reference timeout 400 "$bin/python" -m pytest -q \
  -p no:cacheprovider -m slow tests/test_cuda_races.py
