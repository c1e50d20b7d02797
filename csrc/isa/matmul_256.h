// What the matrix kernels on 256-bit registers share. Included inside a kernel's own file.
#pragma once

#include <immintrin.h>

namespace gpt_oss {
namespace {

inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i twice(__m128i x) { return _mm256_broadcastsi128_si256(x); }

inline __m256 round_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
  return _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

// The same 16 bytes of 8 rows, as four registers that each hold four bytes of every row.
template <class Row>
inline void load_transposed(Row row, __m256i (&out)[4]) {
  __m256i z[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) z[i] = _mm256_set_m128i(load16(row(i + 4)), load16(row(i)));
  const __m256i low01 = _mm256_unpacklo_epi32(z[0], z[1]), high01 = _mm256_unpackhi_epi32(z[0], z[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(z[2], z[3]), high23 = _mm256_unpackhi_epi32(z[2], z[3]);
  out[0] = _mm256_unpacklo_epi64(low01, low23);
  out[1] = _mm256_unpackhi_epi64(low01, low23);
  out[2] = _mm256_unpacklo_epi64(high01, high23);
  out[3] = _mm256_unpackhi_epi64(high01, high23);
}

}  // namespace
}  // namespace gpt_oss
