// Vectors of n floats or integers, with the operators of arithmetic: the compiler's own where it has them, else arrays
// and loops, which it may turn into vectors. Included inside an anonymous namespace's file, so every copy is local.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "portable.h"

namespace gpt_oss {
namespace {

#if defined(GPT_OSS_GNU)

template <int n>
struct Lanes {
  typedef float F __attribute__((vector_size(n * 4)));
  typedef int32_t I __attribute__((vector_size(n * 4)));

  static I bits(F x) { return (I)x; }
  static F from_bits(I x) { return (F)x; }
  static F select(I which, F yes, F no) { return which ? yes : no; }
};

#else

template <class T, int n>
struct alignas(n * 4) Array {
  T at[n];
};

template <class R, class T, int n, class Op>
inline Array<R, n> each(const Array<T, n>& a, const Array<T, n>& b, Op op) {
  Array<R, n> r;
  for (int i = 0; i < n; ++i) r.at[i] = op(a.at[i], b.at[i]);
  return r;
}

template <class T, int n>
inline Array<T, n> filled(T x) {
  Array<T, n> r;
  for (int i = 0; i < n; ++i) r.at[i] = x;
  return r;
}

// An operator for two vectors, and for a vector and a number on either side. R: what it gives for T.
#define GPT_OSS_OPERATOR(op, R, value)                                                          \
  template <class T, int n>                                                                     \
  inline Array<R, n> operator op(const Array<T, n>& a, const Array<T, n>& b) {                  \
    return each<R>(a, b, [](T x, T y) -> R { return value; });                                  \
  }                                                                                             \
  template <class T, int n>                                                                     \
  inline Array<R, n> operator op(const Array<T, n>& a, std::type_identity_t<T> b) {             \
    return a op filled<T, n>(b);                                                                \
  }                                                                                             \
  template <class T, int n>                                                                     \
  inline Array<R, n> operator op(std::type_identity_t<T> a, const Array<T, n>& b) {             \
    return filled<T, n>(a) op b;                                                                \
  }
GPT_OSS_OPERATOR(+, T, x + y)
GPT_OSS_OPERATOR(-, T, x - y)
GPT_OSS_OPERATOR(*, T, x * y)
GPT_OSS_OPERATOR(&, T, x & y)
GPT_OSS_OPERATOR(<<, T, x << y)
GPT_OSS_OPERATOR(>, int32_t, -static_cast<int32_t>(x > y))
GPT_OSS_OPERATOR(>=, int32_t, -static_cast<int32_t>(x >= y))
GPT_OSS_OPERATOR(<=, int32_t, -static_cast<int32_t>(x <= y))
#undef GPT_OSS_OPERATOR

template <class T, int n>
inline Array<T, n>& operator+=(Array<T, n>& a, const Array<T, n>& b) {
  return a = a + b;
}

template <int n>
struct Lanes {
  using F = Array<float, n>;
  using I = Array<int32_t, n>;

  static I bits(F x) { return std::bit_cast<I>(x); }
  static F from_bits(I x) { return std::bit_cast<F>(x); }
  static F select(I which, F yes, F no) {
    F r;
    for (int i = 0; i < n; ++i) r.at[i] = which.at[i] ? yes.at[i] : no.at[i];
    return r;
  }
};

#endif

}  // namespace
}  // namespace gpt_oss
