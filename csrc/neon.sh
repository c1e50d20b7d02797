#!/usr/bin/env bash
# Builds the matrix kernels for Arm on another machine, and checks them there under emulation (csrc/test/kernel_check.cc):
#   csrc/neon.sh
# It takes aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user).
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/neon
mkdir -p "$out"
compile() {  # compile FILE [FLAG...]
  local file=$1
  shift
  aarch64-linux-gnu-g++ -std=c++20 -O3 -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi -Icsrc "$@" \
    -c "$file" -o "$out/$(basename "$file").o"
}
for file in csrc/isa/matmul_plain.cc csrc/matmul.cc csrc/kernels.cc csrc/isa.cc csrc/pool.cc csrc/system.cc csrc/test/kernel_check.cc; do
  compile "$file"
done
# The flags of CMakeLists.txt.
compile csrc/isa/matmul_neon.cc -march=armv8.2-a+dotprod
compile csrc/isa/matmul_i8mm.cc -march=armv8.2-a+dotprod+i8mm+bf16
aarch64-linux-gnu-g++ -static -pthread "$out"/*.o -o "$out/kernel_check"
qemu-aarch64 -cpu max "$out/kernel_check"
qemu-aarch64 -cpu neoverse-n1 "$out/kernel_check"  # no I8MM
