#!/usr/bin/env bash
# Builds the extension under AddressSanitizer and UndefinedBehaviorSanitizer and runs the cpu backend's tests with it:
#
#   csrc/sanitize.sh path/to/python [pytest arguments]
#
# The interpreter itself is not built so, hence the preload. Leaks are not looked for: CPython keeps memory by design.
set -euo pipefail
python=${1:?usage: csrc/sanitize.sh path/to/python [pytest arguments]}
shift
cd "$(dirname "$0")/.."
module_dir=build/sanitize/module

cmake -S . -B build/sanitize -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGPT_OSS_SANITIZE=ON \
      -DPython_EXECUTABLE="$python"
cmake --build build/sanitize
cmake --install build/sanitize --prefix "$module_dir"

# tests/backends/cpu/conftest.py loads the extension from this folder when it is named.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
GPT_OSS_NATIVE_DIR="$module_dir/gpt_oss/backends/cpu" \
"$python" -m pytest tests/backends/cpu "$@"
