// See system.h. Windows promises every page that it hands out, so that a cache larger than RAM and page file is refused
// there, where Linux and macOS would hand it out and count what is written.
#include "system.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#if !defined(NOMINMAX)
#define NOMINMAX
#endif
#if !defined(_WIN32_WINNT) || _WIN32_WINNT < 0x0602
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0602  // Windows 8: PrefetchVirtualMemory
#endif
#include <malloc.h>
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#endif

namespace gpt_oss {

#if defined(_WIN32)

void* allocate_pages(size_t bytes) { return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void free_pages(void* pages, size_t) { VirtualFree(pages, 0, MEM_RELEASE); }

void* allocate_lines(size_t bytes) { return _aligned_malloc(bytes, 64); }

void free_lines(void* lines) { _aligned_free(lines); }

void will_need(const void* from, size_t bytes) {
  WIN32_MEMORY_RANGE_ENTRY range = {const_cast<void*>(from), bytes};
  PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
}

#else

void* allocate_pages(size_t bytes) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  return pages == MAP_FAILED ? nullptr : pages;
}

void free_pages(void* pages, size_t bytes) { munmap(pages, bytes); }

void* allocate_lines(size_t bytes) { return std::aligned_alloc(64, bytes); }

void free_lines(void* lines) { std::free(lines); }

void will_need(const void* from, size_t bytes) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(from) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(from) + bytes;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

#endif

}  // namespace gpt_oss
