// What is asked of the operating system: memory by the page, and reading ahead in a mapped file.
#pragma once

#include <cstddef>

namespace gpt_oss {

// Zeroed memory of whole pages, which takes up RAM only where it is written to; null if it is refused.
void* allocate_pages(size_t bytes);
void free_pages(void* pages, size_t bytes);

// Memory of a multiple of 64 bytes, aligned to 64; null if it is refused.
void* allocate_lines(size_t bytes);
void free_lines(void* lines);

// Has the system start reading the file behind [from, from + bytes) without waiting for it. A refusal costs time only.
void will_need(const void* from, size_t bytes);

}  // namespace gpt_oss
