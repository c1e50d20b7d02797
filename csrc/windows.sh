#!/usr/bin/env bash
# Cross-compiles for Windows all that is not a binding, in the way that MSVC takes too (GPT_OSS_STANDARD), and checks the
# matrix kernels there under Wine (csrc/test/kernel_check.cc):
#   csrc/windows.sh
# It takes x86_64-w64-mingw32-g++-posix and wine (Debian: g++-mingw-w64-x86-64-posix, wine64). It proves the Windows API's
# use and C++'s; it does not prove MSVC, whose own runs are those of .github/workflows/test.yml.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/windows
mkdir -p "$out"
compile() {  # compile FILE [FLAG...]
  local file=$1
  shift
  x86_64-w64-mingw32-g++-posix -std=c++20 -O2 -DGPT_OSS_STANDARD -fno-math-errno -fno-trapping-math -Wall -Wextra \
    -Wno-psabi -Wno-unknown-pragmas -Wno-maybe-uninitialized -Wa,-muse-unaligned-vector-move -Icsrc "$@" \
    -c "$file" -o "$out/$(basename "$file").o"
}
for file in csrc/*.cc csrc/isa/*_plain.cc csrc/test/kernel_check.cc; do
  case $file in *_bindings.cc | csrc/module.cc) continue ;; esac
  compile "$file"
done
# The flags of CMakeLists.txt.
avx2='-mavx2 -mfma -mf16c -mbmi2'
avx512="$avx2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi -mprefer-vector-width=512"
for file in csrc/isa/*.cc; do
  # shellcheck disable=SC2086  # the flags are words
  case $file in
    *_avx2.cc) compile "$file" $avx2 ;;
    *_avxvnni.cc) compile "$file" $avx2 -mavxvnni ;;
    *_avx512.cc) compile "$file" $avx512 ;;
    *_avx512bf16.cc) compile "$file" $avx512 -mavx512bf16 ;;
  esac
done
x86_64-w64-mingw32-g++-posix -static -pthread "$out"/*.o -o "$out/kernel_check.exe"
WINEDEBUG=-all WINEPREFIX="$PWD/$out/wine" wine "$out/kernel_check.exe"
