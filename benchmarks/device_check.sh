#!/usr/bin/env bash
# Checks and measures this library on a CUDA device, from a prebuilt folder and without a network, in about 8 minutes.
#
#   benchmarks/device_check.sh BUILD [WHEELS]         the check
#   benchmarks/device_check.sh --pack BUILD FOLDER    copies what the check needs from a build folder
#
#   BUILD    a build folder of a build with CUDA, or a folder that --pack made
#   WHEELS   a folder of wheels with Python diffusers 0.42.1 and what it needs besides torch; without it, and without
#            diffusers in the Python that is found, the rows against Python are left out
#
# Environment: PYTHON (python3), the interpreter whose torch is LibTorch here; DEVICE_CHECK_SECONDS (480), the time limit.
#
# The numbers come first: the tests with the label `cuda`. Then the times: group norm + SiLU against LibTorch, and training
# steps against Python, without and with each of the options of DIFFUSERS_CUDA. A step that does not fit in the time is
# reported as not run. Exit status: 0 all tests passed, 1 a test failed or did not run, 2 wrong arguments or an unusable
# build folder, 3 no CUDA device.
set -uo pipefail

# What had never run on a device when this was committed. Remove a name after a check that passed, with the figures in
# docs/performance.md.
never_run=(kernels channels_last async_copies graphs cudnn_benchmark allow_tf32)

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python3}"
limit="${DEVICE_CHECK_SECONDS:-480}"

refuse() { echo "device_check: $1" >&2; exit 2; }

check_build() {  # check_build BUILD
  [ -d "$1" ] || refuse "$1 is not a folder; expected a build folder"
  [ -f "$1/cuda_tests.txt" ] || refuse "$1 has no cuda_tests.txt; expected a configured build folder with tests"
  [ -s "$1/cuda_tests.txt" ] || refuse "$1/cuda_tests.txt is empty: the build was configured without CUDA (DIFFUSERS_WITH_CUDA)"
  [ -x "$1/benchmarks/device_benchmark" ] ||
    refuse "$1 lacks benchmarks/device_benchmark; build the target device_benchmark"
  local program filter
  while read -r program filter; do
    [ -x "$1/$program" ] || refuse "$1 lacks $program; build the target ${program##*/}"
  done <"$1/cuda_tests.txt"
  [ -f "$1/libdiffusers_cuda.so" ] || refuse "$1 lacks libdiffusers_cuda.so; build the target diffusers_cuda"
}

pack() {  # pack BUILD FOLDER
  check_build "$1"
  mkdir -p "$2/lib" "$2/benchmarks" || exit 2
  local program filter library
  while read -r program filter; do
    mkdir -p "$2/${program%/*}"
    strip -o "$2/$program" "$1/$program" || exit 2
  done <"$1/cuda_tests.txt"
  strip -o "$2/benchmarks/device_benchmark" "$1/benchmarks/device_benchmark" || exit 2
  strip -o "$2/libdiffusers_cuda.so" "$1/libdiffusers_cuda.so" && cp "$1/cuda_tests.txt" "$2/" && cp "$here/device_check.sh" "$here/device_steps.py" "$2/benchmarks/" || exit 2
  # The libraries apart from LibTorch's, CUDA's and the C library.
  for program in $(cut -d' ' -f1 "$1/cuda_tests.txt") benchmarks/device_benchmark; do
    ldd "$1/$program" | awk '$3 ~ /^\// {print $3}'
  done | sort -u | grep -vE '/torch/lib/|/nvidia/|/cuda[^/]*/|/lib(c|m|dl|rt|pthread|gcc_s|gomp|stdc\+\+|cu[a-zA-Z]*|nv[a-zA-Z]*)\.so' |
    while read -r library; do cp -L "$library" "$2/lib/"; done
  du -sh "$2"
}

if [ "${1:-}" = --pack ]; then
  [ $# -eq 3 ] || refuse "usage: device_check.sh --pack BUILD FOLDER"
  pack "$2" "$3"
  exit 0
fi
[ $# -ge 1 ] && [ $# -le 2 ] && [ "${1#-}" = "$1" ] || refuse "usage: device_check.sh BUILD [WHEELS]"
build="$1"
wheels="${2:-}"
[[ "$limit" =~ ^[1-9][0-9]*$ ]] || refuse "DEVICE_CHECK_SECONDS is \"$limit\", expected a number of seconds"
check_build "$build"
[ -z "$wheels" ] || [ -d "$wheels" ] || refuse "$wheels is not a folder of wheels"
build="$(cd "$build" && pwd)"

# LibTorch and CUDA's libraries of the Python here come first, as the paths of the machine that built may not exist.
torch_libraries="$("$python" -c 'import glob, os, torch
root = os.path.dirname(torch.__file__)
print(":".join([root + "/lib"] + glob.glob(os.path.dirname(root) + "/nvidia/*/lib")))' 2>/dev/null)"
export LD_LIBRARY_PATH="${torch_libraries:+$torch_libraries:}$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export DIFFUSERS_CUDA_LIBRARY="$build/libdiffusers_cuda.so"
benchmark="$build/benchmarks/device_benchmark"
status=0
"$benchmark" devices >/dev/null || status=$?
if [ "$status" = 3 ]; then
  echo "device_check: there is no CUDA device, so nothing was checked. Never run on a device: ${never_run[*]}"
  exit 3
fi
[ "$status" = 0 ] || refuse "$benchmark does not start (exit status $status); is LibTorch found? LD_LIBRARY_PATH is $LD_LIBRARY_PATH"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export DIFFUSERS_SKIP_CODE=77 CUBLAS_WORKSPACE_CONFIG=:4096:8
left() { echo $((limit - SECONDS)); }
failed=()
: >"$work/not_run"  # a file, as subshells add to it
not_run() { echo "$1" >>"$work/not_run"; }
if command -v nvidia-smi >/dev/null; then nvidia-smi -L; fi

echo "== Tests with the label cuda"
while read -r program filter; do
  name="cuda.${program##*/test_}"
  if [ "$(left)" -lt 10 ]; then not_run "$name"; continue; fi
  status=0
  start=$SECONDS
  timeout "$(left)" "$build/$program" --gtest_brief=1 "--gtest_filter=$filter" </dev/null >"$work/log" 2>&1 || status=$?
  case $status in
    0) result=passed ;;
    77) result="did not run" && not_run "$name" ;;
    124) result="did not end in time" && not_run "$name" ;;
    *) result="FAILED with exit status $status" && failed+=("$name") && cat "$work/log" ;;
  esac
  grep '^SKIPPED: ' "$work/log"
  echo "$name: $result ($((SECONDS - start)) s)"
done <"$build/cuda_tests.txt"

# The last line of JSON of a command, or nothing. measured NAME COMMAND...
measured() {
  local name="$1"
  shift
  if [ "$(left)" -lt 10 ]; then not_run "$name"; return; fi
  if ! timeout "$(left)" "$@" </dev/null >"$work/out" 2>"$work/err"; then
    not_run "$name"
    echo "$name: did not end; $(tail -n 1 "$work/err")" >&2
    return
  fi
  grep '^{' "$work/out"
}
seconds_of() { sed -n 's/.*"seconds": \([0-9.e-]*\).*/\1/p' <<<"$1"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b; else printf "not measured" }'; }

echo "== Group norm + SiLU, forward and backward: LibTorch's time divided by that of the kernels (goal: 5)"
measured group_norm "$benchmark" group_norm --steps 50

has_python=no
if [ -n "$wheels" ]; then
  if "$python" -m venv --system-site-packages "$work/venv" >"$work/log" 2>&1 &&
    "$work/venv/bin/pip" install -q --no-index --find-links "$wheels" diffusers==0.42.1 >"$work/log" 2>&1; then
    python="$work/venv/bin/python"
  else
    echo "Python diffusers was not installed from $wheels: $(tail -n 1 "$work/log")"
  fi
fi
"$python" -c 'import diffusers' >/dev/null 2>&1 && has_python=yes
[ "$has_python" = yes ] || echo "There is no Python diffusers: the ratios to Python are not measured"

ours() {  # ours ROW OPTIONS PRECISION: prints the seconds of a step
  seconds_of "$(DIFFUSERS_CUDA="$2" measured "$1 $3 ${2:-default}" "$benchmark" "$1" --mixed_precision "$3" \
    --folder "$work/training")"
}
peer() {  # peer ROW VARIANT PRECISION
  [ "$has_python" = yes ] || return
  seconds_of "$(measured "$1 $3 python $2" "$python" "$here/device_steps.py" "$1" --mixed_precision "$3" --variant "$2")"
}

all=kernels,channels_last,async_copies,graphs,cudnn_benchmark,allow_tf32
for row in "mnist_step no" "unet_step bf16"; do
  read -r name precision <<<"$row"
  echo "== $name, mixed_precision $precision: seconds of a step, and Python's divided by ours"
  eager="$(peer "$name" eager "$precision")"
  compiled="$(peer "$name" compile "$precision")"
  echo "Python eager: ${eager:-not measured}; compiled: ${compiled:-not measured}"
  for options in "" "$all" kernels channels_last async_copies graphs cudnn_benchmark; do
    own="$(ours "$name" "$options" "$precision")"
    echo "${options:-default}: ${own:-not measured}; against eager $(ratio "${eager:-0}" "${own:-0}")," \
      "against compiled $(ratio "${compiled:-0}" "${own:-0}")"
  done
done
echo "Goals: mnist_step 8 against eager; unet_step 1.3 against eager and 1.05 against compiled"

echo "== $SECONDS s"
tests_passed=yes
if [ "${#failed[@]}" -gt 0 ] || grep -q '^cuda\.' "$work/not_run"; then tests_passed=no; fi
if [ "${#failed[@]}" -gt 0 ] || [ -s "$work/not_run" ]; then
  echo "Failed: ${failed[*]:-none}. Not run in this check: $(paste -sd, "$work/not_run")"
fi
if [ "$tests_passed" = yes ]; then
  echo "Never run on a device before this check: ${never_run[*]:-nothing}. All of it ran in this check"
  exit 0
fi
echo "Never run on a device before this check: ${never_run[*]:-nothing}. It stays so, as tests failed or did not run"
exit 1
