// What compilers name differently: the architecture, and extensions of GNU's language, which gcc and clang have and MSVC
// has not. With GPT_OSS_STANDARD (an option of CMakeLists.txt) any compiler takes MSVC's way, which is how it is tested.
// Macros, so that nothing of it is a function that files of different instruction sets could share.
#pragma once

#if (defined(__x86_64__) || defined(_M_X64)) && !defined(_M_ARM64EC)
#define GPT_OSS_X86_64 1
#elif defined(__aarch64__) && !defined(_WIN32)  // nobody has run the NEON kernels on Windows: plain ones there
#define GPT_OSS_ARM64 1
#endif

// Linux alone hands out the tile registers.
#if defined(GPT_OSS_X86_64) && defined(__linux__)
#define GPT_OSS_AMX 1
#endif

#if (defined(__GNUC__) || defined(__clang__)) && !defined(GPT_OSS_STANDARD)
#define GPT_OSS_GNU 1
#endif

#if defined(GPT_OSS_GNU)
#define GPT_OSS_NOINLINE [[gnu::noinline]]
#define GPT_OSS_PREFETCH(p) __builtin_prefetch(p)
#define GPT_OSS_PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
#elif defined(GPT_OSS_X86_64)
#include <immintrin.h>
#if defined(_MSC_VER)
#define GPT_OSS_NOINLINE __declspec(noinline)
#else
#define GPT_OSS_NOINLINE
#endif
#define GPT_OSS_PREFETCH(p) _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0)
#define GPT_OSS_PREFETCH_L2(p) _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1)
#else
#define GPT_OSS_NOINLINE
#define GPT_OSS_PREFETCH(p) static_cast<void>(p)
#define GPT_OSS_PREFETCH_L2(p) static_cast<void>(p)
#endif
